"""Groups in a rollout worker: rewards, failures, and prompts that are alike."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Any

import pytest

from recipes.siblings import Siblings
from sar.grading.label import Label
from sar.grading.verdict import Reason, Verdict
from sar.reward import Likelihood
from sar.terms.base import GroupTerm, Sample, Term
from sar.terms.composition import Composition, WeightedTerm

SIZE = 4


class Length(Term):
    def score(self, sample: Sample) -> float:
        return float(sample.num_tokens)


class Rank(GroupTerm):
    """How many of the group are shorter."""

    def score_group(self, group: Sequence[Sample]) -> list[float]:
        return [float(sum(b.num_tokens < a.num_tokens for b in group)) for a in group]


COMPOSITION = Composition(
    (WeightedTerm("length", Length(), 0.5), WeightedTerm("rank", Rank(), 10.0)), SIZE
)


def make_sample(num_tokens: int) -> Sample:
    likelihood = Likelihood(0.5, 1.0, num_tokens, False)
    return Sample("2+3?", "5", Label("5", "math"), Verdict(Reason.CORRECT), likelihood)


async def execute(siblings: Siblings, call: Any, num_tokens: int, wait_s: float = 0.0) -> Any:
    """As the agent's `execute`: enters, writes for a while, and settles."""
    with siblings.join(call) as sibling:
        await asyncio.sleep(wait_s)
        if num_tokens < 0:
            raise KeyError("the engine")
        sample = make_sample(num_tokens)
        return await sibling.settle(sample, COMPOSITION.score(sample))


async def generate(siblings: Siblings, lengths: Sequence[int], waits: Sequence[float]) -> list[Any]:
    """As OpenRLHF's `generate_responses`."""
    call = object()
    tasks = [execute(siblings, call, *one) for one in zip(lengths, waits, strict=True)]
    return await asyncio.gather(*tasks)


def test_each_call_is_a_group_in_whatever_order_its_rollouts_end() -> None:
    draw = random.Random(0)
    calls = [[draw.randrange(50) for _ in range(SIZE)] for _ in range(30)]

    async def run() -> list[list[Any]]:
        siblings = Siblings(COMPOSITION)
        done = await asyncio.gather(
            *(generate(siblings, one, [draw.random() / 20 for _ in one]) for one in calls)
        )
        assert siblings._groups == {}
        return done

    for lengths, settled in zip(calls, asyncio.run(run()), strict=True):
        for length, (reward, terms) in zip(lengths, settled, strict=True):
            rank = sum(other < length for other in lengths)
            assert terms == {"length": length, "rank": rank}
            assert reward == 0.5 * length + 10.0 * rank


@pytest.mark.parametrize("waits", [[0, 0.02, 0.02, 0.02], [0.02, 0, 0, 0], [0, 0, 0, 0]])
def test_a_rollout_that_fails_ends_its_call_and_no_other(waits: list[float]) -> None:
    async def run() -> None:
        siblings = Siblings(COMPOSITION)
        good = asyncio.create_task(generate(siblings, [1, 2, 3, 4], [0.1] * SIZE))
        tasks = [
            asyncio.create_task(execute(siblings, siblings, length, wait_s))
            for length, wait_s in zip([-1, 1, 2, 3], waits, strict=True)
        ]
        first, *others = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 10)
        assert isinstance(first, KeyError)
        for other in others:
            assert isinstance(other, RuntimeError)
            assert str(other) == (
                "another rollout of the same prompt failed: KeyError: 'the engine'"
            )
        assert [reward for reward, _ in await good] == [0.5, 11.0, 21.5, 32.0]
        assert siblings._groups == {}

    asyncio.run(run())


@pytest.mark.parametrize("num_rollouts", [1, SIZE - 1, SIZE + 1, 2 * SIZE])
def test_another_number_of_rollouts_is_an_error_that_names_the_flag(num_rollouts: int) -> None:
    running = generate(Siblings(COMPOSITION), range(num_rollouts), [0.0] * num_rollouts)
    with pytest.raises(ValueError, match=rf"has {num_rollouts} rollouts, .* N_SAMPLES={SIZE}"):
        asyncio.run(asyncio.wait_for(running, 10))


def test_a_term_that_fails_fails_all(caplog: pytest.LogCaptureFixture) -> None:
    class Bad(GroupTerm):
        def score_group(self, group: Sequence[Sample]) -> list[float]:
            return [float("nan")] * len(group)

    composition = Composition((WeightedTerm("bad", Bad()),), SIZE)

    async def run() -> list[Any]:
        siblings = Siblings(composition)

        async def one() -> Any:
            with siblings.join(siblings) as sibling:
                await asyncio.sleep(0)
                return await sibling.settle(make_sample(1), {})

        return await asyncio.gather(*(one() for _ in range(SIZE)), return_exceptions=True)

    errors = asyncio.run(asyncio.wait_for(run(), 10))
    assert all("term 'bad' failed: ValueError: its value is nan" in str(error) for error in errors)
    assert "never retrieved" not in caplog.text


def test_a_reward_without_groups_waits_for_nobody() -> None:
    async def run() -> Any:
        siblings = Siblings(Composition((WeightedTerm("length", Length(), 2.0),)))
        call = object()
        with siblings.join(call) as sibling, siblings.join(call):
            return await asyncio.wait_for(sibling.settle(make_sample(3), {"length": 3.0}), 10)

    assert asyncio.run(run()) == (6.0, {"length": 3.0})
