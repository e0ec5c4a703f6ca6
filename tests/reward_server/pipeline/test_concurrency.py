"""A thousand rollouts at once through OpenRLHF's own client: they share batches, which changes none
of their rewards."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Sequence
from itertools import islice
from types import SimpleNamespace
from typing import Any

import pytest
from openrlhf.utils import agent

from sar.models.problems import ArithmeticProblem, generate
from sar.prompts import DEFAULT_SYSTEM_PROMPT, render_prompt

PROBLEMS = list(islice(generate(seed=20260901, held_out=True), 256))


class _Playback:
    """The rollout engine: answers with given token ids."""

    def __init__(self, response_ids: list[int]) -> None:
        self._ids = response_ids

    async def generate(self, *_: Any, **__: Any) -> Any:
        output = SimpleNamespace(token_ids=list(self._ids), finish_reason="stop", logprobs=None)
        return SimpleNamespace(outputs=[output])


def _many(tokenizer: Any, count: int) -> list[tuple[ArithmeticProblem, list[int], bool]]:
    """Rollouts of four kinds, right and wrong, all different."""
    kinds = ("concise", "padded", "wrong_end", "unrelated")
    rollouts = []
    for index in range(count):
        problem = PROBLEMS[index // len(kinds)]
        kind = kinds[index % len(kinds)]
        ids = tokenizer.encode(getattr(problem, kind) + "<|im_end|>", add_special_tokens=False)
        numbers = re.findall(r"\d+", tokenizer.decode(ids, skip_special_tokens=True))
        rollouts.append((problem, ids, int(numbers[-1]) == problem.answer))
    return rollouts


def _all_at_once(
    server: Any, tokenizer: Any, rollouts: Sequence[tuple[ArithmeticProblem, list[int], bool]]
) -> tuple[list[dict[str, Any]], float]:
    async def gather() -> list[dict[str, Any]]:
        outputs: list[dict[str, Any]] = await asyncio.gather(
            *(
                agent.SingleTurnAgentExecutor(f"{server.url}/get_reward").execute(
                    render_prompt(tokenizer, problem.question, DEFAULT_SYSTEM_PROMPT),
                    str(problem.answer),
                    SimpleNamespace(max_tokens=None, logprobs=None),
                    1024,
                    tokenizer,
                    _Playback(ids),
                )
                for problem, ids, _ in rollouts
            )
        )
        return outputs

    started = time.monotonic()
    outputs = asyncio.run(gather())
    return outputs, time.monotonic() - started


@pytest.mark.slow
def test_concurrent_rollouts_share_batches_and_change_nothing(
    server: Any, bundled_tokenizer: Any, record_property: Any
) -> None:
    rollouts = _many(bundled_tokenizer, 1024)
    assert 240 < sum(correct for *_, correct in rollouts) < 800
    time.sleep(1.5)  # the tests before this one are another stretch of work
    before = server.request("/healthz")[1]
    outputs, elapsed_s = _all_at_once(server, bundled_tokenizer, rollouts)
    after = server.request("/healthz")[1]

    num_batches = after["batches"] - before["batches"]
    per_batch = 2048 / num_batches
    record_property("sequences_per_batch", per_batch)
    record_property("busy_share", after["busy_share"])
    print(
        f"1024 requests in {elapsed_s:.1f} s: {num_batches} batches of {per_batch:.0f} sequences, "
        f"engine busy {after['busy_share']:.0%} of the time"
    )
    assert after["sequences"] - before["sequences"] == 2048
    assert after["rollouts"] - before["rollouts"] == 1024
    assert after["in_flight"] == 0
    assert per_batch >= 64
    assert after["busy_share"] >= 0.9
    for (_, ids, correct), output in zip(rollouts, outputs, strict=True):
        assert output["scores"] == [float(correct)]
        assert output["extra_logs"]["response_tokens"] == [len(ids)]

    for rollout, together in list(zip(rollouts, outputs, strict=True))[::20]:
        (alone,), _ = _all_at_once(server, bundled_tokenizer, [rollout])
        assert alone["reward"] == pytest.approx(together["reward"], abs=1e-4)
        assert alone["scores"] == together["scores"]
        del alone["extra_logs"]["policy_age_s"]
        for name, value in alone["extra_logs"].items():
            assert value == pytest.approx(together["extra_logs"][name], rel=1e-4, abs=1e-4)
