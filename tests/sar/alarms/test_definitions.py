"""Each alarm: what makes it ring, what it says, and what leaves it silent."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from sar.alarms.definitions import ALARMS
from sar.alarms.measures import measure, measure_repetition
from sar.decision import Decision
from sar.grading.verdict import Reason
from sar.terms.base import Sample
from sar.terms.text import Repetition

if TYPE_CHECKING:
    from tests.sar.alarms.conftest import MakeStream, Watch

NUM = 512
TURN = 256


def noisy(low: float, high: float, spread: float) -> Callable[[int], float]:
    """Values around `low` in the first half of a stream and around `high` in the second."""
    rng = random.Random(0)
    return lambda number: rng.gauss(low if number < TURN else high, spread)


def share(before: float, after: float) -> Callable[[int], bool]:
    """True for a share of the rollouts: one before the turn, another after it."""
    rng = random.Random(1)
    return lambda number: rng.random() < (before if number < TURN else after)


def test_names_are_unique_and_texts_whole() -> None:
    assert len({alarm.name for alarm in ALARMS}) == len(ALARMS)
    for alarm in ALARMS:
        assert re.fullmatch(r"[a-z_]+", alarm.name)
        for text in (alarm.definition, alarm.reason):
            assert text.endswith("."), alarm.name
        assert alarm.definition.startswith(alarm.meaning)
        assert re.fullmatch(r"[A-Z][^`]{30,}\.", alarm.meaning), alarm.name
        assert alarm.is_beyond(alarm.threshold)
        assert not alarm.is_beyond(alarm.clear)
        assert alarm.is_clear(alarm.clear)


@pytest.mark.parametrize(
    ("levels", "fires"),
    [
        ([0.9, 0.9, 0.9, 0.5], True),
        ([0.5, 0.95, 0.95, 0.6], True),  # above its start, and far below its best
        ([0.9, 0.9, 0.9, 0.78], False),
        ([0.2, 0.5, 0.8, 0.95], False),
    ],
    ids=["falls", "rises, then falls", "dips", "rises"],
)
def test_correctness_is_compared_with_its_best(
    levels: list[float], fires: bool, stream: MakeStream, watch: Watch
) -> None:
    rng = random.Random(2)
    right = [float(rng.random() < levels[number // 256]) for number in range(1024)]
    states, changes = watch(stream(1024, correctness=lambda number: right[number]), window=128)
    assert (states["correctness_falls"].num_fired > 0) == fires
    means = [sum(right[end - 128 : end]) / 128 for end in range(128, 1025, 16)]
    best = max(means[:-8])  # the last window, of 8 blocks, overlaps the 7 before it
    assert states["correctness_falls"].value == pytest.approx(max(0.0, best - means[-1]))
    if fires:
        first = next(rollout for rollout, name, _ in changes if name == "correctness_falls")
        assert 768 < first <= 768 + 128


@pytest.mark.parametrize(
    ("length", "accuracy", "fires"),
    [(30, 0.3, True), (30, 0.9, False), (75, 0.3, False)],
    ids=["short and wrong", "short and right", "a quarter shorter"],
)
def test_a_collapse_is_short_and_wrong(
    length: float, accuracy: float, fires: bool, stream: MakeStream, watch: Watch
) -> None:
    lengths, right = noisy(100, length, 10), share(0.9, accuracy)
    states, _ = watch(
        stream(
            NUM,
            num_response_tokens=lambda number: round(lengths(number)),
            correctness=lambda number: float(right(number)),
        )
    )
    state = states["length_collapse"]
    assert state.value == pytest.approx(length / 100, abs=0.05)
    assert (state.state == "alarm") is fires
    numbers = r"mean response length \d+\.\d -> \d+\.\d tokens, correctness 0\.\d+ -> 0\.\d+"
    assert re.fullmatch(numbers, state.message)


@pytest.mark.parametrize(
    ("accuracy", "fires"), [((0.7, 0.7), {1}), ((0.7, 0.3), {1, 2}), ((0.4, 0.95), set())]
)
def test_a_term_rises_while_correctness_does_not(
    accuracy: tuple[float, float], fires: set[int], stream: MakeStream, watch: Watch
) -> None:
    values, right = noisy(0.2, 0.6, 0.1), share(*accuracy)
    states, _ = watch(
        stream(
            NUM,
            terms=lambda number: {"mine": values(number)},
            correctness=lambda number: float(right(number)),
        )
    )
    for number, name in enumerate(("term_rises", "term_over_correctness"), 1):
        assert (states[name].state == "alarm") is (number in fires), name
        if number in fires:
            assert "term mine 0." in states[name].message


def test_sar_counts_only_where_it_is_paid(stream: MakeStream, watch: Watch) -> None:
    values = noisy(0.2, 0.6, 0.1)
    drawn = [values(number) for number in range(NUM)]
    paid = stream(NUM, sar=lambda number: drawn[number])
    other = stream(NUM, sar=lambda number: drawn[number], terms={"entropy": -0.1})
    assert watch(paid)[0]["term_rises"].state == "alarm"
    assert watch(other)[0]["term_rises"].state == "ok"


def test_a_penalty_that_rises_earns_nothing(stream: MakeStream, watch: Watch) -> None:
    values = noisy(0.2, 0.6, 0.1)
    drawn = [values(number) for number in range(NUM)]
    states, _ = watch(
        stream(
            NUM,
            terms=lambda number: {"penalty": drawn[number]},
            reward=lambda number: 1 - drawn[number],
        )
    )
    assert states["term_rises"].state == "ok"


@pytest.mark.parametrize(("reason", "name"), [
    (Reason.NO_ANSWER, "no_answer"),
    (Reason.TIMEOUT, "grader_bombs"),
    (Reason.CRASHED, "grader_bombs"),
])  # fmt: skip
def test_reasons_that_become_frequent(
    reason: Reason, name: str, stream: MakeStream, watch: Watch
) -> None:
    is_bad = share(0.0, 0.3)
    decisions = stream(NUM, reason=lambda number: reason if is_bad(number) else Reason.CORRECT)
    states, changes = watch(decisions)
    assert states[name].state == "alarm"
    assert {other for _, other, _ in changes} == {name}


def test_a_share_without_an_answer_from_the_start_is_no_rise(
    stream: MakeStream, watch: Watch
) -> None:
    is_bad = share(0.3, 0.3)
    decisions = stream(NUM, reason=lambda n: Reason.NO_ANSWER if is_bad(n) else Reason.CORRECT)
    assert watch(decisions)[0]["no_answer"].state == "ok"


def test_loops_are_repetition(stream: MakeStream, watch: Watch) -> None:
    is_bad = share(0.0, 0.3)
    loop = "So we add it up again and again. " * 20
    decisions = stream(NUM, response=lambda number: loop if is_bad(number) else "So it is 5.")
    states, changes = watch(decisions)
    assert states["repetition"].state == "alarm"
    assert {name for _, name, _ in changes} == {"repetition"}


@pytest.mark.parametrize("text", ["", "a" * 39, "a" * 40, "So it is 5. " * 30, "你好" * 40, "abc"])
def test_repetition_is_that_of_the_term(text: str, decision: Callable[..., Decision]) -> None:
    one = decision(text)
    sample = Sample(one.prompt, text, one.sample.label, one.verdict, one.likelihood)
    assert measure_repetition(text) == pytest.approx(Repetition(n=40).score(sample))


def test_of_a_long_response_the_end_counts(decision: Callable[..., Decision]) -> None:
    rng = random.Random(0)
    text = "".join(chr(rng.randint(97, 122)) for _ in range(100_000))
    assert measure(decision(text))["repetition"] < 0.01
    assert measure(decision(text + "loop " * 800))["repetition"] > 0.9


def test_length_that_decides_the_reward(stream: MakeStream, watch: Watch) -> None:
    rng = random.Random(0)
    lengths = [rng.randint(20, 120) for _ in range(NUM)]
    right = share(0.7, 0.7)
    drawn = [float(right(number)) for number in range(NUM)]

    def watch_weight(weight: float) -> float | None:
        states, _ = watch(
            stream(
                NUM,
                num_response_tokens=lambda number: lengths[number],
                correctness=lambda number: drawn[number],
                reward=lambda number: drawn[number] - weight * lengths[number],
            )
        )
        state = states["length_reward"]
        assert state.value is not None
        assert (state.state == "alarm") is (state.value >= 0.5)
        return state.value

    small, large = watch_weight(0.001), watch_weight(0.04)
    assert small is not None
    assert large is not None
    assert small < 0.05
    assert large > 0.7


def test_groups_of_equal_rewards(stream: MakeStream, watch: Watch) -> None:
    rng = random.Random(0)
    equal = stream(NUM, reward=lambda number: float(number // 8 % 2))
    states, _ = watch(equal)
    assert (states["zero_variance"].state, states["zero_variance"].value) == ("alarm", 1.0)
    mixed = stream(NUM, reward=lambda _: rng.random())
    states, _ = watch(mixed)
    assert (states["zero_variance"].state, states["zero_variance"].value) == ("ok", 0.0)


def test_groups_that_the_log_names(stream: MakeStream, watch: Watch) -> None:
    """Groups of a step come interleaved. By their prompts, they would be others."""
    decisions = stream(
        1024,
        group=lambda number: f"{number // 256}-{number % 32}",
        reward=lambda number: float(number % 32 < 8),
    )
    states, _ = watch(decisions)
    assert states["zero_variance"].value == 1.0


def test_a_term_that_everybody_earns_is_saturated(stream: MakeStream, watch: Watch) -> None:
    earned = share(0.3, 1.0)
    right = share(0.7, 0.7)
    states, _ = watch(
        stream(
            NUM,
            terms=lambda number: {"format": float(earned(number))},
            correctness=lambda number: float(right(number)),
        )
    )
    assert states["saturation"].state == "alarm"
    assert re.fullmatch(
        r"term format 0\.3\d\d -> 1\.000, standard deviation 0\.4\d\d -> 0\.000",
        states["saturation"].message,
    )


def test_a_term_that_nobody_earned_has_not_saturated(stream: MakeStream, watch: Watch) -> None:
    """Two rollouts earn it by chance at the start, none later."""
    states, _ = watch(stream(NUM, terms=lambda number: {"rare": float(number in (5, 40))}))
    assert states["saturation"].state == "ok"


@pytest.mark.parametrize(
    ("field", "name"),
    [("label_unreadable", "unreadable_labels"), ("template_mismatch", "template_mismatch")],
)
def test_marks_that_become_frequent(
    field: str, name: str, stream: MakeStream, watch: Watch
) -> None:
    states, changes = watch(stream(NUM, **{field: share(0.0, 0.2)}))
    assert states[name].state == "alarm"
    assert {other for _, other, _ in changes} == {name}
    assert watch(stream(NUM, **{field: share(0.002, 0.002)}))[1] == []


def test_weights_that_stop_to_change(stream: MakeStream, watch: Watch) -> None:
    """A version every 32 rollouts, until the 10th stays."""
    states, changes = watch(stream(NUM, policy_version=lambda number: 5 * min(number // 32, 10)))
    ((rollout, name, state),) = changes
    assert (name, state) == ("scorer_lags", "alarm")
    assert 320 + 4 * 32 <= rollout <= 320 + 4 * 32 + 24
    assert states["scorer_lags"].value == pytest.approx((NUM - 321) / 32)


@pytest.mark.parametrize("version", [None, 0, "abc"])
def test_weights_that_never_change_tell_nothing(
    version: object, stream: MakeStream, watch: Watch
) -> None:
    assert watch(stream(NUM, policy_version=version))[0]["scorer_lags"].state == "unknown"


def test_two_versions_that_alternate_are_one_change(stream: MakeStream, watch: Watch) -> None:
    """Requests end out of order."""
    versions = stream(NUM, policy_version=lambda number: max(0, number // 64 - number % 2))
    states, changes = watch(versions)
    assert changes == []
    assert states["scorer_lags"].value is not None
    assert states["scorer_lags"].value <= 1.1


def test_a_term_s_name_may_be_anything(stream: MakeStream, watch: Watch) -> None:
    name = "\x1b[31m</script>" + "x" * 1000
    values = noisy(0.2, 0.9, 0.1)
    states, _ = watch(stream(NUM, terms=lambda number: {name: values(number)}))
    message = states["term_rises"].message
    assert states["term_rises"].state == "alarm"
    assert message.isprintable()
    assert len(message) < 200
