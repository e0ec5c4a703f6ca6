"""recipes/sampled_logprobs.py with vLLM itself, in float32."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import statistics
import time
from collections.abc import Awaitable, Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recipes.cpu_demo.leftovers import Leftovers
from recipes.sampled_logprobs import SamplingRecorder
from sar.models.problems import generate
from sar.prompts import DEFAULT_SYSTEM_PROMPT, render_prompt
from sar.scoring.base import TokenSequence
from sar.scoring.vllm_prompt_logprobs import SAMPLING_ARGUMENTS, read_response_logprobs

ROOT = Path(__file__).parents[2]
CONTEXT_TOKENS = 512
NUM_ROUNDS, NUM_ROLLOUTS = 5, 32
PROBLEMS = list(islice(generate(seed=77, held_out=True), NUM_ROLLOUTS))


@pytest.fixture
def in_engine(
    bundled_model_path: Path, monkeypatch: pytest.MonkeyPatch, run_environ: dict[str, str]
) -> Callable[..., Any]:
    """Runs a coroutine with an engine: OpenRLHF's rollout worker, without Ray around it."""
    for name, value in run_environ.items():
        if name.startswith(("VLLM_", "OMP_")):
            monkeypatch.setenv(name, value)

    leftovers = Leftovers()
    for name, value in leftovers.environ.items():
        monkeypatch.setenv(name, value)

    def run(use: Callable[[Any], Awaitable[Any]], **options: Any) -> Any:
        async def start_and_use() -> Any:
            import vllm
            from openrlhf.trainer.ray.vllm_engine import RolloutRayActor

            worker = object.__new__(RolloutRayActor.__ray_metadata__.modified_class)
            worker.kwargs, worker._mm_pad_token_ids = {}, None
            worker.llm = vllm.AsyncLLMEngine.from_engine_args(
                vllm.AsyncEngineArgs(
                    model=str(bundled_model_path), dtype="float32", enforce_eager=True,
                    max_model_len=CONTEXT_TOKENS, enable_prefix_caching=False, **options,
                )
            )  # fmt: skip
            try:
                leftovers.look()
                return await use(worker)
            finally:
                worker.llm.shutdown()
                leftovers.remove_shared_memory()

        return asyncio.run(start_and_use())

    return run


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch, server: Any) -> Any:
    """The recipes' agent, loaded as OpenRLHF loads it."""
    monkeypatch.setenv("REWARD_URLS", server.url + "/get_reward")
    path = ROOT / "recipes" / "openrlhf_agent.py"
    spec = importlib.util.spec_from_file_location("agent_module", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.AgentExecutor()


async def sample(
    worker: Any, tokenizer: Any, n: int, **params: Any
) -> tuple[TokenSequence, np.ndarray[Any, Any] | None, np.ndarray[Any, Any]]:
    """One response, the log-probabilities that came with it, and those of a prefill pass."""
    from vllm import SamplingParams

    prompt = render_prompt(tokenizer, PROBLEMS[n].question, DEFAULT_SYSTEM_PROMPT)
    prompt_ids = tokenizer.encode(prompt)
    recorder = SamplingRecorder(worker)
    output = await recorder.generate(prompt_ids, SamplingParams(max_tokens=60, **params))
    sequence = TokenSequence(prompt_ids, list(output.outputs[0].token_ids))
    scored = await worker.generate(
        prompt_ids + sequence.response_ids, SamplingParams(**SAMPLING_ARGUMENTS)
    )
    expected_T = read_response_logprobs(scored.prompt_logprobs, sequence)
    return sequence, recorder.logprobs_of(sequence), expected_T


def test_generation_gives_the_numbers_of_a_prefill_pass_and_saves_it(
    in_engine: Any, agent: Any, bundled_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However the tokens are sampled: vLLM's raw log-probabilities are the model's own."""
    sampling: list[dict[str, Any]] = [
        {}, {"temperature": 0.0}, {"temperature": 0.6, "top_p": 0.8}, {"temperature": 1.5},
        {"top_k": 2}, {"min_p": 0.3}, {"repetition_penalty": 1.5}, {"min_tokens": 30},
    ]  # fmt: skip

    async def compare(worker: Any) -> list[float]:
        worst = 0.0
        for n, params in enumerate(sampling):
            _, sampled_T, expected_T = await sample(worker, bundled_tokenizer, n, **params)
            assert sampled_T is not None
            worst = max(worst, float(np.abs(sampled_T - expected_T).max()))
        print(f"\nlog-probabilities of generation and of prefill: off by {worst:.1e} at most")
        assert worst < 1e-4
        return await measure_saving(worker)

    async def measure_saving(worker: Any) -> list[float]:
        """Times the agent with and without the recorded numbers, in turns."""
        from vllm import SamplingParams

        async def run_round() -> float:
            start_s = time.perf_counter()
            outputs = await asyncio.gather(
                *(
                    agent.execute(
                        render_prompt(bundled_tokenizer, one.question, DEFAULT_SYSTEM_PROMPT),
                        json.dumps({"answer": str(one.answer)}),
                        SamplingParams(max_tokens=64, seed=n),
                        CONTEXT_TOKENS,
                        bundled_tokenizer,
                        worker,
                    )
                    for n, one in enumerate(PROBLEMS)
                )
            )
            assert len(outputs) == NUM_ROLLOUTS
            return time.perf_counter() - start_s

        ratios = []
        await run_round()
        for _ in range(NUM_ROUNDS):
            recorded_s = await run_round()
            with monkeypatch.context() as patch:
                patch.setattr(SamplingRecorder, "logprobs_of", lambda *_: None)
                ratios.append(recorded_s / await run_round())
        return ratios

    ratios = in_engine(compare)
    shown = ", ".join(f"{ratio:.2f}" for ratio in ratios)
    print(f"time of {NUM_ROLLOUTS} rollouts without the pass after the prompt, to that with it: "
          f"{statistics.median(ratios):.2f} ({shown})")  # fmt: skip


def test_processed_logprobs_are_not_taken_for_the_models(
    in_engine: Any, bundled_tokenizer: Any
) -> None:
    """What OpenRLHF sets with --algo.advantage.is_correction_level."""

    async def compare(worker: Any) -> None:
        assert worker.llm.model_config.logprobs_mode == "processed_logprobs"
        sequence, sampled_T, expected_T = await sample(
            worker, bundled_tokenizer, 0, temperature=0.6, logprobs=1
        )
        assert sampled_T is None
        # They would have been wrong.
        recorder = SamplingRecorder(worker)
        recorder._is_raw = True
        from vllm import SamplingParams

        await recorder.generate(sequence.context_ids, SamplingParams(max_tokens=60, top_k=1))
        recorded_T = recorder._logprobs_T
        assert recorded_T is not None
        assert np.allclose(recorded_T, 0.0)
        assert expected_T.mean() < -1e-3

    in_engine(compare, logprobs_mode="processed_logprobs")
