"""Held answers, one rule after the other, in a time that only the test moves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING
from unittest.mock import patch

import pytest

from reward_server.errors import ClientGone, NotReady, ScoringFailed
from sar.terms.base import GroupTerm, Sample

if TYPE_CHECKING:
    from tests.reward_server.pipeline.conftest import CohortHelpers, Sent, World


def groups(requests: Sequence[Sent]) -> list[Counter[int]]:
    return [request.group for request in requests]


def seats(requests: Sequence[Sent]) -> list[tuple[int | None, int | None]]:
    """The seat of each request's rollout, and how many seats its reward compares."""
    return [(request.one.place.seat, request.one.place.num_members) for request in requests]


def test_answers_are_held_until_the_last_sibling(worlds: CohortHelpers) -> None:
    with worlds.open(3) as world:
        first = [world.send_text(0), world.send_text(1)]
        other = world.send(worlds.make_member(1, "another prompt"))
        assert all(request.is_held for request in (*first, other))
        state = world.cohorts.state
        assert (state.num_open, state.num_held, state.num_settled) == (2, 3, 0)
        assert state.num_chars == 2 * len("2+3?15") + len("another prompt15")
        requests = [*first, world.send_text(2)]
        assert groups(requests) == [Counter([0, 1, 2])] * 3
        assert seats(requests) == [(0, 3), (1, 3), (2, 3)]
        assert len({request.one.place.group for request in requests}) == 1
        assert not any(request.one.incomplete for request in requests)
        assert other.is_held
        assert world.cohorts.state.num_settled == 1


def test_equal_texts_are_siblings_while_their_clients_wait(worlds: CohortHelpers) -> None:
    with worlds.open(3) as world:
        requests = [world.send_text(7) for _ in range(3)]
        assert groups(requests) == [Counter({7: 3})] * 3
        assert seats(requests) == [(0, 3), (1, 3), (2, 3)]
        assert world.cohorts.state.num_retries == 0


def test_more_siblings_than_the_group_has_start_another(worlds: CohortHelpers) -> None:
    with worlds.open(2) as world:
        requests = [world.send_text(text) for text in range(5)]
        expected = [Counter([0, 1])] * 2 + [Counter([2, 3])] * 2
        assert groups(requests[:4]) == expected
        assert requests[0].one.place.group != requests[2].one.place.group
        assert requests[4].is_held


def test_a_request_with_all_siblings_does_not_wait(worlds: CohortHelpers) -> None:
    with worlds.open(2) as world:
        held = world.send_text(9)
        texts = [(1, "a"), (3, "b"), (2, "a"), (4, "b")]
        whole = world.send(*(worlds.make_member(text, prompt) for text, prompt in texts))
        assert whole.settled is not None
        one, other = Counter([1, 2]), Counter([3, 4])
        assert [worlds.decode(s.reward) for s in whole.settled] == [one, other, one, other]
        assert [s.place[1:] for s in whole.settled] == [(0, 2), (0, 2), (1, 2), (1, 2)]
        assert held.is_held
        both = world.send(*(worlds.make_member(text) for text in (4, 5, 6)))
        assert both.settled is not None, "two are a group, and the third completes the held one"
        assert [worlds.decode(one.reward) for one in both.settled] == [
            Counter([4, 5]),
            Counter([4, 5]),
            Counter([6, 9]),
        ]
        assert held.group == Counter([6, 9])


def test_a_request_with_some_siblings_joins_like_single_ones(worlds: CohortHelpers) -> None:
    with worlds.open(4) as world:
        some = world.send(*(worlds.make_member(text) for text in (1, 1, 2)))
        assert some.is_held
        assert world.send_text(3).group == Counter([1, 1, 2, 3])
        assert some.settled is not None
        assert len(some.settled) == 3


def test_a_retry_takes_the_place_of_its_first_attempt(worlds: CohortHelpers) -> None:
    with worlds.open(3) as world:
        first = world.send_text(0)
        first.is_gone = True
        again = world.send_text(0)
        requests = [again, world.send_text(1)]
        assert all(request.is_held for request in requests)
        assert world.cohorts.state.num_retries == 1
        requests.append(world.send_text(2))
        assert groups(requests) == [Counter([0, 1, 2])] * 3
        assert seats(requests) == [(0, 3), (1, 3), (2, 3)]
        assert first.one == again.one


def test_a_client_that_leaves_stays_a_member_and_may_ask_again(worlds: CohortHelpers) -> None:
    with worlds.open(3) as world:
        gone = world.send_text(0)
        gone.is_gone = True
        requests = [world.send_text(1), world.send_text(2)]
        assert groups(requests) == [Counter([0, 1, 2])] * 2
        again = world.send_text(0)
        assert again.is_held, "it could be the first of a new group"
        world.pass_time(2.5)
        assert (again.group, again.one.place.group) == (
            requests[0].group,
            requests[0].one.place.group,
        )
        assert seats([again, *requests]) == [(0, 3), (1, 3), (2, 3)]
        assert world.cohorts.state.num_retries == 1


def test_a_client_that_has_gone_before_it_joins_is_no_member(worlds: CohortHelpers) -> None:
    with worlds.open(2) as world:
        held = world.send_text(0)
        assert isinstance(world.send_text(1, is_gone=True).error, ClientGone)
        assert held.is_held


def test_a_client_that_has_gone_does_not_settle_a_group(worlds: CohortHelpers) -> None:
    with worlds.open(3) as world:
        gone = world.send_text(0)
        gone.is_gone = True
        world.pass_time(10.0)
        requests = [world.send_text(1)]
        world.pass_time(worlds.TIMEOUT_S - 10.0)
        assert isinstance(gone.error, ClientGone)
        requests.append(world.send_text(2))
        assert groups(requests) == [Counter([0, 1, 2])] * 2


def test_an_answer_that_seemed_delivered_is_given_again_at_the_deadline(
    worlds: CohortHelpers,
) -> None:
    with worlds.open(2) as world:
        requests = [world.send_text(0), world.send_text(1)]
        again = world.send_text(1)
        world.pass_time(worlds.TIMEOUT_S / 2)
        assert again.is_held
        world.pass_time(worlds.TIMEOUT_S / 2)
        assert again.one == requests[1].one


@pytest.mark.parametrize("pause_s", [0.0, 30.0])
def test_the_next_epoch_does_not_lose_a_member_with_an_equal_text(
    worlds: CohortHelpers, pause_s: float
) -> None:
    with worlds.open(3) as world:
        old = [world.send_text(text) for text in (0, 1, 2)]
        new = []
        for text in (1, 5, 6):
            new.append(world.send_text(text))
            world.pass_time(pause_s)
        assert groups(new) == [Counter([1, 5, 6])] * 3
        assert new[0].one.place.group != old[0].one.place.group


def test_an_undelivered_answer_does_not_hide_a_new_group(worlds: CohortHelpers) -> None:
    with worlds.open(3) as world:
        for text in (0, 1, 2):
            world.send_text(text, leaves_with_answer=True)
        new = [world.send_text(text) for text in (0, 5)]
        world.pass_time(30.0)
        assert all(request.is_held for request in new)
        new.append(world.send_text(6))
        assert groups(new) == [Counter([0, 5, 6])] * 3


def test_at_the_deadline_two_are_settled_without_the_third(worlds: CohortHelpers) -> None:
    with worlds.open(3) as world:
        first = world.send_text(0)
        world.pass_time(40.0)
        second = world.send_text(1)
        world.pass_time(54.0)
        assert first.is_held
        world.pass_time(1.5)
        assert groups([first, second]) == [Counter([0, 1])] * 2
        assert first.one.incomplete
        state = world.cohorts.state
        assert (state.num_settled, state.num_incomplete) == (1, 1)
        late = world.send_text(2)
        world.pass_time(2.5)
        assert late.group == Counter([0, 1, 2])
        assert (late.one.place.group, late.one.incomplete) == (first.one.place.group, True)
        assert seats([first, second, late]) == [(0, 2), (1, 2), (2, 3)]
        assert world.cohorts.state.num_incomplete == 1
        again = world.send_text(2, leaves_with_answer=True)
        world.pass_time(worlds.TIMEOUT_S)
        assert again.one == late.one


def test_an_equal_text_is_not_counted_twice_in_an_incomplete_group(worlds: CohortHelpers) -> None:
    with worlds.open(4) as world:
        early = [world.send_text(text) for text in (0, 1)]
        world.pass_time(worlds.TIMEOUT_S)
        again = world.send_text(1)
        world.pass_time(3.0)
        assert again.one == early[1].one
        late = world.send_text(2)
        world.pass_time(3.0)
        assert late.group == Counter([0, 1, 2])


def test_more_than_were_missing_are_a_new_group(worlds: CohortHelpers) -> None:
    with worlds.open(3) as world:
        old = [world.send_text(text) for text in (0, 1)]
        world.pass_time(worlds.TIMEOUT_S)
        assert all(request.one.incomplete for request in old)
        new = [world.send_text(text) for text in (2, 3)]
        world.pass_time(30.0)
        new.append(world.send_text(4))
        assert groups(new) == [Counter([2, 3, 4])] * 3


def test_one_alone_is_asked_to_come_again(worlds: CohortHelpers) -> None:
    with worlds.open(8) as world:
        alone = world.send_text(0)
        world.pass_time(worlds.TIMEOUT_S)
        assert isinstance(alone.error, NotReady)
        assert str(alone.error) == (
            "no sibling of a rollout came within 95 s: send 8 rollouts of each prompt and label, "
            "or a multiple (group_size in --reward)"
        )
        assert world.cohorts.state.num_chars == 0


def test_members_without_clients_are_dropped_after_a_while(worlds: CohortHelpers) -> None:
    with worlds.open(3) as world:
        for text in (0, 1):
            world.send_text(text).is_gone = True
        world.pass_time(worlds.TIMEOUT_S)
        assert world.num_running == 0
        assert (world.cohorts.state.num_open, world.cohorts.state.num_held) == (1, 0)
        world.pass_time(1.5 * worlds.TIMEOUT_S)
        assert world.cohorts.state.num_open == 1
        world.pass_time(worlds.TIMEOUT_S)
        state = world.cohorts.state
        assert (state.num_open, state.num_chars) == (0, 0)


def test_texts_without_clients_are_limited(worlds: CohortHelpers) -> None:
    with worlds.open(3, max_chars=25) as world:
        for number in range(10):
            member = worlds.make_member(number, f"prompt {number}")
            world.send(member).is_gone = True
        world.pass_time(worlds.TIMEOUT_S)
        state = world.cohorts.state
        assert (state.num_open, state.num_chars) == (2, 20)


def test_texts_of_incomplete_groups_are_limited(worlds: CohortHelpers) -> None:
    with worlds.open(3, max_chars=25) as world:
        for number in range(5):
            for text in (0, 1):
                world.send(worlds.make_member(text, f"prompt {number}"))
            world.pass_time(1.0)
        world.pass_time(worlds.TIMEOUT_S)
        assert world.cohorts.state.num_incomplete == 5
        assert world.cohorts.state.num_chars == 20
        late = [world.send(worlds.make_member(2, f"prompt {number}")) for number in (0, 4)]
        world.pass_time(worlds.TIMEOUT_S)
        assert isinstance(late[0].error, NotReady)
        assert late[1].group == Counter([0, 1, 2])
        world.pass_time(3 * worlds.TIMEOUT_S)
        assert world.cohorts.state.num_chars == 0


class Picky(GroupTerm):
    """Fails if a text is 3; otherwise a number that no test reads."""

    def score_group(self, group: Sequence[Sample]) -> list[float]:
        if any(one.response == "3" for one in group):
            raise ZeroDivisionError("three")
        return [0.0] * len(group)


def test_a_term_that_fails_fails_its_group_only(worlds: CohortHelpers) -> None:
    with worlds.open(2, Picky()) as world:
        other = world.send(worlds.make_member(0, "another prompt"))
        bad = [world.send_text(text) for text in (3, 4)]
        for request in bad:
            assert isinstance(request.error, ScoringFailed)
            message = "term 'who' failed: ZeroDivisionError: three (line "
            assert str(request.error).startswith(message)
        assert bad[0].error is not bad[1].error
        assert other.is_held
        again = [world.send_text(text) for text in (4, 5)]
        assert all(request.settled for request in again)


def test_a_late_sibling_whose_term_fails_can_come_again(worlds: CohortHelpers) -> None:
    with worlds.open(3, Picky()) as world:
        early = [world.send_text(text) for text in (0, 1)]
        world.pass_time(worlds.TIMEOUT_S)
        for _ in range(2):
            late = world.send_text(3)
            world.pass_time(3.0)
            assert isinstance(late.error, ScoringFailed)
        late = world.send_text(2)
        world.pass_time(3.0)
        assert late.one.place.group == early[0].one.place.group
        assert seats([late]) == [(2, 3)]


class FailingOnce(GroupTerm):
    """Fails the first time that a text is 3; otherwise a number that no test reads."""

    has_failed = False

    def score_group(self, group: Sequence[Sample]) -> list[float]:
        if not self.has_failed and any(one.response == "3" for one in group):
            self.has_failed = True
            raise ZeroDivisionError
        return [0.0] * len(group)


def test_the_seat_of_a_late_sibling_whose_term_fails_is_taken_by_the_next(
    worlds: CohortHelpers,
) -> None:
    """Another late one sits behind it already. No two rollouts may have one seat."""
    with worlds.open(5, FailingOnce()) as world:
        requests = [world.send_text(text) for text in (0, 1)]
        world.pass_time(worlds.TIMEOUT_S)
        works: list[Callable[[], object]] = []
        threads = SimpleNamespace(submit=lambda *work: works.append(partial(*work)))
        with patch.object(world.cohorts, "_threads", threads):
            for text in (3, 4):
                requests.append(world.send_text(text))
                world.pass_time(3.0)
        for work in works:
            work()
        world.pass_time(0.0)
        failed = requests.pop(2)
        assert isinstance(failed.error, ScoringFailed)
        for text in (5, 6):
            requests.append(world.send_text(text))
            world.pass_time(3.0)
        assert seats(requests) == [(0, 2), (1, 2), (3, 4), (2, 4), (4, 5)]
        assert len({request.one.place.group for request in requests}) == 1


def test_a_stop_refuses_what_is_held(worlds: CohortHelpers) -> None:
    with worlds.open(2) as world:
        held: list[Sent] = [world.send_text(0), world.send(worlds.make_member(0, "another"))]
        world.close()
        held.append(world.send_text(1))
        for request in held:
            assert isinstance(request.error, NotReady)
            assert str(request.error) == "the server is stopping"
        whole = world.send(*(worlds.make_member(text) for text in (4, 5)))
        assert whole.settled is not None


def ask_until_answered(world: World, text: int) -> Sent:
    """A trainer's five attempts."""
    for _ in range(5):
        request = world.send_text(text)
        while request.is_held:
            world.pass_time(10.0)
        if request.settled:
            return request
    raise AssertionError(request.error)


def test_one_who_is_refused_and_asks_again_meets_its_sibling(worlds: CohortHelpers) -> None:
    with worlds.open(3) as world:
        alone = world.send_text(0)
        world.pass_time(worlds.TIMEOUT_S)
        assert isinstance(alone.error, NotReady)
        world.send_text(1)
        assert ask_until_answered(world, 0).group == Counter([0, 1])
