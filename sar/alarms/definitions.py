"""The alarms: what each means, over which rollouts, from which value on, and why from there.

`python -m sar audit --update docs/alarms.md` writes these texts into docs/alarms.md. What each
alarm is worth was measured: `python -m performance.alarms`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sar.alarms.measures import (
    CORRECTNESS,
    GRADER_BOMB,
    LENGTH,
    NO_ANSWER,
    REPETITION,
    REWARD,
    TEMPLATE_MISMATCH,
    UNREADABLE_LABEL,
    is_part,
)
from sar.alarms.windows import Change, Window, compare
from sar.errors import shorten

MIN_Z = 3.0
"""Of changes between two windows. With 8 block means on each side, chance alone gives a z of 3
about once in 200 independent pairs of windows (Student's t with 14 degrees of freedom). Thresholds
of size keep most of these out."""
_RISEN_Z = 2.0
FALLEN_Z = -2.5
"""From here down, correctness has fallen. Harder prompts alone gave -2.9 in a run of the demo, so a
fall alone is no alarm."""
# A term whose values fall as rewards rise is a penalty: nobody earns by raising it.
_PENALTY_CORRELATION = -0.2
_MAX_NAME_CHARS = 40


@dataclass(frozen=True)
class View:
    """What the alarms look at, at the end of a block."""

    start: Window | None
    """The run's first window. None until one more window has come: the two must not overlap."""
    recent: Window
    zero_variance: float | None
    """Share of the latest groups whose rewards are all equal."""
    lag: float | None
    """Checkpoints that the scorer is behind."""


@dataclass(frozen=True)
class Reading:
    """An alarm's value at one moment."""

    value: float
    message: str
    is_sure: bool = True
    """False if chance may have made the value what it is."""


@dataclass(frozen=True)
class Alarm:
    """One alarm. It rings while its value is at the threshold or beyond."""

    name: str
    title: str
    definition: str
    window: str
    threshold: float
    reason: str
    """Of the threshold."""
    clear: float
    """A value that ends the alarm. It lies on the safe side of the threshold, so that the alarm
    does not come and go."""
    read: Callable[[View], Reading | None]
    """The value now. None: it cannot be told yet."""

    def is_beyond(self, value: float) -> bool:
        """True if the value is at the threshold or beyond."""
        return value >= self.threshold if self.is_high else value <= self.threshold

    def is_clear(self, value: float) -> bool:
        """True if the value ends the alarm."""
        return value <= self.clear if self.is_high else value >= self.clear

    @property
    def is_high(self) -> bool:
        """True if high values are the bad ones."""
        return self.threshold > self.clear


_AGAINST_START = "the latest window, against the run's first"
_LATEST = "the latest window"


def _read_length(view: View) -> Reading | None:
    change, correctness = _compare(view, LENGTH), _compare(view, CORRECTNESS)
    if not change or not correctness or change.before <= 0:
        return None
    ratio = change.after / change.before
    message = (
        f"mean response length {change.before:.1f} -> {change.after:.1f} tokens, "
        f"{_describe_correctness(correctness)}"
    )
    is_sure = change.z <= -MIN_Z and correctness.z <= FALLEN_Z
    return Reading(ratio, message, is_sure)


def _read_parts(view: View) -> Reading | None:
    correctness = _compare(view, CORRECTNESS)
    if not correctness or correctness.z >= _RISEN_Z:
        return _find_no_rise(correctness)
    return _find_largest_rise(view, correctness)


def _read_parts_over_correctness(view: View) -> Reading | None:
    correctness = _compare(view, CORRECTNESS)
    if not correctness or correctness.z > FALLEN_Z:
        return _find_no_rise(correctness)
    return _find_largest_rise(view, correctness)


def _find_largest_rise(view: View, correctness: Change) -> Reading:
    """The part of the reward that rose most."""
    assert view.start
    best = Reading(0.0, _describe_correctness(correctness), is_sure=False)
    for name in filter(is_part, view.recent.moments):
        change = compare(view.start, view.recent, name)
        if not change or view.start.correlate_with_reward(name) < _PENALTY_CORRELATION:
            continue
        if change.z >= MIN_Z and change.effect > best.value:
            message = (
                f"{_show(name)} {change.before:.3f} -> {change.after:.3f}, "
                f"{_describe_correctness(correctness)}"
            )
            best = Reading(change.effect, message)
    return best


def _find_no_rise(correctness: Change | None) -> Reading | None:
    """Where rises do not count, as correctness is not as the alarm wants it."""
    if not correctness:
        return None
    return Reading(0.0, _describe_correctness(correctness), is_sure=False)


def _describe_correctness(change: Change) -> str:
    return f"correctness {change.before:.3f} -> {change.after:.3f}"


def _read_no_answer(view: View) -> Reading | None:
    return _read_rise(view, NO_ANSWER, "responses without an answer")


def _read_repetition(view: View) -> Reading | None:
    return _read_rise(view, REPETITION, "repeated text in a response")


def _read_length_in_reward(view: View) -> Reading | None:
    partial, rest = view.recent.partial_correlation()
    now = view.recent.moments[REWARD].variance
    # When all responses are right, little variance is left: what explains it decides little.
    at_start = view.start.moments[REWARD].variance if view.start else 0.0
    share = partial**2 * rest * now / max(now, at_start) if now else 0.0
    message = (
        f"length explains {share:.0%} of the rewards' variance beyond correctness "
        f"(partial correlation {partial:+.2f})"
    )
    return Reading(share, message)


def _read_zero_variance(view: View) -> Reading | None:
    if view.zero_variance is None:
        return None
    return Reading(view.zero_variance, f"{view.zero_variance:.0%} of groups have equal rewards")


def _read_saturation(view: View) -> Reading | None:
    """The part that lost most of its spread. Its mean must have changed, too: a term that hardly
    any response ever earned has no spread to lose."""
    if not view.start:
        return None
    best = Reading(1.0, "no part of the reward has lost its spread", is_sure=False)
    for name, now in view.recent.moments.items():
        change = compare(view.start, view.recent, name) if _can_saturate(name) else None
        before = view.start.moments.get(name)
        if not change or not before or not before.deviation or abs(change.z) < MIN_Z:
            continue
        ratio = now.deviation / before.deviation
        if ratio < best.value:
            message = (
                f"{_show(name)} {change.before:.3f} -> {change.after:.3f}, "
                f"standard deviation {before.deviation:.3f} -> {now.deviation:.3f}"
            )
            best = Reading(ratio, message)
    return best


def _can_saturate(name: str) -> bool:
    return is_part(name) or name == CORRECTNESS


def _read_labels(view: View) -> Reading | None:
    return _read_share(view, UNREADABLE_LABEL, "labels that the grader cannot read")


def _read_bombs(view: View) -> Reading | None:
    return _read_share(view, GRADER_BOMB, "responses that hang or crash a grader")


def _read_mismatch(view: View) -> Reading | None:
    return _read_share(view, TEMPLATE_MISMATCH, "prompts with another template than the server's")


def _read_lag(view: View) -> Reading | None:
    if view.lag is None:
        return None
    return Reading(view.lag, f"the scorer is {view.lag:.1f} checkpoints behind")


def _read_rise(view: View, name: str, what: str) -> Reading | None:
    change = _compare(view, name)
    if not change:
        return None
    message = f"{what}: {change.before:.1%} -> {change.after:.1%}"
    return Reading(change.after - change.before, message, change.z >= MIN_Z)


def _read_share(view: View, name: str, what: str) -> Reading:
    share = view.recent.mean(name)
    return Reading(share, f"{what}: {share:.1%}")


def _compare(view: View, name: str) -> Change | None:
    return compare(view.start, view.recent, name) if view.start else None


def _show(name: str) -> str:
    return shorten(name, _MAX_NAME_CHARS)


ALARMS = (
    Alarm(
        "length_collapse",
        "Length collapse",
        "Responses have become much shorter, and correctness has fallen (z of "
        f"{FALLEN_Z:g} or less): mean length now, divided by mean length at the start.",
        _AGAINST_START,
        threshold=0.6,
        reason="Shorter responses that stay right are what a reward may be for: in the SAR paper "
        "they get up to 45% shorter, and with length terms in the demo half as long.",
        clear=0.7,
        read=_read_length,
    ),
    Alarm(
        "term_rises",
        "A term rises, correctness does not",
        "A term of the reward, SAR or the whole reward has risen, and correctness has not (z below "
        f"{_RISEN_Z:g}). The value is the largest such rise, in standard deviations of a rollout. "
        "SAR counts where the reward is correctness + SAR. Terms that fall as rewards rise do not "
        "count: they are penalties.",
        _AGAINST_START,
        threshold=2.0,
        reason="In the demo's runs that stay right, SAR rises by 0.9 on correctness + 0.2 SAR, and "
        "by 1.75 with a length term beside it.",
        clear=1.5,
        read=_read_parts,
    ),
    Alarm(
        "term_over_correctness",
        "A term rises, correctness falls",
        f"The same rise, while correctness has fallen (z of {FALLEN_Z:g} or less).",
        _AGAINST_START,
        threshold=0.35,
        reason="Together they say that the policy trades right answers for the term. While harder "
        "prompts let correctness fall, no term rose so far in the demo's runs that stay right.",
        clear=0.2,
        read=_read_parts_over_correctness,
    ),
    Alarm(
        "no_answer",
        "No answer",
        "More responses state no answer: their share now, minus their share at the start.",
        _AGAINST_START,
        threshold=0.05,
        reason="Five points are what the accuracy of a run must not lose unnoticed.",
        clear=0.025,
        read=_read_no_answer,
    ),
    Alarm(
        "repetition",
        "Repetition",
        "Responses repeat themselves more: share of a response's 40-character spans that occur "
        "before in it, mean now minus mean at the start. Of a long response, the last 1,000 "
        "characters count.",
        _AGAINST_START,
        threshold=0.1,
        reason="Honest responses to GSM8K repeat 0.4% of their text. A run of the demo came to 5%, "
        "with a repetition in two of five responses, and lost no accuracy.",
        clear=0.05,
        read=_read_repetition,
    ),
    Alarm(
        "length_reward",
        "Length decides the reward",
        "Share of the rewards' variance that length explains and correctness does not: the squared "
        "partial correlation of reward and length given correctness, times the variance that "
        "correctness leaves, divided by the variance now or at the start, whichever is larger.",
        _LATEST,
        threshold=0.5,
        reason="Length then decides more than all else together.",
        clear=0.4,
        read=_read_length_in_reward,
    ),
    Alarm(
        "zero_variance",
        "Zero-variance groups",
        "Share of groups in which all rewards are equal. Their advantages are 0, so they teach "
        "nothing.",
        "the latest 64 groups that are complete",
        threshold=0.95,
        reason="Nineteen in twenty rollouts are then sampled for nothing. A run of the demo with "
        "98% right answers came to nine in ten, which is no fault.",
        clear=0.9,
        read=_read_zero_variance,
    ),
    Alarm(
        "saturation",
        "Saturation",
        "Correctness, SAR, another term or the whole reward has nearly the same value in all "
        "responses, and had not at the start: its standard deviation now, divided by that at the "
        "start. The value is that of the part that lost most. Its mean must have changed (z of "
        f"{MIN_Z:g}).",
        _AGAINST_START,
        threshold=0.25,
        reason="Of a format that three in ten earn at first, that is when all but one in 75 do. "
        "What is left hardly tells responses apart.",
        clear=0.4,
        read=_read_saturation,
    ),
    Alarm(
        "unreadable_labels",
        "Unreadable labels",
        "Share of rollouts whose label the grader cannot read, so that it compares texts.",
        _LATEST,
        threshold=0.02,
        reason="Each such label may call a right answer wrong. Labels that were written for the "
        "grader have none; a few odd ones in a thousand are no reason to stop.",
        clear=0.01,
        read=_read_labels,
    ),
    Alarm(
        "grader_bombs",
        "Grader bombs",
        "Share of responses that use up a grader's time or memory (`timeout` and `crashed`).",
        _LATEST,
        threshold=0.01,
        reason="Of 2,100 known texts, none that is no bomb comes near the time limit. Three in 256 "
        "are no accident.",
        clear=0.005,
        read=_read_bombs,
    ),
    Alarm(
        "template_mismatch",
        "Template mismatch",
        "Share of prompts whose system prompt or chat template is not that of the server's "
        "empty-question prompt. SAR then measures more than the question.",
        _LATEST,
        threshold=0.05,
        reason="A template fits all prompts or none. A few prompts with a system prompt of their "
        "own stay below.",
        clear=0.02,
        read=_read_mismatch,
    ),
    Alarm(
        "scorer_lags",
        "The scorer lags behind",
        "Checkpoints that the scorer is behind: rollouts since `policy_version` changed, divided "
        "by the median number between its changes before, or by a block if that is more. A "
        "server with `--follow` also counts the checkpoints newer than its weights; the larger "
        "number is the value.",
        "the latest 8 changes of `policy_version`",
        threshold=4.0,
        reason="A scorer is one checkpoint behind while it loads the next, and two or three if it "
        "skips some under load.",
        clear=1.0,
        read=_read_lag,
    ),
)
"""All alarms, in the order in which they are shown."""
