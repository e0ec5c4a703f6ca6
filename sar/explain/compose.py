"""Gives explained rollouts the reward of a reward file.

Rollouts that the reward compares are compared with those that are there. One that is alone has no
reward, and no values of the terms that compare.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sar.explain.explanation import Explanation
from sar.terms.base import Sample
from sar.terms.composition import Composition


@dataclass(frozen=True)
class Scored:
    """A rollout as the terms see it, and its explanation."""

    sample: Sample
    explanation: Explanation
    """Its terms are those that look at one rollout alone."""


def score_alone(composition: Composition, scored: Scored) -> Scored:
    """Adds the terms that look at one rollout alone. In mode "eval", no term is computed.

    Raises:
        TermError: a term failed.
    """
    if scored.sample.label.mode == "eval":
        return scored
    return replace(
        scored,
        explanation=replace(scored.explanation, terms=composition.score(scored.sample)),
    )


def compose_rewards(composition: Composition, scored: Sequence[Scored]) -> list[Explanation]:
    """The explanations with their rewards and all terms.

    Args:
        scored: what `score_alone` returned.
    Raises:
        TermError: a term failed.
    """
    composed = [one.explanation for one in scored]
    groups: dict[tuple[str, str], list[int]] = {}
    for index, one in enumerate(scored):
        if one.sample.label.mode == "eval":
            terms = {term.name: 0.0 for term in composition.terms}
            correctness = one.sample.verdict.correctness
            composed[index] = replace(one.explanation, reward=correctness, terms=terms)
        else:
            key = one.sample.prompt, repr(one.sample.label)
            groups.setdefault(key, []).append(index)
    for indices in groups.values():
        size = composition.group_size or len(indices)
        for start in range(0, len(indices), size):
            members = indices[start : start + size]
            settled = _settle(composition, [scored[index] for index in members])
            for index, explanation in zip(members, settled, strict=True):
                composed[index] = explanation
    return composed


def _settle(composition: Composition, group: Sequence[Scored]) -> list[Explanation]:
    if composition.group_size and len(group) == 1:
        return [replace(group[0].explanation, reward=None)]
    samples = [one.sample for one in group]
    terms = composition.score_group(samples, [one.explanation.terms for one in group])
    rewards = composition.combine(samples, terms)
    return [
        replace(one.explanation, reward=reward, terms=values)
        for one, reward, values in zip(group, rewards, terms, strict=True)
    ]
