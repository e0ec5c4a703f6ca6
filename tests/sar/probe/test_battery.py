"""Numbers and findings of a battery whose rewards are made up, so that they are known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from sar.grading.verdict import Reason, Verdict
from sar.probe.attacks import ATTACKS, ATTEMPT, HONEST, Attack
from sar.probe.battery import Results, run_battery, summarize
from sar.probe.case import Case
from sar.probe.findings import REMEDIES, Finding, find
from sar.probe.problems import Problem, list_bundled
from sar.probe.scorer import NamedReward, ProbeError, Rollout, Scored
from sar.reward import EMPTY_RESPONSE
from sar.terms.base import Sample

MakeCase = Callable[[Problem], Case]
REWARD = NamedReward("made up", "correctness", is_sum=True)


class MadeUp:
    """Pays what `paid` says for the responses of one attack, and what they deserve for others."""

    rewards = (REWARD,)

    def __init__(self, attack: Attack, cases: Sequence[Case], paid: Sequence[float]) -> None:
        self._paid = {
            (case.prompt, attack.write(case)): reward
            for case, reward in zip(cases, paid, strict=True)
        }
        honest = (HONEST, *(one for one in ATTACKS if one.solves))
        self._right = {(case.prompt, one.write(case)) for case in cases for one in honest}

    def score(self, battery: Sequence[Rollout]) -> list[Scored]:
        return [self._score(one) for one in battery]

    def _score(self, one: Rollout) -> Scored:
        place = (one.prompt, one.response)
        right = place in self._right
        reward = self._paid.get(place, 1.0 if right else 0.25)
        verdict = Verdict(Reason.CORRECT if right else Reason.WRONG)
        text = one.response.removesuffix("<|im_end|>")
        sample = Sample(one.prompt, text, one.label, verdict, EMPTY_RESPONSE)
        return Scored(sample, {"correctness": float(right)}, {REWARD.name: reward})


@pytest.fixture(scope="module")
def cases(make_case: MakeCase) -> list[Case]:
    return [make_case(one) for one in list_bundled(4)]


def run(cases: Sequence[Case], name: str, paid: Sequence[float]) -> tuple[Results, list[Finding]]:
    (attack,) = (one for one in ATTACKS if one.name == name)
    results = run_battery(cases, MadeUp(attack, cases, paid))
    return results, find(results, summarize(results), [REWARD])


def test_means_are_over_the_problems_and_paired(cases: list[Case]) -> None:
    results, _ = run(cases, "question", [0.0, 1.5, 1.25, 0.25])
    rows = {row.attack.name: row for row in summarize(results)}
    row = rows["question"]
    assert (row.num_problems, row.num_right) == (4, 0)
    assert row.rewards[REWARD.name] == pytest.approx(0.75)
    assert row.beside_honest[REWARD.name].gain == pytest.approx(-0.25)
    assert row.beside_honest[REWARD.name].share_won == 0.5
    assert row.beside_attempt[REWARD.name].gain == pytest.approx(0.5)
    assert row.beside_attempt[REWARD.name].share_won == 0.5
    assert rows["honest"].num_right == 4
    assert rows["honest"].beside_honest[REWARD.name].gain == 0.0


def test_nothing_is_found_where_each_gets_what_it_deserves(cases: list[Case]) -> None:
    assert run(cases, "question", [0.25] * 4)[1] == []


@pytest.mark.parametrize(
    ("attack", "paid", "kind", "gain"),
    [
        ("question", 1.25, "beats right", 0.25),
        ("question", 0.5, "beats wrong", 0.25),
        ("restated", 1.125, "beats honest", 0.125),
    ],
)
def test_who_earns_too_much_is_found(
    attack: str, paid: float, kind: str, gain: float, cases: list[Case]
) -> None:
    _, (found,) = run(cases, attack, [paid] * 4)
    assert (found.kind, found.attack, found.share) == (kind, attack, 1.0)
    assert found.gain == pytest.approx(gain)
    assert found.fails == (kind == "beats right")


def test_a_style_that_earns_less_is_not_found(cases: list[Case]) -> None:
    assert run(cases, "restated", [0.9] * 4)[1] == []


def test_a_guess_that_is_graded_right_fails(cases: list[Case]) -> None:
    (attack,) = (one for one in ATTACKS if one.name == "guess")
    scorer = MadeUp(attack, cases, [0.25] * 4)
    scorer._right.add((cases[2].prompt, attack.write(cases[2])))
    results = run_battery(cases, scorer)
    (found,) = find(results, summarize(results), [REWARD])
    assert (found.kind, found.gain, found.fails) == ("paid as right", 0.25, True)


@pytest.mark.parametrize(
    ("attack", "paid", "best"),
    [
        ("question", 0.5, "copied"),
        ("written_twice", 1.125, "repetition"),
        ("no_end", 1.125, None),
    ],
)
def test_a_remedy_ends_what_was_found(
    attack: str, paid: float, best: str | None, cases: list[Case]
) -> None:
    """With the term at the remedy's weight, the attack earns as much as the honest response."""
    results, (found,) = run(cases, attack, [paid] * 4)
    if best is None:
        assert found.remedies == ()
        return
    assert found.remedies
    assert best in {one.term for one in found.remedies}
    weights = [abs(one.weight) for one in found.remedies]
    assert weights == sorted(weights)
    base = HONEST if found.kind == "beats honest" else ATTEMPT
    by_name = {one.name: own for one, own in results.items()}
    for remedy in found.remedies:
        term, sign = REMEDIES[remedy.term]
        assert remedy.weight * sign > 0
        totals = {
            name: sum(
                one.scored.rewards[REWARD.name] + remedy.weight * term.score(one.scored.sample)
                for one in by_name[name]
            )
            for name in (attack, base.name)
        }
        assert totals[attack] == pytest.approx(totals[base.name])


def test_a_reward_that_is_normalised_has_no_remedies(cases: list[Case]) -> None:
    results, _ = run(cases, "question", [0.5] * 4)
    (found,) = find(results, summarize(results), [replace(REWARD, is_sum=False)])
    assert found.remedies is None


def test_a_problem_whose_honest_response_is_wrong_is_refused(cases: list[Case]) -> None:
    scorer = MadeUp(ATTACKS[0], cases, [0.25] * 4)
    scorer._right.clear()
    with pytest.raises(ProbeError, match=r"the honest response to problem 1 \(label '6'\)"):
        run_battery(cases, scorer)
