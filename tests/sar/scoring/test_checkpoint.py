"""Checkpoints that are not the whole model, or hold weights that no trained model has."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    Gemma2Config,
    LlamaConfig,
    Qwen3Config,
    Trainer,
    TrainingArguments,
)

from sar.scoring import TokenSequence
from sar.scoring.checkpoint import describe_architecture, load_model
from sar.scoring.transformers_scorer import TransformersScorer

SHAPE: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
MATRIX = "model.layers.3.mlp.down_proj.weight"
Change = Callable[[dict[str, Tensor]], dict[str, Tensor]]


def load(folder: Path) -> TransformersScorer:
    return TransformersScorer.from_pretrained(str(folder), device="cpu", max_batch_tokens=1000)


def save(folder: Path, config: Any, change: Change = lambda tensors: tensors) -> dict[str, Tensor]:
    """Saves a small random model with changed tensors. Returns the tensors before the change."""
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    file = folder / "model.safetensors"
    tensors = load_file(file)
    changed = {name: tensor.clone() for name, tensor in change(dict(tensors)).items()}
    save_file(changed, file, {"format": "pt"})
    return tensors


def prefix(text: str) -> Change:
    return lambda tensors: {text + name: tensor for name, tensor in tensors.items()}


def drop(part: str) -> Change:
    return lambda tensors: {name: t for name, t in tensors.items() if part not in name}


def put(name: str, make: Callable[[Tensor], Tensor]) -> Change:
    return lambda tensors: {**tensors, name: make(tensors[name])}


INCOMPLETE: dict[str, tuple[Change, str]] = {
    "none": (lambda _: {}, "91 tensors missing: model.embed_tokens.weight, "),
    "compiled": (prefix("_orig_mod."), "91 tensors unexpected: _orig_mod.lm_head.weight, "),
    "parallel": (prefix("module."), "91 tensors unexpected: module.lm_head.weight, "),
    "a layer": (drop("layers.7."), "11 tensors missing: model.layers.7.self_attn.q_proj.weight, "),
    "a norm": (drop("model.norm"), "1 tensor missing: model.norm.weight"),
    "the head": (drop(HEAD), "1 tensor missing: lm_head.weight"),
    "a value head": (
        lambda tensors: {**tensors, "v_head.weight": torch.randn(1, 32)},
        "1 tensor unexpected: v_head.weight",
    ),
    "a name of two lines": (
        lambda tensors: {**tensors, "two\nlines" + "x" * 999: torch.randn(3)},
        r"1 tensor unexpected: two\x0alinesxxx",
    ),
    "a shape": (
        put(MATRIX, lambda tensor: tensor[:, 1:]),
        f"1 tensor of another shape than config.json says: {MATRIX} (32, 47) instead of (32, 48)",
    ),
}
UNTRAINED: dict[str, tuple[Change, str]] = {
    "nan": (
        put(MATRIX, lambda tensor: tensor.index_fill(0, torch.tensor(3), torch.nan)),
        f"1 tensor with NaN or infinity in torch.float32: {MATRIX}",
    ),
    "infinity in a vector": (
        put("model.norm.weight", lambda tensor: tensor.index_fill(0, torch.tensor(3), torch.inf)),
        "1 tensor with NaN or infinity in torch.float32: model.norm.weight",
    ),
    "zero": (
        put(MATRIX, torch.zeros_like),
        f"1 tensor with the same value everywhere: {MATRIX}",
    ),
    "constant": (
        put(EMBEDDING, lambda tensor: torch.full_like(tensor, 0.02)),
        f"1 tensor with the same value everywhere: {EMBEDDING}",
    ),
    "everything zero": (
        lambda tensors: {name: torch.zeros_like(tensor) for name, tensor in tensors.items()},
        "58 tensors with the same value everywhere: model.embed_tokens.weight, ",
    ),
    "a norm of zeros": (
        put("model.norm.weight", torch.zeros_like),
        "1 tensor all zero, which lets nothing through: model.norm.weight",
    ),
}


@pytest.mark.parametrize("fault", [*INCOMPLETE, *UNTRAINED])
def test_a_checkpoint_that_is_not_the_policy_is_refused_by_the_names_of_its_tensors(
    fault: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    change, message = (INCOMPLETE | UNTRAINED)[fault]
    save(tmp_path, Qwen3Config(**SHAPE, tie_word_embeddings=False), change)
    with pytest.raises(ValueError, match="tensor") as caught:
        load(tmp_path)
    error = str(caught.value)
    assert message in error
    assert "\n" not in error
    assert len(error) < 1000
    assert error.count("and 89 more") == 2 * (fault in ("compiled", "parallel")) + (fault == "none")
    assert "LOAD REPORT" not in caplog.text


EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop("layers.3.mlp.experts.2."), "3.mlp.experts.down_proj (3, 32, 16) instead of (4, "),
        (
            put("model.layers.3.mlp.experts.2.down_proj.weight", lambda tensor: tensor[1:]),
            "tensors that do not fit together: model.layers.3.mlp.experts.down_proj",
        ),
        (
            put("model.layers.3.mlp.experts.2.down_proj.weight", torch.zeros_like),
            "with the same value everywhere: model.layers.3.mlp.experts.down_proj",
        ),
    ],
    ids=["missing", "another shape", "zero"],
)
def test_one_expert_of_many_is_checked(tmp_path: Path, change: Change, message: str) -> None:
    config = AutoConfig.for_model("qwen3_moe", **SHAPE, **EXPERTS)
    save(tmp_path, config, change)
    with pytest.raises(ValueError, match="tensor") as caught:
        load(tmp_path)
    assert message in str(caught.value)


def test_weights_that_overflow_the_dtype_are_refused(tmp_path: Path) -> None:
    save(tmp_path, LlamaConfig(**SHAPE), put(MATRIX, lambda tensor: tensor * 1e7))
    load(tmp_path)
    with pytest.raises(ValueError, match=f"infinity in torch.float16: {MATRIX}"):
        TransformersScorer.from_pretrained(
            str(tmp_path), device="cpu", dtype="float16", max_batch_tokens=1000
        )


def _store_both(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**tensors, HEAD: tensors[EMBEDDING]}


def _store_head_only(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return drop(EMBEDDING)(_store_both(tensors))


def _add_frequencies(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    name = "model.layers.{}.self_attn.rotary_emb.inv_freq"
    return {**tensors, **{name.format(n): torch.ones(4) for n in range(8)}}


def _pad_vocabulary(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    tensors[EMBEDDING][-30:] = 0
    return tensors


def _reset_vectors(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {n: t if t.dim() > 1 else torch.full_like(t, "norm" in n) for n, t in tensors.items()}


@pytest.mark.parametrize(
    "change", [_store_both, _store_head_only, _add_frequencies, _pad_vocabulary, _reset_vectors]
)
def test_what_may_differ_between_checkpoints_of_a_policy_is_accepted(
    tmp_path: Path, change: Change
) -> None:
    config = Qwen3Config(**SHAPE, tie_word_embeddings=True, attention_bias=True)
    tensors = save(tmp_path, config, change)
    model = load(tmp_path)._model
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    if change is not _pad_vocabulary:
        assert torch.equal(model.get_input_embeddings().weight, tensors[EMBEDDING])


def test_zeros_are_right_in_norms_that_add_one(tmp_path: Path) -> None:
    tensors = save(tmp_path, Gemma2Config(**SHAPE))
    assert not tensors["model.norm.weight"].any()
    load(tmp_path)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("stage", [2, 3])
def test_a_checkpoint_as_openrlhf_writes_it_is_accepted(
    tmp_path: Path, bundled_tokenizer: Any, tied: bool, stage: int
) -> None:
    # `save_model` of its DeepSpeed strategy: from ZeRO 3 a tied head is left out.
    config = Qwen3Config(**SHAPE, tie_word_embeddings=tied)
    model = AutoModelForCausalLM.from_config(config).bfloat16()
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    if tied and stage == 3:
        del tensors[HEAD]
    model.save_pretrained(tmp_path, state_dict=tensors)
    model.config.to_json_file(tmp_path / "config.json")
    bundled_tokenizer.save_pretrained(tmp_path)
    loaded = load(tmp_path)._model.state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded[name], tensor.float()), name


def test_a_checkpoint_as_the_trainer_of_transformers_writes_it_is_accepted(
    tmp_path: Path, bundled_tokenizer: Any
) -> None:
    model = AutoModelForCausalLM.from_config(LlamaConfig(**SHAPE, tie_word_embeddings=True))
    arguments = TrainingArguments(tmp_path / "run", report_to=[], use_cpu=True)
    trainer = Trainer(model, arguments, processing_class=bundled_tokenizer)
    trainer.save_model(str(tmp_path / "saved"))
    load(tmp_path / "saved")


def test_an_architecture_is_the_same_for_all_checkpoints_of_a_model_only(tmp_path: Path) -> None:
    def describe(**changes: Any) -> dict[str, str]:
        config = LlamaConfig(**SHAPE | changes)
        return describe_architecture(AutoModelForCausalLM.from_config(config))

    save(tmp_path, LlamaConfig(**SHAPE))
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"use_cache": False, "pad_token_id": 1, "eos_token_id": [5, 6], "dtype": "bfloat16"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert load(tmp_path).architecture == describe()
    for change in (
        {"vocab_size": 98},
        {"num_hidden_layers": 7},
        {"num_attention_heads": 2, "head_dim": 16, "num_key_value_heads": 1},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
        {"hidden_act": "gelu"},
    ):
        differing = {k for k, v in describe(**change).items() if v != describe()[k]}
        assert set(change) <= differing


def test_files_that_are_overwritten_later_do_not_change_the_weights(
    tmp_path: Path, bundled_model_path: Path
) -> None:
    folder = shutil.copytree(bundled_model_path, tmp_path / "model")
    model = load_model(str(folder), dtype="float32", trust_remote_code=False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(0, 2)
        num_bytes = file.tell()
        file.seek(num_bytes // 2)
        file.write(bytes(num_bytes - num_bytes // 2))
    assert all(torch.equal(before[name], now) for name, now in model.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_scores_do_not_change_while_another_thread_loads_a_model(
    bundled_model_path: Path, dtype: torch.dtype
) -> None:
    """transformers sets torch's default dtype, which all threads share, while it loads."""
    scorer = TransformersScorer.from_pretrained(
        str(bundled_model_path), device="cpu", max_batch_tokens=1024
    )
    sequences = [TokenSequence([5, 6, 7], list(range(8, 40)))] * 3
    expected = scorer.response_logprobs(sequences)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        scored = scorer.response_logprobs(sequences)
    finally:
        torch.set_default_dtype(before)
    for one, other in zip(scored, expected, strict=True):
        assert one.tolist() == pytest.approx(other.tolist(), abs=1e-6)
