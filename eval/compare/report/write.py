"""Writes the files of a report: report.html, report.md, comparison.json, figures/."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from eval.compare.comparison import Comparison
from eval.compare.report.disagreements import find_disagreements
from eval.compare.report.figures import draw_figures
from eval.compare.report.html import render_html
from eval.compare.report.markdown import render_markdown
from eval.records import write_json
from eval.statistics.metrics import Resampled
from eval.statistics.paired import Difference, PairedAverage, PairedBenchmark


def write_report(
    comparison: Comparison,
    output: Path,
    *,
    correction: str,
    max_disagreements: int,
    seed: int,
) -> None:
    """Writes all files of the report.

    Args:
        correction: "holm" or "bonferroni": decides what the report calls significant. The JSON has
            both.
        max_disagreements: problems to show, for each benchmark and pair of runs. If there are more,
            they are drawn at random.
        seed: of that draw.
    """
    output.mkdir(parents=True, exist_ok=True)
    figures = draw_figures(comparison, output / "figures", correction)
    pictures = [f"figures/{path.stem}.png" for path in figures]
    markdown = render_markdown(comparison, correction, pictures)
    (output / "report.md").write_text(markdown, encoding="utf-8")
    disagreements = find_disagreements(comparison, max_per_benchmark=max_disagreements, seed=seed)
    html = render_html(comparison, correction, figures, disagreements)
    (output / "report.html").write_text(html, encoding="utf-8")
    write_json(output / "comparison.json", comparison_to_json(comparison))


def comparison_to_json(comparison: Comparison) -> dict[str, Any]:
    """All numbers of a comparison. Rates are shares of 1, lengths tokens; null is undefined."""
    return {
        "baseline": comparison.baseline.name,
        "runs": {run.name: str(run.folder) for run in comparison.runs},
        "notes": comparison.notes,
        "k": comparison.k,
        "metrics": {
            run: {
                **{name: _metrics_to_json(found) for name, found in by_benchmark.items()},
                "average": _metrics_to_json(comparison.averages[run]),
            }
            for run, by_benchmark in comparison.metrics.items()
        },
        "pairs": [
            {
                "other": pair.other.name,
                "benchmarks": {name: _benchmark_to_json(p) for name, p in pair.benchmarks.items()},
                "average": _paired_to_json(pair.average),
            }
            for pair in comparison.pairs
        ],
    }


def _metrics_to_json(found: dict[str, Resampled]) -> dict[str, Any]:
    return {name: metric.estimate().to_json() for name, metric in found.items()}


def _benchmark_to_json(paired: PairedBenchmark) -> dict[str, Any]:
    counts = ("num_problems", "num_left_out", "num_better", "num_worse", "samples_per_problem")
    return {**{name: getattr(paired, name) for name in counts}, **_paired_to_json(paired)}


def _paired_to_json(paired: PairedBenchmark | PairedAverage) -> dict[str, Any]:
    return {
        "accuracy": _difference_to_json(paired.accuracy),
        "tokens": _difference_to_json(paired.tokens),
        "aes": paired.aes.estimate().to_json(),
    }


def _difference_to_json(difference: Difference) -> dict[str, Any]:
    values = {"baseline": difference.baseline, "other": difference.other, "gain": difference.gain}
    return {**_metrics_to_json(values), "test": asdict(difference.test)}
