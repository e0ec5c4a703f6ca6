"""On-policy SAR for OpenRLHF 0.11.2: the vLLM engine that writes a rollout also scores it.

    PYTHONPATH=REPOSITORY REWARD_URLS=http://127.0.0.1:5000/get_reward \\
        python -m openrlhf.cli.train_ppo_ray --train.agent_func_path recipes/openrlhf_agent.py ...

or `ON_POLICY=1 recipes/grpo.sh MODEL`. ppl_qa comes from the log-probabilities that vLLM computes
while it generates the response (sampled_logprobs.py says when), ppl_a from a prefill pass over the
same token ids. A reward server gives the correctness only. Settings are environment variables of
Ray's workers:

    REWARD_URLS      reward servers, separated by commas
    SAR_WEIGHT       weight of SAR in the reward (default: 0.2)
    REWARD           a reward file (docs/rewards.md), in place of correctness + SAR_WEIGHT x SAR
    SYSTEM_PROMPT    the prompts' system prompt, empty for none (default: prepare_data.py's)
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
    from recipes.launch.reward import check_on_policy
    from recipes.sampled_logprobs import SamplingRecorder
    from recipes.siblings import Sibling, Siblings
    from sar.grading.label import parse_label
    from sar.grading.verdict import Reason, Verdict
    from sar.prompts import DEFAULT_SYSTEM_PROMPT
    from sar.reward import DEFAULT_SAR_WEIGHT, Likelihood
    from sar.scoring.base import TokenSequence
    from sar.scoring.vllm_prompt_logprobs import (
        ROOM_TOKENS,
        SAMPLING_ARGUMENTS,
        read_response_logprobs,
    )
    from sar.terms.base import Sample, TermError
    from sar.terms.composition import Composition
    from sar.terms.reward_file import default_composition, read_reward_file
    from sar.tokenization import EncodedRollout, RolloutTokenizer
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] not in ("recipes", "sar"):
        raise
    raise ModuleNotFoundError(
        f"Ray's workers cannot import {error.name}; their environment needs "
        f"PYTHONPATH={Path(__file__).resolve().parents[1]}",
        name=error.name,
    ) from error

# Requests of one engine at a time. The rest wait here: waiting at the server counts towards its
# time limit.
_MAX_REQUESTS = 16
# The fields of the server's answer to use. Its likelihoods are those of another model.
_GRADING_FIELDS = (
    "correctness",
    "no_answer",
    "grader_timeout",
    "grader_crashed",
    "label_unreadable",
)

_log = logging.getLogger(__name__)


class AgentExecutor(SingleTurnAgentExecutor):
    """OpenRLHF's rollout workers create one of these and call it for each rollout."""

    def __init__(self) -> None:
        """
        Raises:
            ValueError: a setting in the environment is missing or wrong.
        """
        # No URL for the parent: it would log a failed request and continue without a reward.
        super().__init__()
        urls = [url.strip() for url in os.environ.get("REWARD_URLS", "").split(",") if url.strip()]
        if not urls:
            raise ValueError(
                "REWARD_URLS is not set in Ray's workers; a reward server must give the "
                "correctness: REWARD_URLS=http://127.0.0.1:5000/get_reward"
            )
        self._clients = cycle([RewardClient(url) for url in urls])
        self._composition, self._logs_terms = _read_composition()
        self._siblings = Siblings(self._composition)
        self._system_prompt = os.environ.get("SYSTEM_PROMPT", DEFAULT_SYSTEM_PROMPT)
        self._requests = ThreadPoolExecutor(_MAX_REQUESTS, thread_name_prefix="reward")
        self._terms = ThreadPoolExecutor(_MAX_REQUESTS, thread_name_prefix="terms")
        # By maximum length. Kept, because Ray passes a new copy of the tokenizer with each prompt.
        self._tokenizers: dict[int, RolloutTokenizer] = {}
        self._has_warned = False

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
        """Generates one rollout and computes its reward. Any error ends the training.

        Args, Returns: see OpenRLHF's `AgentExecutorBase`.
        Raises:
            LabelError: the label is not valid.
            ValueError: there are images, the engine caches prefixes, the rollout has several
                turns, or the prompt cannot be found in the decoded rollout.
            RuntimeError: no server gave the correctness, a term of the reward gave no number, or
                vLLM did not score the rollout.
        """
        if images:
            raise ValueError("the prompt has images, and SAR is defined for text only")
        if getattr(llm_engine, "kwargs", {}).get("enable_prefix_caching"):
            raise ValueError(
                "prefix caching makes vLLM's prompt log-probabilities depend on the order of "
                "requests (vLLM issue 42019): train without --vllm.enable_prefix_caching"
            )
        # First of all, before the engine lets another rollout run: see `Siblings`.
        with self._siblings.join(sampling_params) as sibling:
            truth = parse_label(label)
            recorder = SamplingRecorder(llm_engine)
            output: dict[str, Any] = await super().execute(
                prompt, label, sampling_params, max_length, hf_tokenizer, recorder
            )
            tokenizer = self._get_tokenizer(hf_tokenizer, max_length)
            ids = output["observation_tokens"]
            start, end = _find_response(output)
            encoded = tokenizer.fit_to_context(ids[:start], ids[start:end])
            text = hf_tokenizer.decode(ids, skip_special_tokens=False)
            seen_prompt, response = tokenizer.split(text, prompt)
            # The server's tokenizer may not know the policy's special tokens.
            query = prompt + tokenizer.remove_special_tokens(response)
            params = type(sampling_params)(**SAMPLING_ARGUMENTS)
            grade, likelihood = await asyncio.gather(
                self._fetch_grade(query, prompt, label),
                _score(llm_engine, params, encoded, recorder),
            )
            sample = Sample(
                seen_prompt,
                tokenizer.make_graded_text(seen_prompt, response),
                truth,
                _make_verdict(grade),
                likelihood,
            )
            reward, terms = await self._compose(sample, sibling)
        mismatch = tokenizer.has_other_frame(seen_prompt)
        self._warn_once(mismatch)
        logs = _make_logs(likelihood, grade, mismatch)
        if self._logs_terms:
            logs |= {f"term_{name}": value for name, value in terms.items()}
        return {
            **output,
            "reward": reward,
            "scores": sample.verdict.correctness,
            "extra_logs": logs,
        }

    async def _compose(self, sample: Sample, sibling: Sibling) -> tuple[float, dict[str, float]]:
        """The reward, and the values of its terms. In mode "eval", the correctness alone.

        Raises:
            RuntimeError: a term gave no number. Not a TermError, so that the trainer's process can
                unpickle it without this repository.
        """
        if sample.label.mode == "eval":
            return sample.verdict.correctness, {one.name: 0.0 for one in self._composition.terms}
        # Terms may take long, or wait for a server: the engine's event loop must not.
        try:
            scores = await asyncio.get_running_loop().run_in_executor(
                self._terms, self._composition.score, sample
            )
            return await sibling.settle(sample, scores)
        except TermError as error:
            raise RuntimeError(f"no reward: {error}") from error

    def _get_tokenizer(self, hf_tokenizer: Any, max_length: int) -> RolloutTokenizer:
        if max_length not in self._tokenizers:
            self._tokenizers[max_length] = RolloutTokenizer(
                hf_tokenizer,
                system_prompt=self._system_prompt,
                max_context_tokens=max_length - ROOM_TOKENS,
            )
        return self._tokenizers[max_length]

    async def _fetch_grade(self, query: str, prompt: str, label: Any) -> dict[str, float]:
        client = next(self._clients)
        loop = asyncio.get_running_loop()
        try:
            (answer,) = await loop.run_in_executor(
                self._requests, client.ask, [query], [prompt], [label]
            )
        except RewardError as error:
            # A RuntimeError: the trainer's process can unpickle it without this repository.
            raise RuntimeError(f"no correctness: {error}") from error
        return {name: answer[name] for name in _GRADING_FIELDS}

    def _warn_once(self, mismatch: bool) -> None:
        if mismatch and not self._has_warned:
            self._has_warned = True
            _log.warning(
                "a prompt differs from the empty-question prompt in its system prompt or template, "
                "which makes SAR wrong; check SYSTEM_PROMPT (this warning comes only once; "
                "template_mismatch in the logs counts such prompts)"
            )


def _find_response(output: dict[str, Any]) -> tuple[int, int]:
    """Start and end of the response in a rollout's tokens.

    Raises:
        ValueError: the rollout has several turns.
    """
    if (num_ranges := len(output["action_ranges"])) != 1:
        raise ValueError(
            f"the rollout has {num_ranges} action ranges; SAR is defined for one response to "
            "one prompt (docs/training.md, 'Several turns')"
        )
    ((start, end),) = output["action_ranges"]
    return start, end


async def _score(
    engine: Any, sampling_params: Any, encoded: EncodedRollout, recorder: SamplingRecorder
) -> Likelihood:
    """Computes how likely the engine finds the response, after each of the two prompts.

    A sequence whose log-probabilities were recorded takes no pass of the engine.
    """

    async def score_sequence(sequence: TokenSequence) -> npt.NDArray[np.float32]:
        if (recorded_T := recorder.logprobs_of(sequence)) is not None:
            return recorded_T
        ids = sequence.context_ids + sequence.response_ids
        output = await engine.generate(ids, sampling_params)
        return read_response_logprobs(output.prompt_logprobs, sequence)

    return Likelihood.from_logprobs(
        encoded, await asyncio.gather(*map(score_sequence, encoded.sequences))
    )


def _make_verdict(grade: dict[str, float]) -> Verdict:
    """The server's verdict, as far as its answer says."""
    reasons = {
        "correctness": Reason.CORRECT,
        "no_answer": Reason.NO_ANSWER,
        "grader_timeout": Reason.TIMEOUT,
        "grader_crashed": Reason.CRASHED,
    }
    reason = next((one for name, one in reasons.items() if grade[name]), Reason.WRONG)
    return Verdict(reason, label_unreadable=bool(grade["label_unreadable"]))


def _make_logs(likelihood: Likelihood, grade: dict[str, float], mismatch: bool) -> dict[str, float]:
    """The same fields as the server's `extra_logs`, without the version and age of its weights."""
    return {
        **grade,
        "sar": likelihood.sar,
        "ppl_qa": likelihood.ppl_qa,
        "ppl_a": likelihood.ppl_a,
        "response_tokens": float(likelihood.num_response_tokens),
        "over_context": float(likelihood.over_context),
        "template_mismatch": float(mismatch),
    }


def _read_composition() -> tuple[Composition, bool]:
    """The reward, and whether it comes from a reward file.

    Raises:
        LaunchError: a term needs what the agent does not compute.
        ValueError: the file or SAR_WEIGHT is wrong, or both are set.
    """
    path, weight = os.environ.get("REWARD", ""), os.environ.get("SAR_WEIGHT", "")
    if path and weight:
        raise ValueError(f"SAR_WEIGHT={weight} and REWARD={path}: set one of them")
    if path:
        composition = read_reward_file(Path(path))
        check_on_policy(composition)
        return composition, True
    return default_composition(_parse_sar_weight(weight)), False


def _parse_sar_weight(text: str) -> float:
    try:
        weight = float(text) if text else DEFAULT_SAR_WEIGHT
    except ValueError:
        weight = math.nan
    if not math.isfinite(weight):
        raise ValueError(f"SAR_WEIGHT={text!r} is not a number")
    return weight
