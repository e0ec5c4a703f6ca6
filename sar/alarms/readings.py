"""What each alarm reads at the end of a block: a value, a message, whether chance explains it."""

from __future__ import annotations

from sar.alarms.alarm import Reading, View
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
from sar.alarms.windows import Change, compare
from sar.errors import shorten

MIN_Z = 3.0
"""Of changes between two windows. With 8 block means on each side, chance alone gives a z of 3
about once in 200 independent pairs of windows (Student's t with 14 degrees of freedom). Thresholds
of size keep most of these out."""
RISEN_Z = 2.0
FALLEN_Z = -2.5
"""From here down, correctness has fallen. Harder prompts alone gave -2.9 in a run of the demo, so a
fall alone is no alarm."""
# A term whose values fall as rewards rise is a penalty: nobody earns by raising it.
_PENALTY_CORRELATION = -0.2
_MAX_NAME_CHARS = 40


def read_correctness(view: View) -> Reading | None:
    """How far correctness is below the run's best window."""
    change = compare(view.best, view.recent, CORRECTNESS) if view.best else None
    if not change:
        return None
    fall = max(0.0, change.before - change.after)
    message = f"correctness {change.before:.3f} at its best -> {change.after:.3f}"
    return Reading(fall, message, change.z <= -MIN_Z)


def read_length(view: View) -> Reading | None:
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


def read_parts(view: View) -> Reading | None:
    correctness = _compare(view, CORRECTNESS)
    if not correctness or correctness.z >= RISEN_Z:
        return _find_no_rise(correctness)
    return _find_largest_rise(view, correctness)


def read_parts_over_correctness(view: View) -> Reading | None:
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


def read_no_answer(view: View) -> Reading | None:
    return _read_rise(view, NO_ANSWER, "responses without an answer")


def read_repetition(view: View) -> Reading | None:
    return _read_rise(view, REPETITION, "repeated text in a response")


def read_length_in_reward(view: View) -> Reading | None:
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


def read_zero_variance(view: View) -> Reading | None:
    if view.zero_variance is None:
        return None
    return Reading(view.zero_variance, f"{view.zero_variance:.0%} of groups have equal rewards")


def read_saturation(view: View) -> Reading | None:
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


def read_labels(view: View) -> Reading | None:
    return _read_share(view, UNREADABLE_LABEL, "labels that the grader cannot read")


def read_bombs(view: View) -> Reading | None:
    return _read_share(view, GRADER_BOMB, "responses that hang or crash a grader")


def read_mismatch(view: View) -> Reading | None:
    return _read_share(view, TEMPLATE_MISMATCH, "prompts with another template than the server's")


def read_lag(view: View) -> Reading | None:
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
