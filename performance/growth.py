"""How scoring time grows with the number of rollouts and with the length of responses.

The model has the bundled model's size, random weights and a longer context. Time should grow
linearly: a slope of 1 in the log-log plot. Attention is quadratic in the length, so the slope is
somewhat larger for long responses.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from performance import workload
from performance.report import Measurement
from performance.scoring import ServedScorer
from performance.workload import SERVER_ENVIRONMENT, ModelShape, Scored, SequencePair, Worker

MAX_EXPONENT = 1.15
SHAPE = ModelShape(vocabulary=872, intermediate=512, num_layers=4)
SHORT_RESPONSE_TOKENS = 16
PROMPT_TOKENS = 24, 40
EMPTY_QUESTION_TOKENS = 16
NUM_WARM_UP_SIZES = 3


@dataclass(frozen=True)
class Sizes:
    """How much to measure."""

    repetitions: int = 5
    nums_rollouts: Sequence[int] = (64, 128, 256, 512, 1024, 2048, 4096)
    response_lengths: Sequence[int] = (64, 128, 256, 512, 1024, 2048)
    rollouts_per_length: int = workload.GROUP_SIZE


QUICK = Sizes(
    repetitions=2,
    nums_rollouts=(6, 12, 24),
    response_lengths=(32, 64, 128),
    rollouts_per_length=2,
)


def measure(quick: bool) -> list[Measurement]:
    """Measures both exponents; about two minutes on two cores, seconds with `quick`."""
    sizes = QUICK if quick else Sizes()
    with Worker(ServedScorer, SHAPE, environment=SERVER_ENVIRONMENT) as scorer:
        return [
            _measure_growth(
                scorer,
                "number of rollouts",
                {n: _draw_rollouts(n, SHORT_RESPONSE_TOKENS, 0.5) for n in sizes.nums_rollouts},
                sizes.repetitions,
            ),
            _measure_growth(
                scorer,
                "length of responses",
                {
                    n: _draw_rollouts(sizes.rollouts_per_length, n, 0)
                    for n in sizes.response_lengths
                },
                sizes.repetitions,
            ),
        ]


def _draw_rollouts(num_rollouts: int, response_tokens: int, sigma: float) -> list[SequencePair]:
    return workload.draw_rollouts(
        num_rollouts,
        SHAPE.vocabulary,
        prompt_tokens=PROMPT_TOKENS,
        empty_question_tokens=EMPTY_QUESTION_TOKENS,
        median_response_tokens=response_tokens,
        length_sigma=sigma,
    )


def _measure_growth(
    scorer: Worker, what: str, rollouts_of: dict[int, list[SequencePair]], repetitions: int
) -> Measurement:
    """The exponent of scoring time as a power of size. Each repetition times all sizes in turn."""
    # In one batch, not in the server's batches, so that planning the packs is measured too.
    sequences_of = {size: workload.list_sequences(rollouts_of[size]) for size in rollouts_of}
    times: dict[int, list[float]] = {size: [] for size in rollouts_of}
    for size in sorted(sequences_of)[:NUM_WARM_UP_SIZES]:
        scorer.ask("score", [sequences_of[size]])
    for repetition in range(repetitions):
        for size, sequences in sequences_of.items():
            scored: Scored = scorer.ask("score", [sequences])
            times[size].append(scored.seconds)
        print(f"growth: {what}: repetition {repetition + 1} of {repetitions}", flush=True)
    sizes = list(times)
    exponents = [
        _fit_exponent(sizes, [times[size][i] for size in sizes]) for i in range(repetitions)
    ]
    return Measurement(
        f"growth with the {what}, exponent",
        exponents,
        "",
        at_most=MAX_EXPONENT,
        details={
            "sizes": sizes,
            "times_s": list(times.values()),
            "tokens": [workload.count_tokens(sequences) for sequences in sequences_of.values()],
            "rollouts": [len(rollouts) for rollouts in rollouts_of.values()],
        },
    )


def _fit_exponent(sizes: Sequence[int], times: Sequence[float]) -> float:
    """The least-squares slope of log time against log size."""
    return float(np.polyfit(np.log(sizes), np.log(times), 1)[0])


def plot(measurements: Sequence[Measurement], path: Path) -> None:
    """Writes a PNG with one panel for each exponent, 1200 x 450 pixels."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    by_rollouts, by_length = measurements
    layout = ConstrainedLayoutEngine(wspace=0.06)
    figure, axes = plt.subplots(1, 2, figsize=(12, 4.5), dpi=100, layout=layout)
    _plot_panel(
        axes[0],
        by_rollouts,
        f"Rollouts, responses of about {SHORT_RESPONSE_TOKENS} tokens",
        "number of rollouts",
    )
    _plot_panel(
        axes[1],
        by_length,
        f"Response length, {by_length.details['rollouts'][0]} rollouts",
        "response length (tokens)",
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    plt.close(figure)


def _plot_panel(axis: Any, measurement: Measurement, title: str, label: str) -> None:
    sizes = measurement.details["sizes"]
    times = measurement.details["times_s"]
    medians = [statistics.median(samples) for samples in times]
    spread = np.array(
        [
            [median - min(samples) for median, samples in zip(medians, times, strict=True)],
            [max(samples) - median for median, samples in zip(medians, times, strict=True)],
        ]
    )
    # The line of slope 1 goes through the geometric mean of the points.
    middle = float(np.exp(np.mean(np.log(np.divide(medians, sizes)))))
    axis.plot(
        sizes,
        [middle * size for size in sizes],
        color="0.6",
        linestyle="--",
        linewidth=1.5,
        label="slope 1: linear",
    )
    axis.errorbar(
        sizes,
        medians,
        yerr=spread,
        fmt="o",
        color="tab:blue",
        markersize=7,
        capsize=4,
        label=f"measured, slope {measurement.value:.2f}",
    )
    axis.set(xscale="log", yscale="log", title=title, xlabel=label, ylabel="time, both passes (s)")
    axis.set_xticks(sizes, [f"{size:,}" for size in sizes], minor=False)
    axis.set_xticks([], minor=True)
    axis.yaxis.set_major_formatter("{x:g}")
    axis.grid(which="major", color="0.9")
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(loc="upper left", frameon=False, fontsize=12)
    for text in (axis.title, axis.xaxis.label, axis.yaxis.label):
        text.set_fontsize(13)
    axis.tick_params(labelsize=11)
