"""The benchmark of candidates: it calls them, and its figures come out."""

from __future__ import annotations

from itertools import islice

import pytest

from performance import candidates
from sar.terms.candidate.runner import CandidateRunner


def test_the_candidates_tell_responses_apart() -> None:
    samples = list(islice(candidates._make_samples(), 12))
    assert all(100 < len(one["response"].split()) < 400 for one in samples)
    for source in (candidates._FORMULA, candidates._READER):
        rewards = CandidateRunner(source).score_all(samples)
        right = [r for one, r in zip(samples, rewards, strict=True) if one["correct"]]
        wrong = [r for one, r in zip(samples, rewards, strict=True) if not one["correct"]]
        assert min(right) > max(wrong)


@pytest.mark.slow
def test_the_figures_come_out() -> None:
    measured = candidates.measure(quick=True)
    assert [len(one.samples) for one in measured] == [2, 2]
    assert all(one.at_least == 2000 and min(one.samples) > 0 for one in measured)
