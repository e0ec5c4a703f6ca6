"""What the figures of a report mean, in the report itself. docs/evaluation.md has the sources."""

from __future__ import annotations

from eval.compare.comparison import Comparison


def explain_statistics(comparison: Comparison, correction: str) -> list[str]:
    num_tests = len(comparison.pairs) * len(comparison.benchmarks)
    lines = [
        "Differences are paired by problem and are other minus baseline; accuracy in percentage "
        "points, length in tokens of the response. A problem counts with the mean over its "
        "samples.",
        "In square brackets: 95 % bootstrap intervals over problems, all samples of a problem "
        "drawn together. They say how far the figure would move with other problems of the kind, "
        "not with another training run.",
        "better / worse: problems on which the run is more, or less, often right than the "
        "baseline.",
        "p of accuracy: McNemar's exact test where both runs have one sample of each problem; "
        "with more, and for length, a sign-flip permutation test of the problems' mean "
        "differences, which is the same test as McNemar's for one sample.",
        f"p ({correction.capitalize()}): corrected for the {num_tests} tests of this report on "
        "accuracy, and as many on length. Significant means below 0.05 after correction. The "
        "average is one test by itself and is not corrected.",
        "AES: relative length saved plus five times relative accuracy gained, against the "
        "baseline; above 0 is better. That of the average is of the average accuracy and length.",
    ]
    if len(comparison.benchmarks) > 1:
        lines.append(
            "average: the unweighted mean over the benchmarks shown, resampled within each."
        )
    lines.append(
        "Errors are left out, and so is every problem that has no graded sample in both runs; "
        "tokens, correct: over correct responses; not truncated: over those that ended before "
        "the maximum."
    )
    return lines
