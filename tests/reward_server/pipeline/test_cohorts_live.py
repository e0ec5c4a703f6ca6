"""Held answers with real threads, greenlets and clocks."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import gevent
import pytest

from reward_server.errors import ClientGone, NotReady, RequestTimedOut
from reward_server.http.listener import IN_GREENLETS
from reward_server.pipeline.cohorts import Cohorts, Member, Settled
from reward_server.pipeline.kept import Kept
from reward_server.pipeline.waiting import IN_THREADS, Client, Deadline
from sar.terms.base import GroupTerm, Sample

if TYPE_CHECKING:
    from tests.reward_server.pipeline.conftest import CohortHelpers

PATIENCE_S = 120.0


def join(cohorts: Cohorts, member: Member, timeout_s: float = PATIENCE_S) -> Settled:
    (settled,) = cohorts.join([member], Client(Deadline(timeout_s, IN_THREADS)))
    return settled


def wait_until_held(cohorts: Cohorts, number: int) -> None:
    end_s = time.monotonic() + PATIENCE_S
    while cohorts.state.num_held != number:
        assert time.monotonic() < end_s, cohorts.state
        time.sleep(0.005)


def test_two_thousand_greenlets_are_held(worlds: CohortHelpers) -> None:
    cohorts = Cohorts(worlds.compose(8))
    answers: dict[tuple[int, int], Settled] = {}
    held: list[int] = []

    def ask(prompt: int, text: int) -> None:
        client = Client(Deadline(PATIENCE_S, IN_GREENLETS))
        (answers[prompt, text],) = cohorts.join(
            [worlds.make_member(text, f"prompt {prompt}")], client
        )

    def run() -> None:
        siblings = [gevent.spawn(ask, prompt, text) for text in range(7) for prompt in range(286)]
        gevent.sleep(0)
        held.append(cohorts.state.num_held)
        last = [gevent.spawn(ask, prompt, 7) for prompt in range(286)]
        gevent.joinall([*siblings, *last], timeout=PATIENCE_S)

    thread = threading.Thread(target=run)  # with an event loop of its own
    thread.start()
    thread.join(PATIENCE_S)
    assert held == [2002]
    assert len(answers) == 286 * 8
    assert all(worlds.decode(one.reward) == Counter(range(8)) for one in answers.values())
    names = {(prompt, one.place.group) for (prompt, _), one in answers.items()}
    assert len(names) == 286
    state = cohorts.state
    assert (state.num_held, state.num_open, state.num_settled) == (0, 0, 286)
    assert (state.num_chars, state.num_incomplete, state.num_retries) == (0, 0, 0)


class Gate(GroupTerm):
    """Waits until the test lets it go on; then gives the size of the group."""

    def __init__(self) -> None:
        self.is_computing = threading.Event()
        self.may_go_on = threading.Event()

    def score_group(self, group: Sequence[Sample]) -> list[float]:
        if group[0].prompt == "slow":
            self.is_computing.set()
            assert self.may_go_on.wait(PATIENCE_S)
        return [float(len(group))] * len(group)


@pytest.fixture
def gate() -> Gate:
    return Gate()


def test_a_slow_term_keeps_no_other_group_waiting(worlds: CohortHelpers, gate: Gate) -> None:
    cohorts = Cohorts(worlds.compose(2, gate))
    with ThreadPoolExecutor() as clients:
        slow = [
            clients.submit(join, cohorts, worlds.make_member(text, "slow")) for text in range(2)
        ]
        assert gate.is_computing.wait(PATIENCE_S)
        quick = [clients.submit(join, cohorts, worlds.make_member(text)) for text in range(2)]
        assert [one.result(PATIENCE_S).reward for one in quick] == [2.0, 2.0]
        assert not any(one.done() for one in slow)
        assert (cohorts.state.num_open, cohorts.state.num_held) == (1, 2)
        cohorts.close()  # does not refuse what is complete
        gate.may_go_on.set()
        assert [one.result(PATIENCE_S).reward for one in slow] == [2.0, 2.0]


def test_a_term_slower_than_the_timeout_can_be_asked_for_again(
    worlds: CohortHelpers, gate: Gate
) -> None:
    cohorts = Cohorts(worlds.compose(2, gate), grace_s=0.05)
    first, second = (worlds.make_member(text, "slow") for text in range(2))
    with ThreadPoolExecutor() as clients:
        asked = [clients.submit(join, cohorts, one, 0.3) for one in (first, second)]
        for one in asked:
            with pytest.raises(RequestTimedOut, match=r"no reward after 0\.3 s"):
                one.result(PATIENCE_S)
        again = clients.submit(join, cohorts, first)  # it takes its place in the group
        wait_until_held(cohorts, 1)
        gate.may_go_on.set()
        assert again.result(PATIENCE_S).reward == 2.0
        # This one finds the group settled.
        assert join(cohorts, second).place.group == again.result().place.group
    assert cohorts.state.num_settled == 1


def test_a_stop_in_the_middle_of_groups(worlds: CohortHelpers) -> None:
    cohorts = Cohorts(worlds.compose(4))
    with ThreadPoolExecutor(80) as clients:
        held = [
            clients.submit(join, cohorts, worlds.make_member(text, f"prompt {number}"))
            for number in range(20)
            for text in range(3)
        ]
        wait_until_held(cohorts, 60)
        last = [
            clients.submit(join, cohorts, worlds.make_member(3, f"prompt {number}"))
            for number in range(20)
        ]
        cohorts.close()
        outcomes = [one.exception(PATIENCE_S) or one.result() for one in (*held, *last)]
    for number in range(20):
        group = [*outcomes[3 * number : 3 * number + 3], outcomes[60 + number]]
        settled = [one for one in group if isinstance(one, Settled)]
        assert len(settled) in (0, 4), "a group is answered, or all of it comes again"
        assert all(isinstance(one, (Settled, NotReady)) for one in group)
    assert (cohorts.state.num_open, cohorts.state.num_held) == (0, 0)


def test_clients_that_come_leave_and_come_again(worlds: CohortHelpers) -> None:
    """Threads in any order, with short timeouts: no deadlock, an answer for everybody, and each
    reward from a group in which the rollout counts, with no rollout twice."""
    cohorts = Cohorts(worlds.compose(4), grace_s=0.02)

    def ask(prompt: int, text: int) -> list[Settled]:
        choices = random.Random(prompt * 10 + text)
        member = worlds.make_member(text, f"prompt {prompt}")
        answers: list[Settled] = []
        for attempt in range(200):
            time.sleep(choices.random() * (0.05 if attempt else 0.6))
            leaves_at_s = time.monotonic() + choices.random() * 0.4
            client = Client(
                Deadline(0.5, IN_THREADS),
                lambda: attempt < 3 and time.monotonic() > leaves_at_s,  # noqa: B023
            )
            try:
                answers += cohorts.join([member], client)
            except (ClientGone, NotReady, RequestTimedOut):
                continue
            if not client.is_gone():
                break
        else:
            raise AssertionError("no answer")
        return answers

    with ThreadPoolExecutor(64) as clients:
        asked: dict[tuple[int, int], Future[list[Settled]]] = {
            (prompt, text): clients.submit(ask, prompt, text)
            for text in range(4)
            for prompt in range(16)
        }
        for (_, text), future in asked.items():
            for one in future.result(PATIENCE_S):
                members = worlds.decode(one.reward)
                assert text in members
                assert members.total() >= 2
                assert max(members.values()) == 1
    assert cohorts.state.num_held == 0


def test_what_is_kept_goes_at_its_time_or_for_want_of_room() -> None:
    kept: Kept[str] = Kept(max_size=10)
    kept.put("a", until_s=5.0, size=4)
    kept.put("b", until_s=6.0, size=4)
    assert list(kept.take_old(4.9)) == []
    assert list(kept.take_old(5.0)) == ["a"]
    kept.put("c", until_s=9.0, size=4)
    kept.put("d", until_s=9.0, size=4)
    assert kept.size == 12
    assert list(kept.take_old(5.0)) == ["b"]
    kept.put("c", until_s=10.0, size=5)
    kept.remove("d")
    kept.remove("d")
    assert kept.size == 5
    assert list(kept.take_old(9.5)) == []
    assert list(kept.take_old(10.0)) == ["c"]
    assert kept.size == 0
