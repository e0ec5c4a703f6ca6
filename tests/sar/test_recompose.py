"""Rewards of a log under a reward file: groups, their order and their bounds."""

from __future__ import annotations

import statistics
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sar.decision import Decision, GroupPlace
from sar.grading.verdict import Reason, Verdict
from sar.recompose import Recomposer
from sar.rescore import Judged, LoggedDecision, Rescored, RescoreError, keep_verdicts
from sar.reward import Reward
from sar.terms.base import GroupTerm, Sample, Term
from sar.terms.composition import Composition, WeightedTerm
from sar.terms.reward_file import default_composition
from sar.terms.verdict import Correctness

EVAL = {"answer": "5", "mode": "eval"}


class Tokens(Term):
    """The response's length."""

    def score(self, sample: Sample) -> float:
        return float(sample.num_tokens)


class Longer(GroupTerm):
    """How much longer than the group's mean the response is."""

    def score_group(self, group: Sequence[Sample]) -> list[float]:
        mean = sum(one.num_tokens for one in group) / len(group)
        return [one.num_tokens - mean for one in group]


def comparing(group_size: int, normalize: Any = "none") -> Composition:
    terms = (
        WeightedTerm("correctness", Correctness()),
        WeightedTerm("tokens", Tokens(), 0.5, "correct"),
        WeightedTerm("longer", Longer(), -2.0),
    )
    return Composition(terms, group_size, normalize)


def expected_rewards(rows: Sequence[tuple[bool, int]], normalize: str) -> list[float]:
    """The same reward, for the (is_correct, num_tokens) of a group, as formulas."""
    mean = statistics.fmean(tokens for _, tokens in rows)
    summands = [
        (1.0, [float(right) for right, _ in rows]),
        (0.5, [float(right * tokens) for right, tokens in rows]),
        (-2.0, [tokens - mean for _, tokens in rows]),
    ]
    if normalize == "gdpo":
        summands = [
            (
                weight,
                [
                    (value - statistics.fmean(values)) / (statistics.stdev(values) + 1e-4)
                    for value in values
                ],
            )
            for weight, values in summands
        ]
    return [sum(weight * values[i] for weight, values in summands) for i in range(len(rows))]


def judge(decisions: Iterable[Decision]) -> Iterator[Judged]:
    log = (LoggedDecision(f"a.jsonl:{n}", one) for n, one in enumerate(decisions, 1))
    return keep_verdicts(log)


def recompose(
    decisions: Iterable[Decision], composition: Composition, **bounds: int
) -> tuple[list[Rescored], Recomposer]:
    recomposer = Recomposer(composition, **bounds)
    return list(recomposer.recompose(judge(decisions))), recomposer


@pytest.fixture(scope="session")
def rollout(decision: Callable[..., Decision]) -> Callable[..., Decision]:
    """Makes a decision with this prompt, verdict and length."""

    def make(prompt: str = "Q", right: bool = True, tokens: int = 7, label: Any = "5") -> Decision:
        reason = Reason.CORRECT if right else Reason.WRONG
        one = decision("So 5.", label, reason, prompt=prompt)
        return replace(one, num_response_tokens=tokens)

    return make


rows = st.tuples(st.sampled_from("abc"), st.booleans(), st.integers(0, 50))


@given(st.lists(rows, max_size=30), st.integers(2, 5), st.sampled_from(["none", "gdpo"]))
def test_interleaved_groups_get_the_rewards_of_the_formulas(
    rollout: Callable[..., Decision],
    log: list[tuple[str, bool, int]],
    group_size: int,
    normalize: str,
) -> None:
    by_prompt: dict[str, list[int]] = defaultdict(list)
    for index, (prompt, _, _) in enumerate(log):
        by_prompt[prompt].append(index)
    expected: dict[int, float] = {}
    sizes = []
    for indices in by_prompt.values():
        for start in range(0, len(indices), group_size):
            group = indices[start : start + group_size]
            sizes.append(len(group))
            if len(group) > 1:
                rewards = expected_rewards([log[index][1:] for index in group], normalize)
                expected |= zip(group, rewards, strict=True)

    found, recomposer = recompose((rollout(*row) for row in log), comparing(group_size, normalize))
    assert [one.place for one in found] == [f"a.jsonl:{index + 1}" for index in sorted(expected)]
    for index, one in zip(sorted(expected), found, strict=True):
        assert one.after.reward == pytest.approx(expected[index], rel=1e-6, abs=1e-6)
        assert one.after.terms["tokens"] == log[index][2]
        assert one.after.correctness == log[index][1]
    assert recomposer.num_left_out == sizes.count(1)
    assert recomposer.num_groups == len(sizes) - sizes.count(1)
    assert recomposer.num_incomplete == sum(1 < size < group_size for size in sizes)


@given(
    st.lists(st.lists(st.tuples(st.booleans(), st.integers(0, 50)), min_size=2, max_size=4)),
    st.sampled_from(["none", "gdpo"]),
    st.randoms(use_true_random=False),
)
def test_the_same_reward_gives_the_logged_one(
    rollout: Callable[..., Decision],
    groups: list[list[tuple[bool, int]]],
    normalize: str,
    random: Any,
) -> None:
    """Groups of one prompt, some incomplete, that the server told apart by their ids."""
    composition = comparing(4, normalize)
    log = []
    for number, group in enumerate(groups):
        decisions = [rollout("Q", right, tokens) for right, tokens in group]
        samples = [one.sample for one in decisions]
        terms = composition.score_group(samples, [composition.score(one) for one in samples])
        values = composition.combine(samples, terms)
        for seat, (made, value, its_terms) in enumerate(zip(decisions, values, terms, strict=True)):
            reward = Reward(value, made.verdict, made.likelihood, its_terms)
            place = GroupPlace(f"id{number}", seat, len(group))
            log.append(made.with_reward(reward, made.grader, made.mode, place=place))
    random.shuffle(log)
    log = [Decision.from_json(one.to_json()) for one in log]

    found, recomposer = recompose(log, composition)
    assert len(found) == len(log)
    for logged, one in zip(log, found, strict=True):
        assert one.before is logged
        assert one.after.reward == pytest.approx(logged.reward, rel=1e-9, abs=1e-9)
        assert one.after.terms == pytest.approx(logged.terms)
        assert replace(one.after, reward=0.0, terms={}) == replace(logged, reward=0.0, terms={})
    assert recomposer.num_groups == len(groups)
    assert recomposer.num_incomplete == sum(len(group) < 4 for group in groups)


def test_the_default_terms_are_the_reward_without_a_file(rollout: Callable[..., Decision]) -> None:
    log = [rollout(), rollout(right=False), rollout(label=EVAL), rollout(right=False, label=EVAL)]
    found, recomposer = recompose(log, default_composition(0.2))
    assert [one.after.reward for one in found] == [one.reward for one in log]
    assert [one.after.terms for one in found] == [
        {"correctness": 1.0, "sar": log[0].sar},
        {"correctness": 0.0, "sar": log[1].sar},
        {"correctness": 0.0, "sar": 0.0},
        {"correctness": 0.0, "sar": 0.0},
    ]
    assert {one.after.group for one in found} == {""}
    assert recomposer.num_groups == recomposer.num_left_out == 0


def test_evaluation_rollouts_belong_to_no_group(rollout: Callable[..., Decision]) -> None:
    log = [rollout(tokens=1), rollout(label=EVAL), rollout(tokens=3), rollout("P", label=EVAL)]
    found, recomposer = recompose(log, comparing(2))
    assert [one.after.reward for one in found] == [3.5, 1.0, 0.5, 1.0]
    assert [bool(one.after.group) for one in found] == [True, False, True, False]
    assert [one.after.terms for one in found[1::2]] == [
        {"correctness": 0.0, "tokens": 0.0, "longer": 0.0}
    ] * 2
    assert (recomposer.num_groups, recomposer.num_left_out) == (1, 0)


def test_labels_and_prompts_keep_groups_apart(rollout: Callable[..., Decision]) -> None:
    """Each pair has one prompt and label, and no rollout has a sibling elsewhere."""
    pairs: list[dict[str, Any]] = [
        {"prompt": "Q"},
        {"prompt": "Q", "label": "6"},
        {"prompt": "Q", "label": {"answer": "5", "choices": [], "grader": "exact"}},
        {"prompt": "P"},
    ]
    log = [rollout(tokens=number, **pair) for number in (3, 5) for pair in pairs]
    found, recomposer = recompose(log, comparing(2))
    ids = [one.after.group for one in found]
    assert ids[: len(pairs)] == ids[len(pairs) :]
    assert len(set(ids)) == len(pairs) == recomposer.num_groups
    assert {one.after.terms["longer"] for one in found} == {-1.0, 1.0}
    # The new ids keep the groups together when the output is computed again.
    again, _ = recompose([one.after for one in reversed(found)], comparing(2))
    assert [one.after for one in again] == [one.after for one in reversed(found)]


def test_a_label_object_and_its_text_are_one_label(rollout: Callable[..., Decision]) -> None:
    log = [rollout(label={"answer": "5"}), rollout(label='{"answer": "5"}'), rollout(label="5")]
    found, recomposer = recompose(log, comparing(3))
    assert len(found) == 3
    assert (recomposer.num_groups, recomposer.num_incomplete) == (1, 0)


@pytest.mark.parametrize(("distance", "are_together"), [(1, True), (6, True), (7, False)])
def test_a_rollout_waits_for_its_siblings_for_a_while(
    rollout: Callable[..., Decision], distance: int, are_together: bool
) -> None:
    others = [rollout(f"other {number // 2}") for number in range(20)]
    log = [rollout("Q"), *others[: distance - 1], rollout("Q"), *others[distance - 1 :]]
    found, recomposer = recompose(log, comparing(2), max_waiting=6)
    assert ("a.jsonl:1" in [one.place for one in found]) == are_together
    assert recomposer.num_groups == 10 + are_together
    assert recomposer.num_left_out == (0 if are_together else 2)
    places = [int(one.place.split(":")[1]) for one in found]
    assert places == sorted(places)


@pytest.mark.parametrize("bound", [{"max_waiting": 10}, {"max_waiting_chars": 60}])
def test_what_waits_is_bounded(rollout: Callable[..., Decision], bound: dict[str, int]) -> None:
    """Prompt and response have 6 characters together. The first group is never complete."""
    num_read = 0

    def log() -> Iterator[Decision]:
        nonlocal num_read
        for number in range(300):
            num_read += 1
            yield rollout("x" if number in (0, 1, 150) else chr(200 + number // 2))

    recomposer = Recomposer(comparing(3), **bound)
    for one in recomposer.recompose(judge(log())):
        assert num_read <= int(one.place.split(":")[1]) + 11
    assert num_read == 300


def test_what_has_left_does_not_count_as_waiting(rollout: Callable[..., Decision]) -> None:
    log = [rollout(f"{number // 2:03}", tokens=number % 2) for number in range(300)]
    found, recomposer = recompose(log, comparing(2), max_waiting=2, max_waiting_chars=20)
    assert len(found) == 300
    assert (recomposer.num_groups, recomposer.num_incomplete) == (150, 0)


def test_a_group_that_is_given_up_is_settled_with_those_that_came(
    rollout: Callable[..., Decision],
) -> None:
    log = [rollout(tokens=2), rollout(tokens=6), *[rollout(f"{n}", label=EVAL) for n in range(9)]]
    found, recomposer = recompose(log, comparing(3), max_waiting=4)
    assert [one.after.terms["longer"] for one in found[:2]] == [-2.0, 2.0]
    assert (recomposer.num_groups, recomposer.num_incomplete) == (1, 1)


def test_terms_see_the_new_verdict(rollout: Callable[..., Decision]) -> None:
    one = rollout(right=False, tokens=4)
    judged = Judged(LoggedDecision("a:1", one), Verdict(Reason.CORRECT, "5"), "exact", "train")
    (found,) = Recomposer(replace(comparing(2), group_size=None)).recompose([judged])
    assert found.after.reward == 1.0 + 0.5 * 4
    assert (found.after.reason, found.after.answer, found.after.grader) == ("correct", "5", "exact")
    assert found.after.terms["correctness"] == found.after.correctness == 1.0


class Failing(Term):
    def score(self, sample: Sample) -> float:
        if sample.num_tokens == 0:
            raise ValueError("self_certainty is not in the log")
        return 1.0


class FailingTogether(GroupTerm):
    def score_group(self, group: Sequence[Sample]) -> list[float]:
        return [1.0 / (one.num_tokens - 1) for one in group]


@pytest.mark.parametrize(
    ("term", "tokens", "message"),
    [
        (Failing(), 0, "a.jsonl:2: term 'mine' failed: ValueError: self_certainty is not in the"),
        (FailingTogether(), 1, "a.jsonl:1 and 1 siblings: term 'mine' failed: ZeroDivisionError"),
    ],
)
def test_a_term_that_fails_names_the_line(
    rollout: Callable[..., Decision], term: Term | GroupTerm, tokens: int, message: str
) -> None:
    with pytest.raises(RescoreError) as error:
        recompose(
            [rollout(), rollout(tokens=tokens)], Composition((WeightedTerm("mine", term),), 2)
        )
    assert str(error.value).startswith(message)


def test_a_label_that_cannot_be_parsed_names_the_line(rollout: Callable[..., Decision]) -> None:
    log = [rollout(), replace(rollout(), label={"answer": "5", "unknown": 1})]
    with pytest.raises(RescoreError, match=r"a\.jsonl:2: unknown label field 'unknown'"):
        recompose(log, default_composition(0.2))


class Remote(Tokens):
    """Answers once eight rollouts wait for it at the same time."""

    is_remote = True

    def __init__(self) -> None:
        self._all_here = threading.Barrier(8)

    def score(self, sample: Sample) -> float:
        self._all_here.wait(60)
        return super().score(sample)


def test_remote_terms_are_asked_for_several_rollouts_at_once(
    rollout: Callable[..., Decision],
) -> None:
    terms = (WeightedTerm("remote", Remote()),)
    found, _ = recompose([rollout(tokens=number) for number in range(24)], Composition(terms))
    assert [one.after.reward for one in found] == list(range(24))


class RemoteFailing(Failing):
    is_remote = True


def test_a_remote_term_that_fails_names_the_line(rollout: Callable[..., Decision]) -> None:
    log = (rollout(tokens=int(number != 500)) for number in range(10_000))
    with pytest.raises(RescoreError, match=r"a\.jsonl:501: term 'remote' failed: ValueError"):
        recompose(log, Composition((WeightedTerm("remote", RemoteFailing()),)))
    assert next(log).prompt == "Q"  # the rest was not read
