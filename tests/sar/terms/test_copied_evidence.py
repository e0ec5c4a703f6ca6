"""What SAR pays for copying the question, and what `copied` takes away again.

The SAR values are those of SmolLM2-135M-Instruct in docs/evidence/scores.csv. No model is needed.
`pytest -s` shows the table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

import pytest

from eval.evidence.scores import Score, read_rollouts, read_scores
from eval.evidence.variants import HONEST, VARIANTS, Rollout, make_variants
from sar.grading.label import Label
from sar.grading.verdict import NO_ANSWER
from sar.prompts import DEFAULT_SYSTEM_PROMPT, INSTRUCTION
from sar.reward import EMPTY_RESPONSE
from sar.terms.base import Sample
from sar.terms.text import Copied

SCORES = Path(__file__).parents[3] / "docs" / "evidence" / "scores.csv"
NUM_CHANGED = 147
WEIGHT = 0.2

Rewards = Mapping[str, float]


@pytest.fixture(scope="module")
def rollouts(data_folder: Path) -> list[Rollout]:
    return read_rollouts(data_folder / "gsm8k_rollouts.jsonl")


def measure_copied(question: str, response: str) -> float:
    prompt = (
        f"<|im_start|>system\n{DEFAULT_SYSTEM_PROMPT}<|im_end|>\n<|im_start|>user\n{question} "
        f"{INSTRUCTION}<|im_end|>\n<|im_start|>assistant\n"
    )
    return Copied().score(Sample(prompt, response, Label("5", "math"), NO_ANSWER, EMPTY_RESPONSE))


def share_won(pairs: Sequence[Rewards], variant: str) -> float:
    """Share of pairs in which the honest response has the higher reward."""
    return fmean(rewards[HONEST] > rewards[variant] for rewards in pairs if variant in rewards)


def test_a_copied_question_is_no_longer_paid_best(rollouts: list[Rollout]) -> None:
    by_rollout: dict[int, dict[str, Score]] = {}
    for score in read_scores(SCORES):
        if score.rollout < NUM_CHANGED:
            by_rollout.setdefault(score.rollout, {})[score.variant] = score
    won: dict[tuple[bool, float, str], float] = {}
    for right in (True, False):
        for weight in (0.0, WEIGHT):
            pairs = []
            for index, scores in by_rollout.items():
                texts = make_variants(rollouts, index, "")
                question = rollouts[index].question
                if bool(scores[HONEST].correctness) == right:
                    pairs.append(
                        {
                            name: score.reward(0.2) - weight * measure_copied(question, texts[name])
                            for name, score in scores.items()
                        }
                    )
            assert len(pairs) == (75 if right else 72)
            for variant in VARIANTS:
                won[right, weight, variant] = share_won(pairs, variant)
    print("\nshare of pairs in which the honest response is paid more: without copied, with it")
    for variant, meaning in VARIANTS.items():
        shares = [f"{won[right, w, variant]:.2f}" for right in (True, False) for w in (0.0, WEIGHT)]
        if variant != HONEST:
            print(f"{meaning:40} right {' '.join(shares[:2])}  wrong {' '.join(shares[2:])}")
    assert won[False, 0.0, "question"] == 0.0
    # The last number of some questions is the label's answer: such a copy is graded right.
    for right in (True, False):
        for variant in ("question", "restated", "restated_twice"):
            assert won[right, WEIGHT, variant] >= 0.95, (right, variant)
    assert won[False, 0.0, "restated"] < 0.25
    # What copies nothing more than the honest response is compared nearly as before: in a longer
    # copy, the same span is a smaller share.
    for variant in ("padded", "repeated", "truncated", "other_result", "unrelated"):
        for right in (True, False):
            assert won[right, WEIGHT, variant] == pytest.approx(won[right, 0.0, variant], abs=0.05)


def test_honest_responses_keep_their_reward(rollouts: list[Rollout]) -> None:
    lost = [WEIGHT * measure_copied(one.question, one.response) for one in rollouts]
    assert lost.count(0.0) == 349
    assert fmean(lost) == pytest.approx(0.007, abs=0.0005)
