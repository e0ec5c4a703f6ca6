"""The tables of a report as rows of text, for both Markdown and HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from eval.compare.comparison import Comparison, Run, RunPair
from eval.compare.report.wording import (
    AVERAGE,
    PERCENT,
    SCORE,
    TOKENS,
    Unit,
    choose_p,
    format_estimate,
    format_p,
    format_value,
)
from eval.statistics.metrics import Resampled
from eval.statistics.paired import PairedAverage, PairedBenchmark


@dataclass(frozen=True)
class Table:
    """A table. The first column is text, the others are numbers."""

    caption: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]


def make_runs_table(comparison: Comparison) -> Table:
    """Each run's model and settings."""
    rows = []
    for index, run in enumerate(comparison.runs):
        generation = run.description.generation
        rows.append(
            (
                run.name + (" (baseline)" if index == 0 else ""),
                run.description.model,
                run.description.backend,
                *(str(generation.get(key)) for key in ("n", "temperature", "max_tokens")),
                run.description.prompt_style,
                run.description.started_at,
            )
        )
    columns = ("run", "model", "backend", "n", "temperature", "max tokens", "prompts", "started")
    return Table("Runs", columns, rows)


def make_pair_table(comparison: Comparison, pair: RunPair, correction: str) -> Table:
    """The paired differences between a run and the baseline."""
    rows = [
        (
            name,
            _format_num_problems(paired),
            f"{paired.num_better:,} / {paired.num_worse:,}",
            *_format_differences(paired, correction),
        )
        for name, paired in pair.benchmarks.items()
    ]
    if len(rows) > 1:
        rows.append((AVERAGE, "", "", *_format_differences(pair.average, correction)))
    return Table(
        "Paired differences",
        (
            "benchmark",
            "problems",
            "better / worse",
            "accuracy",
            "difference, points",
            "p",
            f"p ({correction.capitalize()})",
            "tokens",
            "difference, tokens",
            "p",
            f"p ({correction.capitalize()})",
            "AES",
        ),
        rows,
    )


def make_metrics_tables(comparison: Comparison) -> list[Table]:
    """One table per run, over all of its own problems."""
    return [_make_metrics_table(comparison, run) for run in comparison.runs]


def _make_metrics_table(comparison: Comparison, run: Run) -> Table:
    shown = _shown_metrics(comparison)
    rows = []
    for name in comparison.benchmarks:
        samples = run.samples[name]
        rows.append(
            (
                name,
                f"{samples.num_problems:,} × {samples.samples_per_problem}",
                f"{samples.num_errors:,}",
                *_format_metrics(comparison.metrics[run.name][name], shown),
            )
        )
    if len(rows) > 1:
        rows.append((AVERAGE, "", "", *_format_metrics(comparison.averages[run.name], shown)))
    return Table(run.name, ("benchmark", "problems × n", "errors", *shown), rows)


def _shown_metrics(comparison: Comparison) -> dict[str, tuple[str, Unit]]:
    """Column -> metric and unit. With one sample per problem, avg@n is the accuracy."""
    several = comparison.k > 1
    return {
        "avg@n" if several else "accuracy": ("avg_at_n", PERCENT),
        **({f"pass@{comparison.k}": ("pass_at_k", PERCENT)} if several else {}),
        "tokens": ("tokens", TOKENS),
        "tokens, correct": ("tokens_correct", TOKENS),
        "tokens, not truncated": ("tokens_not_truncated", TOKENS),
        "truncated": ("truncation_rate", PERCENT),
        "no answer": ("no_answer_rate", PERCENT),
    }


def _format_metrics(
    metrics: dict[str, Resampled], shown: dict[str, tuple[str, Unit]]
) -> Sequence[str]:
    return [
        format_estimate(metrics[metric].estimate(), unit.value) for metric, unit in shown.values()
    ]


def _format_differences(paired: PairedBenchmark | PairedAverage, correction: str) -> Sequence[str]:
    cells = []
    for difference, unit in ((paired.accuracy, PERCENT), (paired.tokens, TOKENS)):
        average = isinstance(paired, PairedAverage)
        corrected = None if average else choose_p(difference.test, correction)
        baseline, other = (format_value(v, unit) for v in (difference.baseline, difference.other))
        cells += [
            f"{baseline} → {other}",
            format_estimate(difference.gain.estimate(), unit.gain),
            format_p(difference.test.p),
            format_p(corrected),
        ]
    return [*cells, format_estimate(paired.aes.estimate(), SCORE.value)]


def _format_num_problems(paired: PairedBenchmark) -> str:
    left_out = f" ({paired.num_left_out:,} left out)" if paired.num_left_out else ""
    return f"{paired.num_problems:,}{left_out}"
