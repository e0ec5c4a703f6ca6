"""The monitor: states, hysteresis, threads, memory, and streams that no alarm may fire on."""

from __future__ import annotations

import gc
import json
import math
import random
import threading
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sar.alarms.definitions import ALARMS
from sar.alarms.monitor import Monitor
from sar.decision import Decision
from sar.grading.verdict import Reason

if TYPE_CHECKING:
    from tests.sar.alarms.conftest import MakeStream, Watch

AGAINST_START = {"length_collapse", "term_rises", "no_answer", "repetition", "saturation"} | {
    "term_over_correctness",
    "correctness_falls",
}


def test_one_rollout_tells_nothing(decision: Callable[..., Decision]) -> None:
    monitor = Monitor()
    assert monitor.add(decision()) == []
    assert [state.state for state in monitor.states()] == ["unknown"] * len(ALARMS)
    assert [state.alarm for state in monitor.states()] == list(ALARMS)
    for state in monitor.states():
        assert json.loads(json.dumps(state.to_json(), allow_nan=False))["since"] is None


def test_the_first_two_windows_are_compared_when_both_are_whole(
    stream: MakeStream, watch: Watch
) -> None:
    assert watch(stream(63))[0]["template_mismatch"].state == "unknown"
    states, _ = watch(stream(127))
    assert states["template_mismatch"].state == "ok"
    assert states["length_collapse"].state == "unknown"
    assert watch(stream(128))[0]["length_collapse"].state == "ok"


@given(st.data())
@settings(max_examples=40)
def test_a_constant_stream_fires_nothing_that_compares_with_the_start(data: st.DataObject) -> None:
    numbers = st.floats(-1e300, 1e300)
    one = Decision(
        time="2026-01-01T00:00:00.000+00:00", request_id="r", prompt="p",
        response=data.draw(st.text(max_size=100)), special_tokens=(), label="5", grader="math",
        mode="train", reason=data.draw(st.sampled_from(Reason)), answer=None,
        correctness=data.draw(st.sampled_from([0.0, 1.0])),
        label_unreadable=data.draw(st.booleans()), nll_qa=0.1, nll_a=0.2, ppl_qa=1.1, ppl_a=1.2,
        sar=data.draw(st.floats(-1, 1)), sar_weight=0.2, reward=data.draw(numbers),
        num_response_tokens=data.draw(st.integers(0, 10**9)), over_context=False,
        template_mismatch=data.draw(st.booleans()),
        policy_version=data.draw(st.none() | st.integers() | st.text()), model="m",
        server_version="0", terms=data.draw(st.dictionaries(st.text(), numbers, max_size=3)),
    )  # fmt: skip
    monitor = Monitor(16)
    fired = {state.alarm.name for _ in range(100) for state in monitor.add(one)}
    assert not fired & (AGAINST_START | {"length_reward", "scorer_lags", "zero_variance"})
    assert all(state.value is None or math.isfinite(state.value) for state in monitor.states())


def test_a_constant_healthy_stream_fires_nothing(
    decision: Callable[..., Decision], watch: Watch
) -> None:
    states, changes = watch([decision()] * 1000)
    assert changes == []
    assert {name for name, state in states.items() if state.state == "unknown"} == {
        # One prompt is no group among others, and the weights never change.
        "zero_variance",
        "scorer_lags",
    }


@given(st.lists(st.tuples(st.floats(allow_nan=False), st.floats(allow_nan=False)), max_size=150))
@settings(max_examples=30)
def test_states_are_finite_whatever_the_numbers(
    decision: Callable[..., Decision], rows: list[tuple[float, float]]
) -> None:
    monitor = Monitor(16)
    for reward, value in rows:
        monitor.add(replace(decision(), reward=reward, sar=value, terms={"mine": value}))
        for state in monitor.states():
            json.dumps(state.to_json(), allow_nan=False)


def test_an_alarm_does_not_flap(stream: MakeStream, watch: Watch) -> None:
    """A share that swings about the threshold begins one alarm and does not end it."""

    def is_bad(number: int) -> bool:
        return number % 48 == 0 or (number % 480 < 240 and number % 40 == 0)

    _, changes = watch(stream(20_000, label_unreadable=is_bad), window=256)
    assert [(name, state) for _, name, state in changes if name == "unreadable_labels"] == [
        ("unreadable_labels", "alarm")
    ]


def test_an_alarm_ends_a_window_after_its_cause(stream: MakeStream, watch: Watch) -> None:
    decisions = [*stream(128), *stream(64, template_mismatch=True), *stream(256)]
    states, changes = watch(decisions)
    begins, ends = changes
    assert begins == (144, "template_mismatch", "alarm")  # the second block with it
    assert ends[1:] == ("template_mismatch", "ok")
    assert 192 + 64 <= ends[0] <= 192 + 128
    state = states["template_mismatch"]
    assert (state.num_fired, state.first and state.first.rollout) == (1, 144)
    assert state.since
    assert state.since.rollout == ends[0]


def test_rings_name_their_first_window_and_their_end(stream: MakeStream, watch: Watch) -> None:
    decisions = [
        *stream(128),
        *stream(64, first=128, template_mismatch=True),
        *stream(256, first=192),
        *stream(128, first=448, template_mismatch=True, policy_version=3),
    ]
    states, changes = watch(decisions)
    own = [rollout for rollout, name, _ in changes if name == "template_mismatch"]
    over, still = states["template_mismatch"].rings
    assert [over.begin.rollout, over.end and over.end.rollout, still.begin.rollout] == own
    assert still.end is None
    # The window at whose end the alarm began has 64 rollouts.
    assert [one.begin.rollout - one.start.rollout + 1 for one in (over, still)] == [64, 64]
    shown = still.to_json()
    assert shown["start"] == decisions[still.start.rollout - 1].time
    assert (shown["policy_version"], shown["end"]) == (3, None)


def test_few_rings_are_remembered(stream: MakeStream, watch: Watch) -> None:
    states, _ = watch(
        stream(4096, template_mismatch=lambda number: number // 64 % 2 == 0), window=16
    )
    state = states["template_mismatch"]
    assert state.num_fired == 32
    assert len(state.rings) == 20
    assert state.rings[-1].begin.rollout > 4096 - 128


def test_a_collapse_is_over_once_answers_are_right_again(stream: MakeStream, watch: Watch) -> None:
    """Responses that stay short are no fault by themselves."""

    def right(share: int) -> Callable[[int], float]:
        return lambda number: float(number * 7 % 10 < share)

    short = {"num_response_tokens": lambda number: 20 + number % 3}
    decisions = [
        *stream(256, num_response_tokens=lambda number: 60 + number % 3, correctness=right(9)),
        *stream(256, first=256, correctness=right(3), **short),
        *stream(1024, first=512, correctness=right(9), **short),
    ]
    states, changes = watch(decisions)
    own = [state for _, name, state in changes if name == "length_collapse"]
    assert own == ["alarm", "ok"]
    assert states["length_collapse"].value == pytest.approx(1 / 3, abs=0.02)


def test_a_change_names_rollout_version_and_time(stream: MakeStream) -> None:
    monitor = Monitor(64)
    decisions = stream(256, template_mismatch=True, policy_version=7)
    (changed,) = [state for one in decisions for state in monitor.add(one)]
    shown = changed.to_json()
    assert (shown["state"], shown["rollout"], shown["policy_version"]) == ("alarm", 72, 7)
    assert shown["since"] == decisions[71].time
    assert (shown["value"], shown["threshold"]) == (1.0, 0.05)
    assert set(shown) >= {"name", "title", "message"}


def test_evaluations_are_left_out(stream: MakeStream, watch: Watch) -> None:
    train = stream(256)
    evaluations = stream(256, mode="eval", template_mismatch=True, num_response_tokens=1)
    mixed = [one for pair in zip(train, evaluations, strict=True) for one in pair]
    assert watch(mixed) == watch(train)


@pytest.mark.parametrize("window", [0, -8, 7, 12])
def test_a_window_is_a_multiple_of_8(window: int) -> None:
    with pytest.raises(ValueError, match=f"window={window}"):
        Monitor(window)


def run_in_threads(monitor: Monitor, decisions: list[Decision], num: int) -> list[Any]:
    """Adds decisions from several threads, while others read. Returns all changes."""
    changes: list[Any] = []
    start = threading.Barrier(num + 1)
    is_done = threading.Event()

    def add(part: list[Decision]) -> None:
        start.wait()
        for one in part:
            changes.extend(monitor.add(one))

    def read() -> None:
        start.wait()
        while not is_done.is_set():
            assert len(monitor.states()) == len(ALARMS)

    threads = [threading.Thread(target=add, args=(decisions[i::num],)) for i in range(num)]
    reader = threading.Thread(target=read)
    for thread in [*threads, reader]:
        thread.start()
    for thread in threads:
        thread.join()
    is_done.set()
    reader.join()
    return changes


def test_threads_lose_no_rollout(stream: MakeStream) -> None:
    decisions = stream(4000, template_mismatch=True)
    monitor = Monitor(64)
    changes = run_in_threads(monitor, decisions, 8)
    assert monitor.num_rollouts == 4000
    assert [one.state for one in changes if one.alarm.name == "template_mismatch"] == ["alarm"]
    assert {one.alarm.name: one.value for one in monitor.states()}["template_mismatch"] == 1.0


def test_the_order_within_a_block_does_not_matter(stream: MakeStream, watch: Watch) -> None:
    """Threads deliver the rollouts of a moment in any order."""
    rng = random.Random(0)
    decisions = stream(
        1024,
        num_response_tokens=lambda number: 60 if number < 300 else rng.randint(3, 20),
        sar=lambda number: 0.2 + number / 2000 + rng.gauss(0, 0.01),
        reward=lambda number: 0.2 + number / 2000 + rng.gauss(0, 0.01),
        correctness=lambda number: float(number < 300),
        policy_version=lambda number: number // 128,
    )
    shuffled: list[Decision] = []
    for first in range(0, len(decisions), 8):  # blocks of a window of 64
        shuffled += rng.sample(decisions[first : first + 8], 8)
    states, changes = watch(decisions)
    other_states, other_changes = watch(shuffled)
    assert changes == other_changes
    assert {"length_collapse", "term_rises"} <= {name for _, name, _ in changes}
    for name, state in states.items():
        assert other_states[name].value == pytest.approx(state.value)


@pytest.mark.slow
def test_memory_is_bounded(decision: Callable[..., Decision]) -> None:
    one = decision("5")
    monitor = Monitor()

    def add(first: int, num: int) -> None:
        for number in range(first, first + num):
            terms = {f"term {number % 5000}": float(number)}
            monitor.add(
                replace(one, prompt=f"{number} " + "x" * 200, terms=terms, policy_version=number)
            )

    add(0, 3000)
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        add(3000, 50_000)
        gc.collect()
        after = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    # What is kept is replaced, so that all of it counts as new.
    assert after - before < 2_000_000
