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
from sar.scoring import LogprobScorer, TokenSequence
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
