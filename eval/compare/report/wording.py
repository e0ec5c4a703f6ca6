"""Numbers and findings in words, shared by the Markdown and the HTML report.

A difference is significant where its corrected p-value is below 5 %. Of one that is not, the
sentence says what the data still admit: no evidence of a difference is no evidence of none.
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
NOTHING = "–"
ALPHA = 1 - CONFIDENCE


@dataclass(frozen=True)
class Unit:
    """How one measure is written."""

    value: Callable[[float], str]
    gain: Callable[[float], str]
    name: str
    """After a gain."""


PERCENT = Unit(lambda v: f"{100 * v:.1f} %", lambda v: _signed(100 * v, 1), "points")
TOKENS = Unit(lambda v: f"{v:,.0f}", lambda v: _signed(v, 0), "tokens")
SCORE = Unit(lambda v: _signed(v, 2), lambda v: _signed(v, 2), "")


def format_value(value: Resampled, unit: Unit) -> str:
    return NOTHING if math.isnan(value.value) else unit.value(value.value)


def format_estimate(estimate: Estimate, write: Callable[[float], str]) -> str:
    """Value and interval, such as `+2.1 [-0.3, +4.5]`."""
    if estimate.value is None:
        return NOTHING
    if estimate.low is None or estimate.high is None:
        return f"{write(estimate.value)} [no interval]"
    return f"{write(estimate.value)} [{write(estimate.low)}, {write(estimate.high)}]"


def format_p(p: float | None) -> str:
    if p is None:
        return NOTHING
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def choose_p(test: SignificanceTest, correction: str) -> float | None:
    """The p-value that decides: an average is one test by itself, and has no other than its own."""
    by_name = {"holm": test.holm, "bonferroni": test.bonferroni}
    found = by_name[correction]
    return test.p if found is None else found


def is_significant(difference: Difference, correction: str) -> bool:
    p = choose_p(difference.test, correction)
    return p is not None and p < ALPHA


def describe_findings(pair: RunPair, correction: str) -> list[str]:
    """A sentence on accuracy and one on length for each benchmark."""
    found = []
    for name, paired in pair.benchmarks.items():
        found.append(_finding(f"{name}, accuracy", paired.accuracy, PERCENT, correction))
        found.append(_finding(f"{name}, length", paired.tokens, TOKENS, correction))
    return found


def summarize_pair(pair: RunPair, correction: str) -> list[str]:
    """The average in words, then which benchmarks differ significantly and which do not."""
    lines = []
    for measure, field, unit, words in (
        ("accuracy", "accuracy", PERCENT, ("lower", "higher")),
        ("length", "tokens", TOKENS, ("shorter", "longer")),
    ):
        if len(pair.benchmarks) > 1:
            average = getattr(pair.average, field)
            lines.append(_finding(f"average, {measure}", average, unit, correction))
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


def _finding(subject: str, difference: Difference, unit: Unit, correction: str) -> str:
    gain, test = difference.gain.estimate(), difference.test
    if gain.value is None or test.p is None:
        return f"{subject}: nothing to compare."
    values = f"{format_value(difference.baseline, unit)} → {format_value(difference.other, unit)}"
    text = f"{subject}: {values}, {unit.gain(gain.value)} {unit.name}"
    if gain.low is None or gain.high is None:
        return f"{text}; too few problems for an interval, so nothing can be said."
    ends = f"{unit.gain(gain.low)} to {unit.gain(gain.high)}"
    ps = f"p {_equals(test.p)}"
    p = choose_p(test, correction)
    if p is not None and p != test.p:
        ps += f", after {correction.capitalize()} {_equals(p)}"
    text = f"{text} (95 % interval {ends}; {test.name}, {ps})"
    if is_significant(difference, correction):
        return f"{text}: significant."
    if test.p < ALPHA:
        text += ": not significant, though by itself it would be; with so many tests one such is "
        return text + "no surprise."
    return f"{text}: not significant; the data admit anything from {ends} {unit.name}."


def _equals(p: float) -> str:
    return format_p(p) if p < 0.001 else f"= {format_p(p)}"


def _signed(value: float, digits: int) -> str:
    text = f"{value:+,.{digits}f}".replace("-", "−")
    return text[1:] if float(text[1:].replace(",", "")) == 0 else text
