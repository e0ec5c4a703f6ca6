"""Which models, dtypes and devices the transformers scorer supports, and which it refuses."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

from sar.models.problems import generate
from sar.perplexity import mean_nll
from sar.prompts import DEFAULT_SYSTEM_PROMPT, render_prompt
from sar.scoring import LogprobScorer, TokenSequence, precision
from sar.scoring.transformers_scorer import TransformersScorer, resolve_device

SHAPE = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}


def test_a_checkpoint_in_half_precision_is_scored_in_float32_on_a_cpu(tmp_path: Path) -> None:
    AutoModelForCausalLM.from_config(LlamaConfig(**SHAPE)).bfloat16().save_pretrained(tmp_path)
    scorer = TransformersScorer.from_pretrained(str(tmp_path), device="cpu", max_batch_tokens=1000)
    assert "torch.float32" in scorer.description


@pytest.mark.parametrize(
    ("has_bfloat16", "limit", "dtype", "expected"),
    [
        (True, 0, "auto", "bfloat16"),
        (True, 10**6, "auto", "float32"),
        (False, 0, "auto", "float32"),
        (True, 0, "float32", "float32"),
        (False, 10**6, "bfloat16", "bfloat16"),
    ],
)
@pytest.mark.parametrize("saved", [torch.float32, torch.bfloat16], ids=str)
def test_auto_is_bfloat16_on_a_cpu_that_has_it_unless_the_model_is_small(
    saved: torch.dtype,
    has_bfloat16: bool,
    limit: int,
    dtype: str,
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    capabilities = {"avx512_bf16": has_bfloat16, "amx_bf16": False, "cpu_name": "some"}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    monkeypatch.setattr(precision, "MIN_BFLOAT16_PARAMETERS", limit)
    AutoModelForCausalLM.from_config(LlamaConfig(**SHAPE)).to(saved).save_pretrained(tmp_path)
    scorer = TransformersScorer.from_pretrained(
        str(tmp_path), device="cpu", dtype=dtype, max_batch_tokens=1000
    )
    assert f"torch.{expected}" in scorer.description


def test_a_small_models_float32_weights_are_not_rounded_on_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = AutoModelForCausalLM.from_config(LlamaConfig(**SHAPE))
    model.save_pretrained(tmp_path)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True})
    scorer = TransformersScorer.from_pretrained(str(tmp_path), device="cpu", max_batch_tokens=100)
    loaded = scorer._model.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="needs Linux' /proc/cpuinfo")
def test_bfloat16_is_found_as_linux_says() -> None:
    flags = Path("/proc/cpuinfo").read_text().split()
    assert precision.cpu_has_bfloat16() == bool({"amx_bf16", "avx512_bf16"} & set(flags))


def test_an_old_torch_does_not_say_what_the_cpu_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert not precision.cpu_has_bfloat16()


def test_the_bundled_model_finds_the_response_likely_that_fits_the_question(
    bundled_model_path: Path, bundled_tokenizer: Any
) -> None:
    scorer: LogprobScorer = TransformersScorer.from_pretrained(
        str(bundled_model_path), device="cpu", max_batch_tokens=4096
    )
    problem, other = islice(generate(5, held_out=True), 2)

    def sequence(question: str, response: str) -> TokenSequence:
        prompt = render_prompt(bundled_tokenizer, question, DEFAULT_SYSTEM_PROMPT)
        return TokenSequence(bundled_tokenizer.encode(prompt), bundled_tokenizer.encode(response))

    fits, misses, empty = map(
        mean_nll,
        scorer.response_logprobs(
            [
                sequence(problem.question, problem.concise),
                sequence(other.question, problem.concise),
                sequence("", problem.concise),
            ]
        ),
    )
    assert fits + 0.2 < min(misses, empty)


def test_the_device_auto_is_there() -> None:
    wanted = "cuda" if torch.cuda.is_available() else "cpu"
    assert resolve_device("auto") == torch.device(wanted)
    assert resolve_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("device", ["gpu", "", "cpu:x", "cuda:99", "meat", "cuda:-1"])
def test_a_device_that_is_not_there_is_refused_by_name(device: str) -> None:
    with pytest.raises(ValueError, match="no device") as caught:
        resolve_device(device)
    assert repr(device) in str(caught.value)
    assert "\n" not in str(caught.value)


class LeakyHead(LlamaForCausalLM):  # type: ignore[misc]  # transformers is untyped
    """Its logits depend on more than the body's output."""

    def forward(self, input_ids: Any = None, **kwargs: Any) -> Any:
        output = super().forward(input_ids=input_ids, **kwargs)
        if input_ids is not None:
            output.logits = output.logits * 1.5
        return output


class LogitsByHand(LeakyHead):
    """Needs the ids where its head should run alone."""

    def forward(self, input_ids: Any = None, **kwargs: Any) -> Any:
        output = super().forward(input_ids=input_ids, **kwargs)
        output.logits = output.logits * input_ids.shape[0]
        return output


@pytest.mark.parametrize("broken", [LeakyHead, LogitsByHand])
def test_a_head_that_cannot_run_apart_is_refused(broken: Any) -> None:
    with pytest.raises(ValueError, match=f"cannot score with {broken.__name__}"):
        TransformersScorer(broken(LlamaConfig(**SHAPE)).eval(), 100)


def test_a_model_without_an_output_head_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot score with BertModel"):
        TransformersScorer(BertModel(BertConfig(**SHAPE)).eval(), 100)
