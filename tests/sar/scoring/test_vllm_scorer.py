"""The vLLM scorer without vLLM: stand-ins shaped like vLLM 0.29.0's classes (vllm/logprobs.py,
vllm/outputs.py, vllm/entrypoints/llm.py), over a model small enough to compute by hand."""

from __future__ import annotations

import dataclasses
import math
import os
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sar.perplexity import mean_nll
from sar.scoring import LogprobScorer, TokenSequence
from sar.scoring.vllm_scorer import VllmScorer

ROOT = Path(__file__).parents[3]
VOCABULARY = 31
# The stand-in for a model: what follows a token depends on that token and its position.
LOGITS = np.random.default_rng(0).normal(scale=3.0, size=(64, VOCABULARY, VOCABULARY))


@dataclasses.dataclass
class FlatLogprobs:
    start_indices: list[int] = dataclasses.field(default_factory=list)
    end_indices: list[int] = dataclasses.field(default_factory=list)
    token_ids: list[int] = dataclasses.field(default_factory=list)
    logprobs: list[float] = dataclasses.field(default_factory=list)
    ranks: list[int | None] = dataclasses.field(default_factory=list)
    decoded_tokens: list[str | None] = dataclasses.field(default_factory=list)

    def __len__(self) -> int:
        return len(self.start_indices)

    def add(self, entry: tuple[int, float] | None) -> None:
        """A position with one entry, or with none: vLLM gives the first token no probability."""
        self.start_indices.append(len(self.logprobs))
        if entry is not None:
            self.token_ids.append(entry[0])
            self.logprobs.append(entry[1])
            self.ranks.append(1)
            self.decoded_tokens.append(None)
        self.end_indices.append(len(self.logprobs))


@dataclasses.dataclass
class RequestOutput:
    request_id: str
    prompt: str | None
    prompt_token_ids: list[int] | None
    prompt_logprobs: FlatLogprobs | None
    outputs: list[Any]
    finished: bool


class SamplingParams:
    def __init__(self, **given: Any) -> None:
        self.given = given


class LLM:
    """Takes what `vllm.LLM` takes of us, and remembers it."""

    def __init__(self, model: str, **given: Any) -> None:
        self.given = {"model": model, **given}
        self.calls: list[tuple[Any, ...]] = []
        model_config = types.SimpleNamespace(
            max_model_len=64, dtype="torch.bfloat16", architectures=["Qwen3ForCausalLM"]
        )
        parallel = types.SimpleNamespace(tensor_parallel_size=given.get("tensor_parallel_size", 1))
        self.llm_engine = types.SimpleNamespace(
            vllm_config=types.SimpleNamespace(
                model_config=model_config,
                parallel_config=parallel,
                device_config=types.SimpleNamespace(device_type="cuda"),
                cache_config=types.SimpleNamespace(
                    gpu_memory_utilization=given.get("gpu_memory_utilization")
                ),
            )
        )

    def generate(
        self, prompts: list[dict[str, Any]], sampling_params: Any = None, *, use_tqdm: bool = True
    ) -> list[RequestOutput]:
        self.calls.append((prompts, sampling_params, use_tqdm))
        return [self._output(i, prompt["prompt_token_ids"]) for i, prompt in enumerate(prompts)]

    def _output(self, index: int, ids: list[int]) -> RequestOutput:
        flat = FlatLogprobs()
        flat.add(None)
        for position in range(1, len(ids)):
            row = LOGITS[position - 1, ids[position - 1]]
            flat.add((ids[position], float(row[ids[position]] - np.logaddexp.reduce(row))))
        return RequestOutput(str(index), None, ids, flat, [], finished=True)


def reference(sequence: TokenSequence) -> list[float]:
    """Written apart from the stand-in: probabilities of single steps, in plain Python."""
    logprobs = []
    for number, token in enumerate(sequence.response_ids):
        before = (sequence.context_ids + sequence.response_ids[:number])[-1]
        row = LOGITS[len(sequence.context_ids) + number - 1][before]
        total = math.fsum(math.exp(logit) for logit in row)
        logprobs.append(math.log(math.exp(row[token]) / total))
    return logprobs


def drawn(num: int, longest: int = 30) -> list[TokenSequence]:
    rng = np.random.default_rng(1)
    return [
        TokenSequence(
            rng.integers(0, VOCABULARY, rng.integers(1, longest)).tolist(),
            rng.integers(0, VOCABULARY, rng.integers(1, longest)).tolist(),
        )
        for _ in range(num)
    ]


def scored(*sequences: TokenSequence) -> list[np.ndarray]:
    return VllmScorer(LLM("m"), SamplingParams()).response_logprobs(sequences)


def test_log_probabilities_are_the_models_and_in_order() -> None:
    sequences = drawn(40)
    results = scored(*sequences)
    assert len(results) == len(sequences)
    for logprobs, sequence in zip(results, sequences, strict=True):
        assert logprobs.dtype == np.float32
        assert logprobs.shape == (len(sequence.response_ids),)
        np.testing.assert_allclose(logprobs, reference(sequence), rtol=0, atol=1e-5)
    backwards = scored(*reversed(sequences))
    for one, other in zip(results, reversed(backwards), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    "sequence",
    [
        TokenSequence([3], [4]),
        TokenSequence([3], [4, 4, 4]),
        TokenSequence([3, 1, 2], [7]),
        TokenSequence([0], [0, 0]),
    ],
)
def test_the_shortest_contexts_and_responses(sequence: TokenSequence) -> None:
    (logprobs,) = scored(sequence)
    np.testing.assert_allclose(logprobs, reference(sequence), rtol=0, atol=1e-5)


def test_no_sequences_do_not_reach_vllm() -> None:
    engine = LLM("m")
    assert VllmScorer(engine, SamplingParams()).response_logprobs([]) == []
    assert engine.calls == []


def test_self_certainty_is_refused() -> None:
    engine = LLM("m")
    asking = [TokenSequence([1], [2]), TokenSequence([1], [2], wants_certainty=True)]
    with pytest.raises(ValueError, match="vLLM returns no logits"):
        VllmScorer(engine, SamplingParams()).response_logprobs(asking)
    assert not engine.calls


def test_what_vllm_is_asked() -> None:
    engine, parameters = LLM("m"), SamplingParams()
    VllmScorer(engine, parameters).response_logprobs(
        [TokenSequence([1, 2], [3]), TokenSequence([4], [5, 6])]
    )
    prompts = [{"prompt_token_ids": [1, 2, 3]}, {"prompt_token_ids": [4, 5, 6]}]
    assert engine.calls == [(prompts, parameters, False)]


def test_the_arguments_are_left_as_they_are() -> None:
    sequence = TokenSequence([1, 2], [3, 4])
    scored(sequence)
    assert sequence == TokenSequence([1, 2], [3, 4])


def test_room_is_left_for_the_token_that_vllm_generates() -> None:
    scorer: LogprobScorer = VllmScorer(LLM("m", gpu_memory_utilization=0.9), SamplingParams())
    assert scorer.max_context_tokens == 63


def damaged(change: Any) -> VllmScorer:
    """A scorer whose engine answers wrongly: `change` edits the flat lists of the last answer."""
    engine: Any = LLM("m")
    answer = engine.generate

    def generate(*args: Any, **kwargs: Any) -> list[RequestOutput]:
        outputs: list[RequestOutput] = answer(*args, **kwargs)
        change(outputs)
        return outputs

    engine.generate = generate
    return VllmScorer(engine, SamplingParams())


def drop_last(flat: FlatLogprobs) -> None:
    for column in (flat.start_indices, flat.end_indices, flat.token_ids, flat.logprobs):
        column.pop()


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda outputs: outputs.pop(), RuntimeError, "1 results for 2 sequences"),
        (lambda outputs: outputs.append(outputs[0]), RuntimeError, "3 results for 2 sequences"),
        (lambda outputs: outputs.reverse(), RuntimeError, "not the 3 of the sequence"),
        (lambda outputs: setattr(outputs[1], "prompt_logprobs", None), RuntimeError, "of 0 tokens"),
        (lambda outputs: drop_last(outputs[1].prompt_logprobs), RuntimeError, "of 2 tokens"),
        (lambda outputs: outputs[1].prompt_logprobs.add((9, -1.0)), RuntimeError, "of 4 tokens"),
        (
            lambda outputs: outputs[1].prompt_logprobs.logprobs.pop(),
            RuntimeError,
            "not the 3 of the sequence",
        ),
        (
            lambda outputs: outputs[1].prompt_logprobs.token_ids.__setitem__(-1, 30),
            RuntimeError,
            "not the 3 of the sequence",
        ),
        *(
            (
                lambda outputs, bad=bad: outputs[1].prompt_logprobs.logprobs.__setitem__(-1, bad),
                FloatingPointError,
                "not finite",
            )
            for bad in (math.nan, math.inf, -math.inf)
        ),
    ],
)
def test_what_is_missing_or_broken_is_an_error(
    change: Callable[[Any], object], error: type[Exception], words: str
) -> None:
    sequences = [TokenSequence([1], [2, 3, 4]), TokenSequence([5, 6], [7, 8])]
    assert len(damaged(lambda outputs: None).response_logprobs(sequences)) == 2
    with pytest.raises(error, match=words) as caught:
        damaged(change).response_logprobs(sequences)
    assert "\n" not in str(caught.value)


def test_what_is_before_the_response_may_be_broken() -> None:
    """A context of padding can have log-probabilities that are not finite. They are not used."""
    sequence = TokenSequence([1, 2, 3], [4, 5])

    def change(outputs: Any) -> None:
        outputs[0].prompt_logprobs.logprobs[0] = math.nan

    (logprobs,) = damaged(change).response_logprobs([sequence])
    assert mean_nll(logprobs) == pytest.approx(-np.mean(reference(sequence)), abs=1e-5)


def test_vllm_refusing_is_passed_on() -> None:
    class VLLMValidationError(Exception):  # not a ValueError in vLLM either
        pass

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise VLLMValidationError("longer than the maximum model length")

    engine: Any = LLM("m")
    engine.generate = refuse
    with pytest.raises(VLLMValidationError, match="longer than"):
        VllmScorer(engine, SamplingParams()).response_logprobs([TokenSequence([1], [2])])


@pytest.fixture
def fake_vllm(monkeypatch: pytest.MonkeyPatch) -> Any:
    module: Any = types.ModuleType("vllm")
    module.LLM, module.SamplingParams = LLM, SamplingParams
    monkeypatch.setitem(sys.modules, "vllm", module)
    for name in ("VLLM_WORKER_MULTIPROC_METHOD", "VLLM_ENABLE_V1_MULTIPROCESSING"):
        monkeypatch.setenv(name, "")  # undone after the test
        monkeypatch.delenv(name)
    return module


def test_the_engines_settings(fake_vllm: Any) -> None:
    scorer = VllmScorer.from_pretrained(
        "owner/model",
        dtype="bfloat16",
        max_batch_tokens=16384,
        tensor_parallel_size=4,
        trust_remote_code=True,
        memory_share=0.4,
    )
    assert scorer._engine.given == {
        "model": "owner/model",
        "dtype": "bfloat16",
        "trust_remote_code": True,
        "tensor_parallel_size": 4,
        "enable_prefix_caching": False,
        "enable_chunked_prefill": True,
        "max_num_batched_tokens": 2048,
        "max_model_len": -1,
        "gpu_memory_utilization": 0.4,
        "enforce_eager": True,
        "logprobs_mode": "raw_logprobs",
    }
    assert scorer._sampling_params.given == {
        "prompt_logprobs": 0,
        "flat_logprobs": True,
        "max_tokens": 1,
        "temperature": 0.0,
        "detokenize": False,
    }
    assert os.environ["VLLM_WORKER_MULTIPROC_METHOD"] == "spawn"
    assert os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
    assert scorer.facts == (
        64, 0.4, "Qwen3ForCausalLM in vLLM, torch.bfloat16, context 63 tokens, 4 GPU(s)"
    )  # fmt: skip


def test_a_small_token_budget_is_kept_and_the_users_start_method_too(
    fake_vllm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_WORKER_MULTIPROC_METHOD", "fork")
    scorer = VllmScorer.from_pretrained("m", max_batch_tokens=512)
    assert scorer._engine.given["max_num_batched_tokens"] == 512
    assert (scorer._engine.given["dtype"], scorer._engine.given["tensor_parallel_size"]) == (
        "auto",
        1,
    )
    assert os.environ["VLLM_WORKER_MULTIPROC_METHOD"] == "fork"
    (logprobs,) = scorer.response_logprobs([TokenSequence([1, 2], [3])])
    np.testing.assert_allclose(logprobs, reference(TokenSequence([1, 2], [3])), atol=1e-5)


def test_a_missing_vllm_is_a_value_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_WORKER_MULTIPROC_METHOD", "spawn")  # undone after the test

    class Absent:
        def find_spec(self, name: str, *_: Any) -> None:
            if name == "vllm":
                raise ModuleNotFoundError("No module named 'vllm'", name="vllm")

    monkeypatch.delitem(sys.modules, "vllm", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Absent(), *sys.meta_path])
    with pytest.raises(ValueError, match=r"pip install -c constraints.txt -e '\.\[vllm\]'"):
        VllmScorer.from_pretrained("m", max_batch_tokens=100)


def test_a_broken_vllm_is_not_called_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
    (tmp_path / "vllm.py").write_text("import no_such_dependency_of_vllm\n")
    monkeypatch.delitem(sys.modules, "vllm", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_dependency_of_vllm"):
        VllmScorer.from_pretrained("m", max_batch_tokens=100)
