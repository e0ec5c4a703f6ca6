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
    rows = [
        (
            run.name + (" (baseline)" if run is comparison.baseline else ""),
            run.description.model,
            run.description.backend,
            *(str(run.description.generation.get(x)) for x in ("n", "temperature", "max_tokens")),
            run.description.prompt_style,
            run.description.started_at,
        )
        for run in comparison.runs
    ]
    columns = ("run", "model", "backend", "n", "temperature", "max tokens", "prompts", "started")
    return Table("Runs", columns, rows)


def make_pair_table(pair: RunPair, correction: str) -> Table:
    """The paired differences between a run and the baseline."""
    corrected = f"p ({correction.capitalize()})"
    rows = [
        (
            name,
            f"{paired.num_problems:,}"
            + (f" ({paired.num_left_out:,} left out)" if paired.num_left_out else ""),
            f"{paired.num_better:,} / {paired.num_worse:,}",
            *_format_differences(paired, correction),
        )
        for name, paired in pair.benchmarks.items()
    ]
    if len(rows) > 1:
        rows.append((AVERAGE, "", "", *_format_differences(pair.average, correction)))
    columns = (
        "benchmark", "problems", "better / worse",
        "accuracy", "difference, points", "p", corrected,
        "tokens", "difference, tokens", "p", corrected, "AES",
    )  # fmt: skip
    return Table("Paired differences", columns, rows)


def make_metrics_tables(comparison: Comparison) -> list[Table]:
    """One table per run, over all of its own problems."""
    return [_make_metrics_table(comparison, run) for run in comparison.runs]


def _make_metrics_table(comparison: Comparison, run: Run) -> Table:
    shown = _choose_metrics(comparison.k)
    rows = [
        (
            name,
            f"{run.samples[name].num_problems:,} × {run.samples[name].samples_per_problem}",
            f"{run.samples[name].num_errors:,}",
            *_format_metrics(comparison.metrics[run.name][name], shown),
        )
        for name in comparison.benchmarks
    ]
    if len(rows) > 1:
        rows.append((AVERAGE, "", "", *_format_metrics(comparison.averages[run.name], shown)))
    return Table(run.name, ("benchmark", "problems × n", "errors", *shown), rows)


def _choose_metrics(k: int) -> dict[str, tuple[str, Unit]]:
    """Column -> metric and unit. With one sample per problem, avg@n is the accuracy."""
    return {
        "avg@n" if k > 1 else "accuracy": ("avg_at_n", PERCENT),
        **({f"pass@{k}": ("pass_at_k", PERCENT)} if k > 1 else {}),
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
        is_average = isinstance(paired, PairedAverage)  # a single test, so not corrected
        corrected = None if is_average else choose_p(difference.test, correction)
        baseline, other = (format_value(v, unit) for v in (difference.baseline, difference.other))
        cells += [
            f"{baseline} → {other}",
            format_estimate(difference.gain.estimate(), unit.gain),
            format_p(difference.test.p),
            format_p(corrected),
        ]
    return [*cells, format_estimate(paired.aes.estimate(), SCORE.value)]
