"""GDPO through OpenRLHF's own advantages, with the flags that recipes/grpo.sh chooses for it.

The expected numbers are computed here from the paper's formulas (arXiv:2601.05242): each term is
normalised within its group, weighted and summed; the sums are whitened over the batch, each rollout
counted once for each of its tokens, as OpenRLHF does.
"""

from __future__ import annotations

import json
import os
import random
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sar.grading.label import Label
from sar.grading.verdict import Reason, Verdict
from sar.reward import Likelihood
from sar.terms.base import Sample, TermError
from sar.terms.composition import Composition
from sar.terms.reward_file import read_reward_file

pytestmark = pytest.mark.slow  # each test starts a server or a trainer's code

ROOT = Path(__file__).parents[2]
SIZE = 6
WEIGHTS = {"correctness": 1.0, "sar": 0.2, "entropy": 0.5}
FILE = f"""
group_size = {SIZE}
normalize = "gdpo"
""" + "".join(
    f'[[terms]]\nterm = "{name}"\nweight = {weight}\n' for name, weight in WEIGHTS.items()
)
Advantages = list[list[list[float]]]
Floats = np.ndarray[Any, np.dtype[np.float64]]


@dataclass
class Batch:
    """The rollouts of a training step: R of them, group by group."""

    correct_R: list[bool]
    nll_R: list[tuple[float, float]]
    lengths: list[int]

    @classmethod
    def draw(cls, seed: int, num_groups: int) -> Batch:
        draw = random.Random(seed)
        size = num_groups * SIZE
        return cls(
            [draw.random() < 0.5 for _ in range(size)],
            [(draw.uniform(0, 2), draw.uniform(0, 3)) for _ in range(size)],
            [draw.randrange(1, 40) for _ in range(size)],
        )

    def make_samples(self) -> list[Sample]:
        return [
            Sample(
                "2+3?",
                "5",
                Label("5", "math"),
                Verdict(Reason.CORRECT if correct else Reason.WRONG),
                Likelihood(*nll, length, over_context=False),
            )
            for correct, nll, length in zip(self.correct_R, self.nll_R, self.lengths, strict=True)
        ]

    def compose(self, composition: Composition) -> list[float]:
        """The rewards that the server gives."""
        samples = self.make_samples()
        rewards = []
        for start in range(0, len(samples), SIZE):
            group = samples[start : start + SIZE]
            scores = composition.score_group(group, [composition.score(one) for one in group])
            rewards += composition.combine(group, scores)
        return rewards

    def compute_sums(self) -> Floats:
        """(R,) sums of normalised terms, before the whitening."""
        qa_R, a_R = np.array(self.nll_R).T
        values = {
            "correctness": np.array(self.correct_R, dtype=float),
            "sar": np.maximum(-1.0, 1 - np.exp(qa_R - a_R)),
            "entropy": -qa_R,
        }
        sums_R = np.zeros(len(qa_R))
        for name, weight in WEIGHTS.items():
            for start in range(0, len(qa_R), SIZE):
                group = slice(start, start + SIZE)
                of_group = values[name][group]
                deviation = np.std(of_group, ddof=1)
                sums_R[group] += weight * (of_group - np.mean(of_group)) / (deviation + 1e-4)
        return sums_R

    def compute_advantages(self) -> Floats:
        """(R,) GDPO's advantages."""
        sums_R, lengths_R = self.compute_sums(), np.array(self.lengths)
        sums_T = np.repeat(sums_R, lengths_R)  # of all T tokens of the batch
        advantages_R: Floats = (sums_R - sums_T.mean()) / np.sqrt(max(sums_T.var(), 1e-8))
        return advantages_R


Compute = Callable[[Sequence[list[float]], Sequence[list[int]]], Advantages]


@pytest.fixture(scope="module")
def composition(tmp_path_factory: pytest.TempPathFactory) -> Composition:
    return read_reward_file(_write_file(tmp_path_factory.mktemp("file")))


def _write_file(folder: Path) -> Path:
    path = folder / "gdpo.toml"
    path.write_text(FILE)
    return path


@pytest.fixture(scope="module")
def compute(tmp_path_factory: pytest.TempPathFactory) -> Compute:
    """OpenRLHF's advantages, with the flags of `REWARD=gdpo.toml recipes/grpo.sh`."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "train.jsonl").write_text("{}\n" * 128)
    (folder / "eval.jsonl").write_text("{}\n")
    environ = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "DATA": str(folder), "REWARD": str(_write_file(folder)), "GPUS_PER_NODE": "1",
    }  # fmt: skip
    shown = subprocess.run(
        [str(ROOT / "recipes/grpo.sh"), "Gemma-3-1B", "--dry-run"],
        env=environ, capture_output=True, text=True, check=True, timeout=600,
    )  # fmt: skip
    words = shlex.split(shown.stdout.replace("\\\n", " "))
    flags = words[words.index("openrlhf.cli.train_ppo_ray") + 1 :]

    def run(rewards: Sequence[list[float]], lengths: Sequence[list[int]]) -> Advantages:
        batches = [
            {"rewards": one, "lengths": of} for one, of in zip(rewards, lengths, strict=True)
        ]
        done = subprocess.run(
            [sys.executable, str(Path(__file__).with_name("openrlhf_advantages.py"))],
            input=json.dumps({"flags": flags, "batches": batches}),
            capture_output=True, text=True, timeout=600,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        advantages: Advantages = json.loads(done.stdout)
        return advantages

    return run


def test_advantages_are_those_of_gdpo(composition: Composition, compute: Compute) -> None:
    batches = [Batch.draw(seed, num_groups) for seed, num_groups in enumerate((1, 2, 7, 30))]
    found = compute([one.compose(composition) for one in batches], [b.lengths for b in batches])
    for batch, advantages in zip(batches, found, strict=True):
        expected_R = batch.compute_advantages()
        assert np.ptp(expected_R) > 1
        for of_tokens, length, expected in zip(advantages, batch.lengths, expected_R, strict=True):
            assert len(of_tokens) == length
            assert of_tokens == pytest.approx([expected] * length, abs=1e-5)


def test_groups_without_variance_have_no_advantage(
    composition: Composition, compute: Compute
) -> None:
    """Alone, and beside a group with variance. There, responses have one length, because whitening
    subtracts the mean over all tokens, which is 0 only then."""
    alike = Batch([True] * SIZE, [(0.7, 1.1)] * SIZE, list(range(1, SIZE + 1)))
    other = Batch.draw(3, 1)
    both = Batch(alike.correct_R + other.correct_R, alike.nll_R + other.nll_R, [9] * (2 * SIZE))
    rewards = [one.compose(composition) for one in (alike, both)]
    assert rewards[0] == rewards[1][:SIZE] == [0.0] * SIZE
    alone, beside = compute(rewards, [alike.lengths, both.lengths])
    assert alone == [[0.0] * length for length in alike.lengths]
    for of_tokens in beside[:SIZE]:
        assert of_tokens == pytest.approx([0.0] * 9, abs=1e-6)
    assert max(abs(of_tokens[0]) for of_tokens in beside[SIZE:]) > 0.1


def test_a_nan_never_leaves(composition: Composition) -> None:
    batch = Batch.draw(1, 1)
    batch.nll_R[2] = (float("nan"), 1.0)
    with pytest.raises(TermError, match="not a finite number"):
        batch.compose(composition)
