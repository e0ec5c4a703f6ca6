"""Composes a reward from terms: a weighted sum, or GDPO's sum of normalised terms.

GDPO (arXiv:2601.05242): each term is normalised within its group before the sum, so that a term
whose values vary much does not drown the others. The trainer whitens the sums over its batch.
A term with `only_if` is 0 where its condition fails, before it is normalised.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Mapping, Sequence, Set, Sized
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import numpy as np
import numpy.typing as npt

from sar.errors import one_line
from sar.grading.label import Label
from sar.terms.base import GroupTerm, Sample, Term, TermError
from sar.terms.likelihood import SelfAlignedReward
from sar.tokenization import NO_NEEDS, Need

Condition = Literal["correct", "wrong"]
Normalization = Literal["none", "gdpo"]

# The trainers' numbers have 32 bits, and end at 3.4e38: this leaves room for weights and sums.
_MAX_VALUE = 1e32
_EPSILON = 1e-4  # TRL's, in its own normalisation of terms


@dataclass(frozen=True)
class WeightedTerm:
    """One summand of a reward."""

    name: str
    """Its name in the logs: the term's, unless the reward file gives another."""
    term: Term | GroupTerm
    weight: float = 1.0
    only_if: Condition | None = None

    def applies_to(self, sample: Sample) -> bool:
        return self.only_if is None or sample.is_correct == (self.only_if == "correct")


@dataclass(frozen=True)
class Composition:
    """The terms of a reward, and how they are summed."""

    terms: tuple[WeightedTerm, ...]
    group_size: int | None = None
    """Rollouts of one prompt. None: no part of the reward compares them."""
    normalize: Normalization = "none"

    @property
    def formula(self) -> str:
        """The reward in one line, such as "correctness + 0.2 sar"."""
        summands = [
            f"{'-' if one.weight < 0 else '+'} "
            + ("" if abs(one.weight) == 1 else f"{abs(one.weight):g} ")
            + one.name
            + (f" (if {one.only_if})" if one.only_if else "")
            for one in self.terms
        ]
        total = " ".join(summands).removeprefix("+ ")
        total = f"GDPO({total})" if self.normalize == "gdpo" else total
        return total if self.group_size is None else f"{total}, in groups of {self.group_size}"

    @property
    def weight_of_sar(self) -> float:
        """0 if SAR is no term of the reward."""
        return sum(one.weight for one in self.terms if isinstance(one.term, SelfAlignedReward))

    @property
    def needs(self) -> frozenset[Need]:
        """What the terms read beyond the two perplexities, for `RolloutTokenizer.encode`."""
        return NO_NEEDS.union(*(one.term.needs for one in self.terms))

    def raise_if_vllm_cannot_compute(self) -> None:
        """
        Raises:
            ValueError: a term needs what vLLM cannot compute.
        """
        for one in self.terms:
            if "self_certainty" in one.term.needs:
                raise ValueError(
                    f"term {one.name!r} needs the model's logits, which vLLM does not return; use "
                    "--backend transformers"
                )

    def check_label(self, label: Label) -> None:
        """Refuses a label with which a term has no value. In mode "eval" no term is computed.

        Raises:
            ValueError: the message names the term, and says what each label needs.
        """
        for one in self.terms:
            if label.mode == "train" and isinstance(one.term, Term):
                try:
                    one.term.check_label(label)
                except ValueError as error:
                    raise ValueError(f"term {one.name!r}: {error}") from error

    def score(self, sample: Sample) -> dict[str, float]:
        """The values of the terms that look at one rollout alone.

        Raises:
            TermError: a term failed, or its value is not a finite number.
        """
        return {
            one.name: self._score_alone(one.name, one.term, sample)
            for one in self.terms
            if isinstance(one.term, Term)
        }

    def score_group(
        self, group: Sequence[Sample], scores: Sequence[Mapping[str, float]]
    ) -> list[dict[str, float]]:
        """Adds the values of the terms that compare rollouts.

        Args:
            scores: for each rollout, what `score` returned.
        Raises:
            TermError: a term failed, or gave a wrong count or a value that is not a finite number.
        """
        complete = [dict(one) for one in scores]
        for one in self.terms:
            if isinstance(one.term, GroupTerm):
                values = self._score_together(one.name, one.term, group)
                for scored, value in zip(complete, values, strict=True):
                    scored[one.name] = value
        return complete

    def combine(
        self, group: Sequence[Sample], scores: Sequence[Mapping[str, float]]
    ) -> list[float]:
        """The rewards of a group's rollouts, from the values of all terms."""
        rewards = np.zeros(len(group))
        for one in self.terms:
            values = np.array(
                [
                    scored[one.name] if one.applies_to(sample) else 0.0
                    for sample, scored in zip(group, scores, strict=True)
                ]
            )
            rewards += one.weight * (_normalize(values) if self.normalize == "gdpo" else values)
        return rewards.tolist()

    @staticmethod
    def _score_alone(name: str, term: Term, sample: Sample) -> float:
        try:
            return _check_value(term.score(sample))
        except BaseException as error:  # a term of the user's own may raise anything
            _raise_if_interrupted(error)
            raise TermError(_describe(name, term, error)) from error

    @staticmethod
    def _score_together(name: str, term: GroupTerm, group: Sequence[Sample]) -> list[float]:
        try:
            # A tuple, so that no term can change the order or the number of the rollouts.
            return _check_values(term.score_group(tuple(group)), len(group))
        except BaseException as error:  # a term of the user's own may raise anything
            _raise_if_interrupted(error)
            raise TermError(_describe(name, term, error)) from error


def _raise_if_interrupted(error: BaseException) -> None:
    """Raises the error again if it is the user's Ctrl-C. Python raises that in the main thread."""
    is_main = threading.current_thread() is threading.main_thread()
    if isinstance(error, KeyboardInterrupt) and is_main:
        raise error


def _describe(name: str, term: Term | GroupTerm, error: BaseException) -> str:
    """What went wrong, and for a term of the user's own, in which line of its module."""
    module = type(term).__module__
    line = 0
    trace = None if module.startswith("sar.") else error.__traceback__
    while trace:
        if trace.tb_frame.f_globals.get("__name__") == module:
            line = trace.tb_lineno
        trace = trace.tb_next
    where = f" (line {line} of {module})" if line else ""
    return f"term {name!r} failed: {one_line(error)}{where}"


def _check_values(values: object, num_rollouts: int) -> list[float]:
    if isinstance(values, (Set, Mapping)):
        raise TypeError(f"its values are a {type(values).__name__}, which has no order")
    if not isinstance(values, Iterable):
        raise TypeError(f"its values are {type(values).__name__}, not a list")
    # What it returns may have no end.
    checked = [_check_value(value) for value in islice(values, num_rollouts + 1)]
    if isinstance(values, Sized) and len(values) != num_rollouts:
        raise ValueError(f"{len(values)} values for {num_rollouts} rollouts")
    if len(checked) != num_rollouts:
        at_least = "at least " * (len(checked) > num_rollouts)
        raise ValueError(f"{at_least}{len(checked)} values for {num_rollouts} rollouts")
    return checked


def _check_value(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.floating, np.integer)):
        raise TypeError(f"its value is {type(value).__name__}, not a number")
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"its value is {number}, not a finite number")
    if abs(number) > _MAX_VALUE:
        raise ValueError(f"its value is {number:g}, beyond {_MAX_VALUE:g}")
    return number


def _normalize(values_G: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(G,) values of one term in a group -> the same with mean 0 and deviation 1. Zero variance
    gives 0. The deviation is that of a sample, as in the trainers (torch.std)."""
    if len(values_G) < 2 or np.ptp(values_G) == 0.0:
        return np.zeros_like(values_G)
    deviation = float(values_G.std(ddof=1))
    normalized_G: npt.NDArray[np.float64] = (values_G - values_G.mean()) / (deviation + _EPSILON)
    return normalized_G
