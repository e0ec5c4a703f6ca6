"""Calls a candidate."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from sar.errors import quote
from sar.terms.candidate.errors import CandidateError
from sar.terms.candidate.sample import FIELDS, PlainSample
from sar.terms.candidate.sandbox import Limits, run
from sar.terms.candidate.source import FUNCTION, check_source, iterates_over_sample

_INPUT = "__sample"


class CandidateRunner:
    """A candidate that can be called. Thread-safe; calls know nothing of each other.

    A reward is an int or a float. A bool is refused, as for other terms: it is mostly a comparison
    that was meant to be a condition.
    """

    def __init__(self, source: str, limits: Limits | None = None) -> None:
        """
        Raises:
            CandidateError: the source is refused; see `check_source`.
        """
        check_source(source)
        self.source = source
        self.limits = limits or Limits()
        self._code = f"{source}\n{FUNCTION}({_INPUT})"
        self._takes_list = iterates_over_sample(source)

    def score(self, sample: PlainSample) -> float:
        """The candidate's reward for one rollout.

        Raises:
            CandidateError: the call failed, or gave no valid number.
            SandboxError: the sandbox or the machine is at fault.
        """
        return self.measure(sample)[0]

    def measure(self, sample: PlainSample) -> tuple[float, float]:
        """As `score`, and the CPU seconds of the call."""
        try:
            outcome = run(self._code, {_INPUT: _make_sendable(sample)}, self.limits)
        except CandidateError as error:
            if self._takes_list and "string indices" in str(error):
                message = f"{error}; the argument is one rollout, a dictionary, not a list"
                raise CandidateError(message, error.fault) from error
            raise
        return check_reward(outcome.value, self.limits.max_abs), outcome.cpu_s

    def score_all(self, samples: Iterable[PlainSample]) -> list[float]:
        """The rewards of several rollouts, one call after the other."""
        return [self.score(sample) for sample in samples]


def check_reward(value: object, max_abs: float) -> float:
    """
    Raises:
        CandidateError: the value is not a finite number between -max_abs and max_abs.
    """
    if isinstance(value, bool):
        raise _refuse("a bool; write 1.0 if ... else 0.0")
    if not isinstance(value, (int, float)):
        raise _refuse(f"{_describe(value)}; return a float on every path")
    if isinstance(value, float) and not math.isfinite(value):
        raise _refuse(f"{value}, not a finite number")
    if abs(value) > max_abs:
        raise _refuse(f"{quote(value, 40)}; it must lie between {-max_abs:g} and {max_abs:g}")
    return float(value)


def _refuse(what: str) -> CandidateError:
    return CandidateError(f"{FUNCTION} returned {what}", "result")


def _describe(value: object) -> str:
    """What was returned. Never the `repr` of what holds other values: one that holds the same list
    many times, over and over, has no end."""
    if value is None:
        return "nothing"
    if isinstance(value, str):
        return f"the text {quote(value[:60])}"
    return f"{type(value).__name__}, which is no number"


def _make_sendable(sample: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a sample. Half a surrogate pair, which is no text in UTF-8, becomes `?`."""
    fields = {name: sample[name] for name in FIELDS}
    for name, value in fields.items():
        if isinstance(value, str) and not value.isascii():
            fields[name] = value.encode("utf-8", "replace").decode("utf-8")
    return fields
