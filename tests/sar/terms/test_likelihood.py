"""Terms from the policy's likelihoods."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sar.grading.label import Label
from sar.grading.verdict import Reason, Verdict
from sar.reward import Likelihood
from sar.terms.base import Sample, TermError
from sar.terms.composition import Composition, WeightedTerm
from sar.terms.likelihood import (
    Confidence,
    Entropy,
    ReferenceLikelihood,
    SelfAlignedReward,
    SelfCertainty,
)
from sar.terms.reward_file import RewardFileError, default_composition, read_reward_file

NLLS = st.floats(0, 20)
PLAIN = Likelihood(nll_qa=0.5, nll_a=1.5, num_response_tokens=7, over_context=False)
NEEDY = replace(PLAIN, self_certainty=8.25, reference_gain=-0.75)


def sample(likelihood: Likelihood) -> Sample:
    return Sample("2+3?", "5", Label("5", "math"), Verdict(Reason.CORRECT), likelihood)


@given(NLLS, NLLS)
def test_the_formulas(nll_qa: float, nll_a: float) -> None:
    one = sample(Likelihood(nll_qa, nll_a, num_response_tokens=7, over_context=False))
    ppl_qa, ppl_a = math.exp(nll_qa), math.exp(nll_a)
    expected_sar = max(-1.0, (ppl_a - ppl_qa) / ppl_a)
    assert SelfAlignedReward().score(one) == pytest.approx(expected_sar, abs=1e-9)
    assert Confidence().score(one) == pytest.approx(-ppl_qa)
    assert Entropy().score(one) == pytest.approx(-math.log(ppl_qa), abs=1e-9)


def test_what_the_scorer_computed_for_a_term_is_its_value() -> None:
    assert SelfCertainty().score(sample(NEEDY)) == 8.25
    assert ReferenceLikelihood().score(sample(NEEDY)) == -0.75


@pytest.mark.parametrize(
    ("term", "name"),
    [
        (SelfCertainty(), "no self-certainty"),
        (ReferenceLikelihood(), "no likelihood of the reference answer"),
    ],
)
def test_a_missing_value_is_an_error_and_never_a_reward(
    term: SelfCertainty | ReferenceLikelihood, name: str
) -> None:
    with pytest.raises(ValueError, match=f"the rollout has {name}"):
        term.score(sample(PLAIN))
    with pytest.raises(TermError, match=f"term 'mine' failed: .*{name}"):
        Composition((WeightedTerm("mine", term),)).score(sample(PLAIN))


def test_a_composition_says_what_its_terms_need() -> None:
    assert default_composition(0.2).needs == frozenset()
    one = WeightedTerm("a", SelfCertainty())
    other = WeightedTerm("b", ReferenceLikelihood())
    assert Composition((one,)).needs == {"self_certainty"}
    assert Composition((one, other, one)).needs == {"self_certainty", "reference_gain"}


def test_self_certainty_does_not_come_from_vllm() -> None:
    default_composition(0.2).raise_if_vllm_cannot_compute()
    other = WeightedTerm("b", ReferenceLikelihood())
    Composition((other,)).raise_if_vllm_cannot_compute()
    composition = Composition((other, WeightedTerm("sure", SelfCertainty())))
    with pytest.raises(ValueError, match=r"^term 'sure' needs .* use --backend transformers$"):
        composition.raise_if_vllm_cannot_compute()


def test_both_are_in_a_reward_file(tmp_path: Path) -> None:
    file = tmp_path / "reward.toml"
    tables = [f'[[terms]]\nterm = "{name}"' for name in ("self_certainty", "reference_likelihood")]
    file.write_text("\n".join(tables))
    terms = [one.term for one in read_reward_file(file).terms]
    assert terms == [SelfCertainty(), ReferenceLikelihood()]


@pytest.mark.parametrize("kind", ["Term", "GroupTerm"])
def test_a_term_of_the_users_own_that_needs_something_unknown_is_refused(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / f"needy_{kind}.py").write_text(
        f"from sar.terms.base import {kind}\n"
        f"class Needy({kind}):\n"
        "    needs = frozenset({'self_certainty', 'nll_b'})\n"
        "    def score(self, sample): return 0\n"
        "    def score_group(self, group): return [0] * len(group)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "reward.toml"
    group_size = "group_size = 2" if kind == "GroupTerm" else ""
    file.write_text(f'{group_size}\n[[terms]]\nterm = "needy_{kind}:Needy"\n')
    with pytest.raises(RewardFileError, match=r"needs 'nll_b', which is unknown; known: "):
        read_reward_file(file)
