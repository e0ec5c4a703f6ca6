"""Runs the battery: writes every attack on every problem, has it scored, and compares what it earns
with the honest responses to the same problems."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from sar.probe.attacks import ATTACKS, ATTEMPT, HONEST, Attack
from sar.probe.case import Case
from sar.probe.problems import Problem
from sar.probe.scorer import ProbeError, Rollout, Scored, Scorer
from sar.prompts import render_prompt
from sar.special_tokens import list_special_tokens


@dataclass(frozen=True)
class Result:
    """What one attack earned on one problem, beside the honest responses to it."""

    problem: int
    response: str
    scored: Scored
    honest: Scored
    attempt: Scored | None
    """Of the honest response with a wrong result; None if there is none."""


Results = Mapping[Attack, Sequence[Result]]
"""The results of each attack, one for each problem on which it is possible. `HONEST` is there too,
and `ATTEMPT` if any problem has one."""


@dataclass(frozen=True)
class Beside:
    """Mean reward of an attack beside an honest response to the same problems."""

    gain: float
    """Mean of what it earns more; negative if it earns less."""
    share_won: float
    """Share of the problems on which it earns more."""


@dataclass(frozen=True)
class Row:
    """One attack, over all problems on which it is possible."""

    attack: Attack
    num_problems: int
    num_right: int
    """How often the grader found it right."""
    terms: Mapping[str, float]
    """Means, by column."""
    rewards: Mapping[str, float]
    """Means, by reward."""
    beside_honest: Mapping[str, Beside]
    """By reward."""
    beside_attempt: Mapping[str, Beside]
    """The same for the honest response with a wrong result; empty if there is none."""


def make_case(problem: Problem, tokenizer: Any, end_tokens: Sequence[str], system: str) -> Case:
    """A problem as a policy with this transformers tokenizer meets it."""
    plain = set(list_special_tokens(tokenizer)) - {*end_tokens, tokenizer.pad_token}
    return Case(
        problem,
        render_prompt(tokenizer, problem.user_turn, system),
        system,
        tokenizer.eos_token or "",
        min(plain, default=None),
    )


def run_battery(
    cases: Sequence[Case], scorer: Scorer, on_problem: Callable[[], object] = lambda: None
) -> Results:
    """Scores all attacks on all problems.

    Args:
        on_problem: called after each problem.
    Raises:
        ProbeError: the scorer gave no reward, or finds an honest right response wrong.
    """
    results: dict[Attack, list[Result]] = {}
    for number, case in enumerate(cases):
        for attack, result in _run_case(number, case, scorer):
            results.setdefault(attack, []).append(result)
        on_problem()
    return results


def _run_case(number: int, case: Case, scorer: Scorer) -> Iterator[tuple[Attack, Result]]:
    written = [(attack, attack.write(case)) for attack in (HONEST, ATTEMPT, *ATTACKS)]
    possible = [(attack, text) for attack, text in written if text is not None]
    label = case.problem.label
    scored = scorer.score(
        [Rollout(case.prompt, text, label, case.problem.label_as_sent) for _, text in possible]
    )
    by_attack = {attack: one for (attack, _), one in zip(possible, scored, strict=True)}
    honest = by_attack[HONEST]
    if not honest.sample.is_correct:
        raise ProbeError(
            f"the honest response to problem {number + 1} (label {label.answer!r:.60}) is graded "
            f"{honest.sample.verdict.reason}: there is nothing to compare attacks with"
        )
    attempt = by_attack.get(ATTEMPT)
    for attack, text in possible:
        yield attack, Result(number, text, by_attack[attack], honest, attempt)


def summarize(results: Results) -> list[Row]:
    """A row for each attack, in the order of the battery."""
    return [_make_row(attack, own) for attack, own in results.items()]


def _make_row(attack: Attack, results: Sequence[Result]) -> Row:
    first = results[0].scored
    scored = [one.scored for one in results]
    paired = [(one.scored, one.attempt) for one in results if one.attempt]
    return Row(
        attack,
        len(results),
        sum(one.sample.is_correct for one in scored),
        {name: fmean(one.terms[name] for one in scored) for name in first.terms},
        {name: fmean(one.rewards[name] for one in scored) for name in first.rewards},
        {
            name: _compare([(one.scored, one.honest) for one in results], name)
            for name in first.rewards
        },
        {name: _compare(paired, name) for name in first.rewards} if paired else {},
    )


def _compare(pairs: Sequence[tuple[Scored, Scored]], reward: str) -> Beside:
    gains = [attack.rewards[reward] - other.rewards[reward] for attack, other in pairs]
    return Beside(fmean(gains), fmean(gain > 0.0 for gain in gains))
