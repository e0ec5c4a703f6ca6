"""The report's section on how to read it. docs/evaluation.md has the sources."""

from __future__ import annotations

from eval.compare.comparison import Comparison


def explain_statistics(comparison: Comparison, correction: str) -> list[str]:
    """One paragraph per kind of number in the report."""
    num_tests = len(comparison.pairs) * len(comparison.benchmarks)
    lines = [
        "Differences are paired by problem: the run minus the baseline. Those in accuracy are in "
        "percentage points, those in length in tokens of the response. A problem counts with the "
        "mean over its samples.",
        "Square brackets: 95 % bootstrap intervals over problems. All samples of a problem are "
        "drawn together. An interval says how much the number would change with other problems of "
        "the same kind, not with another training run.",
        "better / worse: number of problems on which the run is correct more often, or less often, "
        "than the baseline.",
        "p of accuracy: McNemar's exact test if both runs have one sample per problem. With more "
        "samples, and for length: a sign-flip permutation test of the problems' mean differences. "
        "For one sample this is the same test as McNemar's.",
        f"p ({correction.capitalize()}): corrected for the number of tests in this report: "
        f"{num_tests} of accuracy and, separately, {num_tests} of length. Significant means below "
        "0.05 after correction. The average is a single test and is not corrected.",
        "AES: relative length saved plus five times relative accuracy gained, against the "
        "baseline; above 0 is better. The AES of the average is computed from the average accuracy "
        "and length.",
    ]
    if len(comparison.benchmarks) > 1:
        lines.append(
            "average: the unweighted mean over the benchmarks shown, resampled within each."
        )
    lines.append(
        "Errors are left out. Differences also leave out every problem for which at least one of "
        "the two runs has no graded sample. tokens, correct: mean over correct responses. tokens, "
        "not truncated: mean over responses that ended before the maximum."
    )
    return lines
