"""Exact on-policy SAR for OpenRLHF 0.11.2: the rollout engine scores what it wrote.

    PYTHONPATH=REPOSITORY REWARD_URLS=http://127.0.0.1:5000/get_reward \\
        python -m openrlhf.cli.train_ppo_ray --train.agent_func_path recipes/openrlhf_agent.py ...

or `ON_POLICY=1 recipes/grpo.sh MODEL`. vLLM generates the response and is then asked for both
perplexities of its very token ids; only correctness comes from a reward server. Settings are
environment variables of Ray's workers:

    REWARD_URLS      reward servers, with commas between them
    SAR_WEIGHT       weight of SAR in the reward (0.2)
    SYSTEM_PROMPT    the one that the prompts carry; empty for none (that of prepare_data.py)
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from openrlhf.utils.agent import SingleTurnAgentExecutor

try:
    from recipes.adapters.client import RewardClient, RewardError
    from sar.grading.label import parse_label
    from sar.grading.verdict import Reason, Verdict
    from sar.prompts import DEFAULT_SYSTEM_PROMPT
    from sar.reward import DEFAULT_SAR_WEIGHT, Likelihood, Reward, combine
    from sar.scoring.base import TokenSequence
    from sar.scoring.vllm_prompt_logprobs import (
        ROOM_TOKENS,
        SAMPLING_ARGUMENTS,
        read_response_logprobs,
    )
    from sar.tokenization import EncodedRollout, RolloutTokenizer
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] not in ("recipes", "sar"):
        raise
    raise ModuleNotFoundError(
        f"no module {error.name} in Ray's workers; their environment needs "
        f"PYTHONPATH={Path(__file__).resolve().parents[1]}",
        name=error.name,
    ) from error

# Of one engine, at once. More would wait at the server, where time runs out; here it does not.
_MAX_REQUESTS = 16
# What the server's answer says of the grading; what it says of likelihoods is another model's.
_OF_GRADING = ("correctness", "no_answer", "grader_timeout", "grader_crashed", "label_unreadable")

_log = logging.getLogger(__name__)


class AgentExecutor(SingleTurnAgentExecutor):
    """What OpenRLHF's rollout workers make one of, and call for each rollout."""

    def __init__(self) -> None:
        """
        Raises:
            ValueError: a setting in the environment is missing or wrong.
        """
        # Without an endpoint: the parent logs a failed request and goes on without a reward.
        super().__init__()
        urls = [url.strip() for url in os.environ.get("REWARD_URLS", "").split(",") if url.strip()]
        if not urls:
            raise ValueError(
                "REWARD_URLS is not set in Ray's workers; correctness comes from a reward server, "
                "such as REWARD_URLS=http://127.0.0.1:5000/get_reward"
            )
        self._clients = cycle([RewardClient(url) for url in urls])
        self._sar_weight = _sar_weight(os.environ.get("SAR_WEIGHT", ""))
        self._system_prompt = os.environ.get("SYSTEM_PROMPT", DEFAULT_SYSTEM_PROMPT)
        self._requests = ThreadPoolExecutor(_MAX_REQUESTS, thread_name_prefix="reward")
        # Ray hands over a copy of the tokenizer with each prompt; all are the policy's.
        self._tokenizers: dict[int, RolloutTokenizer] = {}
        self._warned_of_mismatch = False

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
        """One rollout with its reward; see `AgentExecutorBase`.

        Raises:
            LabelError: the label cannot be graded against.
            ValueError: there are images, the engine caches prefixes, or the tokenizer changes the
                prompt beyond recognition.
            RuntimeError: there is no correctness, or vLLM did not score the rollout. The training
                ends with it.
        """
        if images:
            raise ValueError("the prompt has images, and SAR is of text alone")
        if getattr(llm_engine, "kwargs", {}).get("enable_prefix_caching"):
            raise ValueError(
                "vLLM's prompt log-probabilities depend on the order of requests where it caches "
                "prefixes (vLLM issue 42019): train without --vllm.enable_prefix_caching"
            )
        mode = parse_label(label).mode
        output: dict[str, Any] = await super().execute(
            prompt, label, sampling_params, max_length, hf_tokenizer, llm_engine
        )
        tokenizer = self._tokenizer(hf_tokenizer, max_length)
        ((start, end),) = output["action_ranges"]
        ids = output["observation_tokens"]
        encoded = tokenizer.fit_to_context(ids[:start], ids[start:end])
        text = hf_tokenizer.decode(ids, skip_special_tokens=False)
        seen, response = tokenizer.split(text, prompt)
        # The server may have another tokenizer, which does not know the policy's special tokens.
        query = prompt + tokenizer.remove_special_tokens(response)
        params = type(sampling_params)(**SAMPLING_ARGUMENTS)
        graded, likelihood = await asyncio.gather(
            self._graded(query, prompt, label), _likelihood(llm_engine, params, encoded)
        )
        verdict = Verdict(Reason.CORRECT if graded["correctness"] else Reason.WRONG)
        reward = combine(verdict, likelihood, sar_weight=self._sar_weight, mode=mode)
        mismatch = tokenizer.has_other_frame(seen)
        self._warn_of(mismatch)
        return {
            **output,
            "reward": reward.value,
            "scores": reward.correctness,
            "extra_logs": _logs(reward, graded, mismatch),
        }

    def _tokenizer(self, hf_tokenizer: Any, max_length: int) -> RolloutTokenizer:
        if max_length not in self._tokenizers:
            self._tokenizers[max_length] = RolloutTokenizer(
                hf_tokenizer,
                system_prompt=self._system_prompt,
                max_context_tokens=max_length - ROOM_TOKENS,
            )
        return self._tokenizers[max_length]

    async def _graded(self, query: str, prompt: str, label: Any) -> dict[str, float]:
        client = next(self._clients)
        loop = asyncio.get_running_loop()
        try:
            (answer,) = await loop.run_in_executor(
                self._requests, client.ask, [query], [prompt], [label]
            )
        except RewardError as error:
            # A class that the trainer's process can unpickle, wherever it runs.
            raise RuntimeError(f"no correctness: {error}") from error
        return {name: answer[name] for name in _OF_GRADING}

    def _warn_of(self, mismatch: bool) -> None:
        if mismatch and not self._warned_of_mismatch:
            self._warned_of_mismatch = True
            _log.warning(
                "a prompt has another system prompt or template around its question than the "
                "empty-question prompt, so SAR compares unlike things; check SYSTEM_PROMPT (said "
                "once; template_mismatch in the logs)"
            )


async def _likelihood(engine: Any, sampling_params: Any, encoded: EncodedRollout) -> Likelihood:
    """How probable the engine finds what it wrote."""

    async def logprobs(sequence: TokenSequence) -> npt.NDArray[np.float32]:
        ids = sequence.context_ids + sequence.response_ids
        output = await engine.generate(ids, sampling_params)
        return read_response_logprobs(output.prompt_logprobs, sequence)

    return Likelihood.from_logprobs(
        encoded, await asyncio.gather(*map(logprobs, encoded.sequences))
    )


def _logs(reward: Reward, graded: dict[str, float], mismatch: bool) -> dict[str, float]:
    """The server's names, but for the policy's version: it is the policy's own."""
    likelihood = reward.likelihood
    return {
        **graded,
        "sar": likelihood.sar,
        "ppl_qa": likelihood.ppl_qa,
        "ppl_a": likelihood.ppl_a,
        "response_tokens": float(likelihood.num_response_tokens),
        "truncated": float(likelihood.truncated),
        "template_mismatch": float(mismatch),
    }


def _sar_weight(text: str) -> float:
    try:
        weight = float(text) if text else DEFAULT_SAR_WEIGHT
    except ValueError:
        weight = math.nan
    if not math.isfinite(weight):
        raise ValueError(f"SAR_WEIGHT={text!r} is not a number")
    return weight
