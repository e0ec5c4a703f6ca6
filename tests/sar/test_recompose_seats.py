"""Rewards of a log whose groups have seats: rollouts that were sent again, and late siblings."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sar.decision import Decision
from sar.grading.verdict import Reason
from sar.recompose import Recomposer
from sar.rescore import Judged, LoggedDecision, Rescored, RescoreError, keep_verdicts
from sar.seats import Member, Scored, Seat, SeatedGroup, SeatedGroups
from sar.terms.base import GroupTerm, Sample
from sar.terms.composition import Composition, WeightedTerm
from sar.terms.verdict import Correctness

MakeRollout = Callable[..., Decision]


class Longer(GroupTerm):
    """How much longer than the group's mean the response is."""

    def score_group(self, group: Sequence[Sample]) -> list[float]:
        mean = sum(one.num_tokens for one in group) / len(group)
        return [one.num_tokens - mean for one in group]


def comparing(group_size: int, normalize: Any = "none") -> Composition:
    terms = (WeightedTerm("correctness", Correctness()), WeightedTerm("longer", Longer(), -2.0))
    return Composition(terms, group_size, normalize)


def expected_reward(rows: Sequence[tuple[bool, int]], seat: int, normalize: str) -> float:
    """The same reward for the (is_correct, num_tokens) of the compared rollouts, as formulas."""
    mean = statistics.fmean(tokens for _, tokens in rows)
    reward = 0.0
    for weight, values in (
        (1.0, [float(right) for right, _ in rows]),
        (-2.0, [tokens - mean for _, tokens in rows]),
    ):
        value = values[seat]
        if normalize == "gdpo":
            value = (value - statistics.fmean(values)) / (statistics.stdev(values) + 1e-4)
        reward += weight * value
    return reward


def judge(decisions: Iterable[Decision]) -> Iterator[Judged]:
    log = (LoggedDecision(f"a.jsonl:{n}", one) for n, one in enumerate(decisions, 1))
    return keep_verdicts(log)


def recompose(
    decisions: Iterable[Decision], composition: Composition, **bounds: int
) -> tuple[list[Rescored], Recomposer]:
    recomposer = Recomposer(composition, **bounds)
    return list(recomposer.recompose(judge(decisions))), recomposer


@pytest.fixture(scope="session")
def rollout(decision: Callable[..., Decision]) -> MakeRollout:
    """Makes a decision with this verdict, length and seat. Its texts have 8 characters
    with its label."""

    def make(
        seat: int | None,
        num_members: int | None,
        *,
        tokens: int = 7,
        right: bool = True,
        group: str = "one",
    ) -> Decision:
        one = decision("So 5.", "5", Reason.CORRECT if right else Reason.WRONG, prompt="Q")
        place: dict[str, Any] = {"group": group, "seat": seat, "num_members": num_members}
        return replace(one, num_response_tokens=tokens, **place)

    return make


@st.composite
def seated_groups(draw: st.DrawFn) -> list[tuple[tuple[bool, int], int]]:
    """For each seat of one group: (is_correct, num_tokens), and how many seats are compared."""
    rows = draw(st.lists(st.tuples(st.booleans(), st.integers(0, 50)), min_size=2, max_size=5))
    ends = draw(st.sets(st.integers(2, len(rows)))) | {len(rows)}
    return [(row, min(end for end in ends if end > seat)) for seat, row in enumerate(rows)]


@given(
    st.lists(seated_groups(), max_size=4),
    st.sampled_from(["none", "gdpo"]),
    st.randoms(use_true_random=False),
    st.data(),
)
def test_each_rollout_is_compared_with_those_that_the_server_compared_it_with(
    rollout: MakeRollout,
    groups: list[list[tuple[tuple[bool, int], int]]],
    normalize: str,
    random: Any,
    data: st.DataObject,
) -> None:
    """In any order of the log, with any rollouts sent again before or after their groups were
    settled, and siblings that came late, several at once or one after the other."""
    log, expected = [], []
    for number, group in enumerate(groups):
        again = data.draw(st.lists(st.integers(0, len(group) - 1), max_size=3), label="again")
        for seat in [*range(len(group)), *again]:
            (right, tokens), num_members = group[seat]
            group_id = f"id{number}"
            log.append(rollout(seat, num_members, group=group_id, tokens=tokens, right=right))
            rows = [row for row, _ in group[:num_members]]
            expected.append(expected_reward(rows, seat, normalize))
    order = list(range(len(log)))
    random.shuffle(order)

    lines = [Decision.from_json(log[index].to_json()) for index in order]
    found, recomposer = recompose(lines, comparing(5, normalize))
    assert [one.before for one in found] == lines
    for one, index in zip(found, order, strict=True):
        assert one.after.reward == pytest.approx(expected[index], rel=1e-6, abs=1e-6)
        before, after = one.before, one.after
        assert (before.group, before.seat, before.num_members) == (
            (after.group, after.seat, after.num_members)
        )
    assert recomposer.num_groups == len(groups)
    assert recomposer.num_incomplete == sum(group[0][1] < 5 for group in groups)
    assert recomposer.num_left_out == 0


def test_five_lines_of_a_group_of_four_are_four_rollouts(rollout: MakeRollout) -> None:
    log = [rollout(seat, 4, tokens=seat) for seat in (0, 1, 1, 2, 3)]
    found, recomposer = recompose(log, comparing(4))
    assert [one.after.terms["longer"] for one in found] == [-1.5, -0.5, -0.5, 0.5, 1.5]
    assert (recomposer.num_groups, recomposer.num_incomplete) == (1, 0)


def test_a_late_sibling_finds_those_that_were_written_out(rollout: MakeRollout) -> None:
    """Nobody waits for it. Then one of the early ones is sent again."""
    others = [rollout(seat, 2, group=f"{n}") for n in range(50) for seat in (0, 1)]
    log = [rollout(seat, 3, tokens=seat) for seat in (0, 1, 2)]
    log += [*others, rollout(3, 4, tokens=5), rollout(0, 3, tokens=0)]
    num_read = 0

    def read() -> Iterator[Decision]:
        nonlocal num_read
        for one in log:
            num_read += 1
            yield one

    found = []
    for one in Recomposer(comparing(4), max_waiting=3).recompose(judge(read())):
        found.append(one.after)
        assert num_read <= len(found) + 2
    assert [one.terms["longer"] for one in found[:3]] == [-1.0, 0.0, 1.0]
    assert [one.terms["longer"] for one in found[-2:]] == [3.0, -1.0]
    assert len(found) == len(log)


def test_texts_of_incomplete_groups_are_bounded(rollout: MakeRollout) -> None:
    """24 characters each. A late sibling of a group that was forgotten has no reward."""
    groups = [f"id{number}" for number in range(5)]
    log = [rollout(seat, 3, group=group) for group in groups for seat in (0, 1, 2)]
    log += [rollout(3, 4, tokens=11, group=group) for group in groups]
    log += [rollout(0, 3, group=groups[0])]
    found, recomposer = recompose(log, comparing(4), max_waiting_chars=52)
    late = [one.after for one in found if one.after.seat == 3]
    assert [one.group for one in late] == ["id3", "id4"]
    assert {one.terms["longer"] for one in late} == {3.0}
    assert (recomposer.num_groups, recomposer.num_left_out) == (5, 3)
    assert found[-1].after.terms["longer"] == 0.0, "rewards are remembered without the texts"


def test_lines_that_are_missing_do_not_keep_the_others_out(rollout: MakeRollout) -> None:
    """A client that goes and never asks again leaves no line."""
    log = [rollout(0, 3, tokens=2), rollout(2, 3, tokens=6), rollout(0, 3, tokens=2)]
    log += [rollout(1, 3, group="alone")] * 2
    found, recomposer = recompose(log, comparing(3))
    assert [one.after.terms["longer"] for one in found] == [-2.0, 2.0, -2.0]
    assert (recomposer.num_groups, recomposer.num_incomplete) == (1, 1)
    assert recomposer.num_left_out == 2


def test_a_file_with_a_larger_group_size_does_not_change_who_is_compared(
    rollout: MakeRollout,
) -> None:
    log = [rollout(seat, 2, tokens=seat, group=group) for group in "ab" for seat in (0, 1)]
    found, recomposer = recompose(log, comparing(8))
    assert [one.after.terms["longer"] for one in found] == [-0.5, 0.5] * 2
    assert (recomposer.num_groups, recomposer.num_incomplete) == (2, 2)


@pytest.mark.parametrize(
    ("seat", "num_members", "message"),
    [
        (0, 3, "its group has more than 2 rollouts; set group_size to the run's"),
        (2, 2, "seat 2 is not below num_members, 2"),
        (None, None, "a group without seat and num_members"),
    ],
)
def test_seats_that_no_group_has_are_errors(
    rollout: MakeRollout, seat: int | None, num_members: int | None, message: str
) -> None:
    with pytest.raises(RescoreError) as error:
        recompose([rollout(0, 2), rollout(seat, num_members)], comparing(2))
    assert str(error.value) == f"a.jsonl:2: {message}"


class Failing(GroupTerm):
    def score_group(self, group: Sequence[Sample]) -> list[float]:
        raise ZeroDivisionError


def test_a_term_that_fails_names_a_line_that_needs_it(rollout: MakeRollout) -> None:
    composition = Composition((WeightedTerm("mine", Failing()),), 2)
    with pytest.raises(RescoreError, match=r"^a\.jsonl:\d and 1 siblings: term 'mine' failed"):
        recompose([rollout(0, 2), rollout(1, 2)], composition)


def test_only_the_latest_groups_are_remembered(rollout: MakeRollout) -> None:
    groups = SeatedGroups(max_groups=2, max_chars=16)
    member = Member(rollout(0, 2).sample, {})  # 8 characters
    for key in "abc":
        scored: dict[Seat, Scored] = {Seat(0, 2): (1.0, {})}
        groups.keep(key, SeatedGroup(scored, {0: member}))
        if key == "b":
            groups.keep("a", groups.find("a"))
    assert [bool(groups.find(key).scored) for key in "abc"] == [True, False, True]
    groups.keep("c", SeatedGroup({}, {0: member, 1: member}))
    assert [len(groups.find(key).members) for key in "ac"] == [0, 2]
    assert groups.find("a").scored
