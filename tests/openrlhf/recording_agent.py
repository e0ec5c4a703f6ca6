"""The recipes' agent; for each rollout it also writes down what it did, into $ROLLOUTS_FILE.

For comparison it lets the engine score the response in a prefill pass, which the agent itself does
without.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from recipes import openrlhf_agent
from sar.scoring.base import TokenSequence
from sar.scoring.vllm_prompt_logprobs import SAMPLING_ARGUMENTS, read_response_logprobs


class CountingEngine:
    """OpenRLHF's rollout engine, and how often it was asked."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self.num_calls = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    async def generate(self, *args: Any, **kwargs: Any) -> Any:
        self.num_calls += 1
        return await self._engine.generate(*args, **kwargs)


class AgentExecutor(openrlhf_agent.AgentExecutor):
    async def execute(
        self,
        prompt: str,
        label: Any,
        sampling_params: Any,
        max_length: int,
        hf_tokenizer: Any,
        llm_engine: Any,
        images: Any = None,
    ) -> dict[str, Any]:
        engine = CountingEngine(llm_engine)
        output: dict[str, Any] = await super().execute(
            prompt, label, sampling_params, max_length, hf_tokenizer, engine, images
        )
        ((start, _),) = output["action_ranges"]
        ids = output["observation_tokens"]
        params = type(sampling_params)(**SAMPLING_ARGUMENTS)
        scored = await llm_engine.generate(ids, params)
        sequence = TokenSequence(ids[:start], ids[start:])
        logprobs_T = read_response_logprobs(scored.prompt_logprobs, sequence)
        record = {
            "prompt_ids": sequence.context_ids,
            "response_ids": sequence.response_ids,
            "mode": json.loads(label)["mode"],
            "reward": output["reward"],
            "score": output["scores"],
            "num_calls": engine.num_calls,
            "prefill_nll_qa": -float(logprobs_T.mean()),
            **output["extra_logs"],
        }
        with Path(os.environ["ROLLOUTS_FILE"]).open("a") as file:
            file.write(json.dumps(record) + "\n")
        return output
