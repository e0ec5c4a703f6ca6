"""recipes/siblings.py where it runs: OpenRLHF's `generate_responses` in an actor of Ray's.

What it assumes of both: the rollouts of one call share their `sampling_params` object, and no other
call has it, even if prompts, labels and parameters are equal.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from recipes.siblings import Siblings
from sar.grading.label import Label
from sar.grading.verdict import Reason, Verdict
from sar.reward import Likelihood
from sar.terms.base import GroupTerm, Sample
from sar.terms.composition import Composition, WeightedTerm

ROOT = Path(__file__).parents[2]
SIZE, NUM_CALLS = 4, 24


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    import ray

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as folder:
        ray.init(
            address="local", num_cpus=1, num_gpus=0, include_dashboard=False,
            object_store_memory=80_000_000, _temp_dir=folder,
            runtime_env={"env_vars": {"PYTHONPATH": str(ROOT)}},
        )  # fmt: skip
        yield ray
        ray.shutdown()


def make_worker() -> type[Any]:
    """A rollout worker with OpenRLHF's own method. Its rollouts take their time and write a text of
    any length. The class is in a function so that Ray passes it on by value."""

    class Rank(GroupTerm):
        """How many of the group are shorter."""

        def score_group(self, group: Any) -> list[float]:
            return [float(sum(b.num_tokens < a.num_tokens for b in group)) for a in group]

    class Executor:
        def __init__(self) -> None:
            self.siblings = Siblings(Composition((WeightedTerm("rank", Rank()),), SIZE))

        async def execute(self, *, sampling_params: Any, **_: Any) -> tuple[int, float]:
            with self.siblings.join(sampling_params) as sibling:
                await asyncio.sleep(random.random() / 2)
                length = random.randrange(10**6)
                likelihood = Likelihood(0.5, 1.0, length, False)
                sample = Sample(
                    "2+3?", "5", Label("5", "math"), Verdict(Reason.CORRECT), likelihood
                )
                reward, _terms = await sibling.settle(sample, {})
                return length, reward

    from openrlhf.trainer.ray.vllm_engine import RolloutRayActor

    class Worker:
        generate_responses = RolloutRayActor.__ray_metadata__.modified_class.generate_responses

        def __init__(self) -> None:
            self.executor = Executor()

        async def count_groups(self) -> int:
            return len(self.executor.siblings._groups)

    return Worker


def test_calls_that_are_alike_are_groups_of_their_own(ray: Any) -> None:
    from vllm import SamplingParams

    worker = ray.remote(make_worker()).remote()
    params = SamplingParams(temperature=1.0, max_tokens=9)
    calls = [
        worker.generate_responses.remote(
            prompt="2+3?", label="5", sampling_params=params, max_length=99, hf_tokenizer=None,
            num_samples=SIZE, images=None,
        )
        for _ in range(NUM_CALLS)
    ]  # fmt: skip
    for group in ray.get(calls, timeout=120):
        lengths = [length for length, _ in group]
        assert len(lengths) == SIZE
        for length, reward in group:
            assert reward == sum(other < length for other in lengths)
    assert ray.get(worker.count_groups.remote()) == 0
