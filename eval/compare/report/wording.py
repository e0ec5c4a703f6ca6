"""Numbers and findings in words, for the Markdown and the HTML report.

A difference is significant if its corrected p-value is below 5 %. If it is not, the sentence gives
the differences that the data are compatible with: no evidence of a difference is not evidence of no
difference.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from eval.compare.comparison import RunPair
from eval.statistics.bootstrap import CONFIDENCE
from eval.statistics.metrics import Estimate, Resampled
from eval.statistics.paired import Difference, SignificanceTest

AVERAGE = "average"
UNDEFINED = "–"
ALPHA = 1 - CONFIDENCE


@dataclass(frozen=True)
class Unit:
    """How the values and differences of a measure are written."""

    value: Callable[[float], str]
    gain: Callable[[float], str]
    name: str
    """Unit of a difference, as in `+2.1 points`."""


PERCENT = Unit(lambda v: f"{100 * v:.1f} %", lambda v: _signed(100 * v, 1), "points")
TOKENS = Unit(lambda v: f"{v:,.0f}", lambda v: _signed(v, 0), "tokens")
SCORE = Unit(lambda v: _signed(v, 2), lambda v: _signed(v, 2), "")


def format_value(value: Resampled, unit: Unit) -> str:
    return UNDEFINED if math.isnan(value.value) else unit.value(value.value)


def format_estimate(estimate: Estimate, write: Callable[[float], str]) -> str:
    """A value with its interval, such as `+2.1 [−0.3, +4.5]`."""
    if estimate.value is None:
        return UNDEFINED
    if estimate.low is None or estimate.high is None:
        return f"{write(estimate.value)} [no interval]"
    return f"{write(estimate.value)} [{write(estimate.low)}, {write(estimate.high)}]"


def format_p(p: float | None) -> str:
    if p is None:
        return UNDEFINED
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def choose_p(test: SignificanceTest, correction: str) -> float | None:
    """The p-value that decides significance: the corrected one if there is one, else the plain one.

    An average is a single test, so its p-value is not corrected.
    """
    corrected = {"holm": test.holm, "bonferroni": test.bonferroni}[correction]
    return test.p if corrected is None else corrected


def is_significant(difference: Difference, correction: str) -> bool:
    p = choose_p(difference.test, correction)
    return p is not None and p < ALPHA


def describe_findings(pair: RunPair, correction: str) -> list[str]:
    """For each benchmark, one sentence on accuracy and one on length."""
    found = []
    for name, paired in pair.benchmarks.items():
        found.append(_write_finding(f"{name}, accuracy", paired.accuracy, PERCENT, correction))
        found.append(_write_finding(f"{name}, length", paired.tokens, TOKENS, correction))
    return found


def summarize_pair(pair: RunPair, correction: str) -> list[str]:
    """The average in words, then the benchmarks that differ significantly and those that do not."""
    lines = []
    for measure, field, unit, words in (
        ("accuracy", "accuracy", PERCENT, ("lower", "higher")),
        ("length", "tokens", TOKENS, ("shorter", "longer")),
    ):
        if len(pair.benchmarks) > 1:
            average = getattr(pair.average, field)
            lines.append(_write_finding(f"average, {measure}", average, unit, correction))
        yes, no = [], []
        for name, paired in pair.benchmarks.items():
            difference: Difference = getattr(paired, field)
            if is_significant(difference, correction):
                yes.append(f"{name} ({words[difference.gain.value > 0]})")
            else:
                no.append(name)
        lines.append(f"Significant difference in {measure}: {', '.join(yes) or 'none'}.")
        if no:
            lines.append(f"No significant difference in {measure}: {', '.join(no)}.")
    return lines


def _write_finding(subject: str, difference: Difference, unit: Unit, correction: str) -> str:
    gain, test = difference.gain.estimate(), difference.test
    if gain.value is None or test.p is None:
        return f"{subject}: nothing to compare."
    values = f"{format_value(difference.baseline, unit)} → {format_value(difference.other, unit)}"
    text = f"{subject}: {values}, {unit.gain(gain.value)} {unit.name}"
    if gain.low is None or gain.high is None:
        return f"{text}; too few problems for an interval, so no conclusion is possible."
    ends = f"{unit.gain(gain.low)} to {unit.gain(gain.high)}"
    ps = f"p {_equals(test.p)}"
    p = choose_p(test, correction)
    if p is not None and p != test.p:
        ps += f", after {correction.capitalize()} {_equals(p)}"
    text = f"{text} (95 % interval {ends}; {test.name}, {ps})"
    if is_significant(difference, correction):
        return f"{text}: significant."
    if test.p < ALPHA:
        return (
            f"{text}: not significant; as the only test it would be, but among this many tests one "
            "such p-value is no surprise."
        )
    return (
        f"{text}: not significant; the data are compatible with anything from {ends} {unit.name}."
    )


def _equals(p: float) -> str:
    return format_p(p) if p < 0.001 else f"= {format_p(p)}"


def _signed(value: float, digits: int) -> str:
    text = f"{value:+,.{digits}f}".replace("-", "−")
    return text[1:] if float(text[1:].replace(",", "")) == 0 else text
