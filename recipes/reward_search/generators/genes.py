"""The grammar's candidates as data: summands with weights and conditions, written out as code.

A genome is a JSON value, {"terms": [[kind, weight, when, [numbers]]], "clip": [low, high]}. Each
kind of summand is from 0 to 1, SAR from -1 to 1, so that weights mean the same for all.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Self

_MAX_TERMS = 5
_WEIGHTS = (0.05, 0.1, 0.2, 0.4, 0.8)
_CONDITIONS: Mapping[str, str | None] = MappingProxyType(
    {"always": None, "correct": 'sample["correct"]', "wrong": 'not sample["correct"]'}
)
_CLIPS = ((-1.0, 1.0), (-1.0, 2.0), (0.0, 1.0), (0.0, 2.0))


@dataclass(frozen=True)
class _Kind:
    """One kind of summand."""

    code: str
    """An expression, with {0} and {1} for its numbers."""
    signs: tuple[int, ...]
    """The signs that its weight may have."""
    numbers: tuple[tuple[int, ...], ...] = ()
    """What each of its numbers may be."""


_TOKENS = (16, 24, 32, 48, 64, 96, 128)
_KINDS: Mapping[str, _Kind] = MappingProxyType(
    {
        "tokens": _Kind('min(1.0, sample["response_tokens"] / {0})', (-1,), (_TOKENS,)),
        "tokens_beyond": _Kind(
            'min(1.0, max(0, sample["response_tokens"] - {0}) / {1})', (-1,), (_TOKENS, _TOKENS)
        ),
        "brief": _Kind('1.0 / (1.0 + sample["response_tokens"] / {0})', (1,), (_TOKENS,)),
        "chars": _Kind('min(1.0, len(sample["response"]) / {0})', (-1,), ((100, 200, 400),)),
        "sentences": _Kind('min(1.0, sample["response"].count(". ") / {0})', (-1,), ((3, 6),)),
        "questions": _Kind('min(1.0, sample["response"].count("?") / {0})', (-1,), ((1, 2),)),
        "repeated_words": _Kind(
            '1.0 - len(set(sample["response"].split())) / max(1, len(sample["response"].split()))',
            (-1,),
        ),
        "answer_once": _Kind('1.0 if sample["response"].count("Answer:") == 1 else 0.0', (1,)),
        "equations": _Kind('min(1.0, sample["response"].count("=") / {0})', (-1, 1), ((1, 2, 4),)),
        "sar": _Kind('sample["sar"]', (1,)),
        "sar_above_0": _Kind('max(0.0, sample["sar"])', (1,)),
        "likely": _Kind('1.0 / sample["ppl_qa"]', (1,)),
        "likely_without_question": _Kind('1.0 / sample["ppl_a"]', (-1,)),
    }
)


@dataclass(frozen=True)
class Gene:
    """One summand beside correctness."""

    kind: str
    weight: float
    when: str
    numbers: tuple[int, ...]

    @classmethod
    def draw(cls, rng: random.Random) -> Self:
        kind = rng.choice(list(_KINDS))
        return cls(
            kind,
            rng.choice(_KINDS[kind].signs) * rng.choice(_WEIGHTS),
            rng.choice(list(_CONDITIONS)),
            tuple(rng.choice(choices) for choices in _KINDS[kind].numbers),
        )

    def mutate(self, rng: random.Random) -> Gene:
        """Another weight, another condition or another number."""
        parts = ["weight", "when", *range(len(self.numbers))]
        part = rng.choice(parts)
        weight, when, numbers = self.weight, self.when, list(self.numbers)
        if part == "weight":
            sign = 1 if weight > 0 else -1
            weight = sign * rng.choice([one for one in _WEIGHTS if one != abs(weight)])
        elif part == "when":
            when = rng.choice([one for one in _CONDITIONS if one != when])
        else:
            assert isinstance(part, int)
            choices = _KINDS[self.kind].numbers[part]
            numbers[part] = rng.choice([one for one in choices if one != numbers[part]])
        return Gene(self.kind, weight, when, tuple(numbers))

    def write(self) -> list[str]:
        """Its lines of code."""
        code = _KINDS[self.kind].code.format(*self.numbers)
        line = f"value += {self.weight:g} * ({code})"
        condition = _CONDITIONS[self.when]
        return [f"    {line}"] if condition is None else [f"    if {condition}:", f"        {line}"]


@dataclass(frozen=True)
class Genome:
    """A whole candidate."""

    terms: tuple[Gene, ...]
    clip: tuple[float, float]

    @classmethod
    def draw(cls, rng: random.Random) -> Self:
        num_terms = rng.choice((1, 1, 2, 2, 3))
        return cls(tuple(Gene.draw(rng) for _ in range(num_terms)), rng.choice(_CLIPS))

    @classmethod
    def from_json(cls, values: Any) -> Self:
        terms = tuple(
            Gene(kind, weight, when, tuple(n)) for kind, weight, when, n in values["terms"]
        )
        low, high = values["clip"]
        return cls(terms, (low, high))

    def to_json(self) -> Any:
        terms = [[one.kind, one.weight, one.when, list(one.numbers)] for one in self.terms]
        return {"terms": terms, "clip": list(self.clip)}

    def mutate(self, rng: random.Random) -> Genome:
        """Changes one summand, or adds, removes or replaces one, or sets another clip."""
        place = rng.randrange(len(self.terms))
        before, after = self.terms[:place], self.terms[place + 1 :]
        ways = ["change", "change", "replace", "clip"]
        ways += ["add"] * (len(self.terms) < _MAX_TERMS) + ["remove"] * (len(self.terms) > 1)
        match rng.choice(ways):
            case "change":
                return Genome((*before, self.terms[place].mutate(rng), *after), self.clip)
            case "replace":
                return Genome((*before, Gene.draw(rng), *after), self.clip)
            case "add":
                return Genome((*self.terms, Gene.draw(rng)), self.clip)
            case "remove":
                return Genome((*before, *after), self.clip)
            case _:
                return Genome(self.terms, rng.choice([one for one in _CLIPS if one != self.clip]))

    def cross(self, other: Genome, rng: random.Random) -> Genome:
        """Each summand of either, with a chance of one half; at least one."""
        both = self.terms + other.terms
        chosen = [one for one in both if rng.random() < 0.5] or [rng.choice(both)]
        return Genome(tuple(chosen[:_MAX_TERMS]), rng.choice((self.clip, other.clip)))

    def write(self) -> str:
        """The candidate's code."""
        low, high = self.clip
        lines = ["def reward(sample):", '    value = 1.0 if sample["correct"] else 0.0']
        for one in self.terms:
            lines += one.write()
        return "\n".join([*lines, f"    return max({low}, min({high}, value))"]) + "\n"
