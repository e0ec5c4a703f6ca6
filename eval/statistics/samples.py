"""One benchmark's records as columns. Texts are dropped, so memory does not grow with them.

Shapes: N samples, P problems. A problem is a cluster: its samples share their question.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from eval.records import Record
from sar.grading.verdict import Reason

Floats = NDArray[np.float64]


class _Row(NamedTuple):
    """What statistics need of a record; nan where unknown."""

    correct: float
    no_answer: float
    truncated: float
    num_tokens: float
    reason: str | None


@dataclass(frozen=True)
class Samples:
    """One benchmark's samples, sorted by problem id and sample number.

    The order in the file does not matter, so a resumed run has the same statistics as one that was
    never interrupted.
    """

    ids: tuple[str, ...]
    """(P,) problem ids, including those with errors only."""
    problem_N: NDArray[np.int64]
    """Index into `ids`."""
    correct_N: Floats
    """0 or 1; nan for errors: the backend or the grader failed."""
    no_answer_N: Floats
    """0 or 1; nan for errors."""
    truncated_N: Floats
    """1 if the response was truncated at its maximum; nan for errors and unknown finish reasons."""
    num_tokens_N: Floats
    """nan for errors and unknown lengths."""
    reasons: dict[str, int]
    """Verdict reason -> number of graded samples."""

    @property
    def num_problems(self) -> int:
        return len(self.ids)

    @property
    def num_errors(self) -> int:
        return int(np.isnan(self.correct_N).sum())

    @property
    def samples_per_problem(self) -> int:
        """n: the largest number of samples of a problem, including errors. 0 without records."""
        return int(self.sum_per_problem(np.ones(len(self.problem_N))).max(initial=0))

    def sum_per_problem(self, values_N: Floats) -> Floats:
        """(P,) sums of the known values."""
        known = ~np.isnan(values_N)
        counted = np.bincount(self.problem_N[known], values_N[known], minlength=self.num_problems)
        return np.asarray(counted, np.float64)

    def mean_per_problem(self, values_N: Floats) -> Floats:
        """(P,) means of the known values; nan for a problem without any."""
        counts_P = self.sum_per_problem(np.where(np.isnan(values_N), np.nan, 1.0))
        return divide(self.sum_per_problem(values_N), counts_P)


def divide(numerators: Floats, denominators: Floats) -> Floats:
    """Elementwise quotient; nan where the denominator is not positive."""
    quotients: Floats = np.full(np.shape(numerators), np.nan)
    return np.divide(numerators, denominators, out=quotients, where=denominators > 0)


def collect_samples(records: Iterable[Record]) -> Samples:
    """Columns of one benchmark's records. Of several records of a sample, the last counts.

    Raises:
        ValueError: a record has neither a verdict nor an error.
    """
    latest = {record.key: _make_row(record) for record in records}
    keys = sorted(latest)
    ids = tuple(dict.fromkeys(id_ for id_, _ in keys))
    index = {id_: i for i, id_ in enumerate(ids)}
    rows = [latest[key] for key in keys]
    return Samples(
        ids=ids,
        problem_N=np.array([index[id_] for id_, _ in keys], np.int64),
        correct_N=np.array([row.correct for row in rows], np.float64),
        no_answer_N=np.array([row.no_answer for row in rows], np.float64),
        truncated_N=np.array([row.truncated for row in rows], np.float64),
        num_tokens_N=np.array([row.num_tokens for row in rows], np.float64),
        reasons=dict(sorted(Counter(row.reason for row in rows if row.reason).items())),
    )


_ERROR = _Row(np.nan, np.nan, np.nan, np.nan, None)


def _make_row(record: Record) -> _Row:
    if record.error is not None:
        return _ERROR
    if record.correct is None:
        raise ValueError(
            f"record {record.id!r}, sample {record.sample}: has neither a verdict nor an error"
        )
    tokens, finish = record.num_tokens, record.finish_reason
    return _Row(
        correct=float(record.correct),
        no_answer=float(record.reason == Reason.NO_ANSWER),
        truncated=np.nan if finish is None else float(finish == "length"),
        num_tokens=np.nan if tokens is None else float(tokens),
        reason=record.reason,
    )
