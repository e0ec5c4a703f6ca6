"""The GPU benchmark, as far as it runs without a GPU, and its count of operations."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
import math
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from performance.gpu import parts as gpu_parts
from performance.gpu import run as gpu
from performance.gpu import vllm as gpu_vllm
from performance.gpu.models import (
    QWEN3_1_7B,
    QWEN3_4B,
    TINY,
    TINY_LENGTHS,
    Lengths,
    count_body_parameters,
    count_packed_work,
    count_unshared_work,
    draw_sequences,
    make_model,
)
from performance.gpu.timing import Bench, NotMeasured
from performance.report import Measurement
from sar.scoring import TokenSequence
from sar.scoring.packing import plan_packs
from sar.scoring.transformers_scorer import TransformersScorer

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "performance.gpu", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=180,
    )


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    """What a run of all parts printed and wrote."""
    path = tmp_path_factory.mktemp("gpu") / "results" / "gpu.json"
    done = run("--tiny", "--device", "cpu", "--step-seconds", "60", "--output", str(path))
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, json.loads(path.read_text())


@pytest.mark.slow
def test_every_part_is_there_and_says_where_it_ran(tiny_run: tuple[str, dict[str, Any]]) -> None:
    printed, document = tiny_run
    assert [part["name"] for part in document["parts"]] == [part.name for part in gpu.PARTS]
    assert {part["status"] for part in document["parts"]} <= {"measured", "not measured"}
    assert (document["device"], document["tiny"]) == ("cpu", True)
    assert document["machine"]["torch"] == torch.__version__
    assert "Ran on cpu" in printed
    for name in (entry["name"] for entry in document["measurements"] + document["not_measured"]):
        assert f"| {name} |" in printed


@pytest.mark.slow
def test_figures_are_finite_medians_of_five_or_more(tiny_run: tuple[str, dict[str, Any]]) -> None:
    measurements = tiny_run[1]["measurements"]
    assert len(measurements) > 25
    for entry in measurements:
        # A difference between numbers is the same each time, and not repeated.
        assert len(entry["samples"]) >= 5 or "difference" in entry["name"]
        assert all(math.isfinite(sample) for sample in entry["samples"])
        assert all(sample > 0 for sample in entry["samples"]) or "difference" in entry["name"]
        assert entry["value"] == np.median(entry["samples"])
        assert entry["reached"], entry["name"]


@pytest.mark.slow
def test_what_cannot_be_measured_is_named(tiny_run: tuple[str, dict[str, Any]]) -> None:
    reasons = {entry["name"]: entry["reason"] for entry in tiny_run[1]["not_measured"]}
    assert all(reasons.values())
    assert "cpu" in reasons["variable-length attention"]
    assert "CUDA" in reasons["peak memory above the weights, vocabulary 512"]
    for name, module in (
        ("output head, Liger's fused linear cross entropy", "liger_kernel"),
        ("vLLM's prompt log-probabilities", "vllm"),
    ):
        if importlib.util.find_spec(module) is None:
            assert "not installed" in reasons[name]


@pytest.mark.slow
def test_every_output_head_gives_the_same_numbers_or_a_reason(
    tiny_run: tuple[str, dict[str, Any]],
) -> None:
    document = tiny_run[1]
    names = [entry["name"] for entry in document["measurements"] + document["not_measured"]]
    for head in ("the scorer's chunks", "the same chunks compiled", "Liger", "torch's linear"):
        assert any(name.startswith(f"output head, {head}") for name in names), head
    assert any("linear_cross_entropy, the scorer's chunk size, accurate" in name for name in names)


@pytest.mark.slow
def test_the_step_time_is_called_an_assumption(tiny_run: tuple[str, dict[str, Any]]) -> None:
    printed, document = tiny_run
    assert document["assumed_step_seconds"] == 60
    values = {entry["name"]: entry["value"] for entry in document["measurements"]}
    seconds = values["tiny: seconds to score a step of 128 x 6 rollouts"]
    share = values["tiny: share of a step that is ASSUMED to take 60 s"]
    assert share == pytest.approx(100 * seconds / 60)
    assert "rests on an assumption" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--device", "cpu"], "needs a CUDA device"),
        (["--tiny", "--rounds", "4"], "at least 5"),
        (["--tiny", "--step-seconds", "0"], "more than 0"),
        (["--tiny", "--device", "nonsense"], "no device 'nonsense'"),
    ],
)
def test_mistakes_in_arguments(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        gpu.main(arguments)
    assert message in capsys.readouterr().err


# ---- parts that fail


def _gives_one_then_fails(bench: Bench) -> Iterator[Measurement | NotMeasured]:
    yield Measurement("first", [1.0], "s")
    raise RuntimeError("broke\nsecond line")


def _never_ends(bench: Bench) -> Iterator[Measurement | NotMeasured]:
    yield NotMeasured("something", "some reason")
    while True:
        with contextlib.suppress(Exception):
            time.sleep(0.01)


def _works(bench: Bench) -> Iterator[Measurement | NotMeasured]:
    yield Measurement("last", [2.0], "s")


def test_a_failing_part_is_reported_and_the_rest_goes_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = (
        gpu.Part("broken", _gives_one_then_fails, 10),
        gpu.Part("endless", _never_ends, 0.2),
        gpu.Part("good", _works, 10),
    )
    monkeypatch.setattr(gpu, "PARTS", parts)
    monkeypatch.setattr(torch, "set_num_threads", lambda number: None)  # for this process's sake
    path = tmp_path / "gpu.json"
    assert gpu.main(["--tiny", "--device", "cpu", "--output", str(path)]) == 1
    document = json.loads(path.read_text())
    assert [(p["name"], p["status"]) for p in document["parts"]] == [
        ("broken", "failed"),
        ("endless", "failed"),
        ("good", "measured"),
    ]
    assert document["parts"][0]["reason"] == "RuntimeError: broke"
    assert document["parts"][1]["reason"] == "TimeUp: not done within its 0.2 s"
    assert [entry["name"] for entry in document["measurements"]] == ["first", "last"]
    assert "| broken | failed |" in capsys.readouterr().out


def test_the_limits_leave_time_to_start_up_within_eight_minutes() -> None:
    assert sum(part.limit_s for part in gpu.PARTS) <= 8 * 60 - 45


# ---- the count of operations


@pytest.fixture(scope="module")
def sequences() -> list[TokenSequence]:
    return draw_sequences(3, TINY.vocabulary, TINY_LENGTHS)


def test_body_parameters_are_those_of_the_linear_layers() -> None:
    body = make_model(TINY, CPU, torch.float32).base_model
    linear = (m for m in body.modules() if isinstance(m, torch.nn.Linear))
    assert count_body_parameters(TINY) == sum(m.weight.numel() for m in linear)


@pytest.mark.parametrize(
    ("shape", "billions", "billions_without_embedding"),
    # From the model cards, which round: "Number of Parameters (Non-Embedding)".
    [(QWEN3_1_7B, 1.7, 1.4), (QWEN3_4B, 4.0, 3.6)],
)
def test_shapes_have_the_sizes_on_the_model_cards(
    shape: Any, billions: float, billions_without_embedding: float
) -> None:
    body = count_body_parameters(shape)
    assert body / 1e9 == pytest.approx(billions_without_embedding, abs=0.05)
    assert (body + shape.hidden * shape.vocabulary) / 1e9 == pytest.approx(billions, abs=0.05)


@pytest.mark.parametrize("max_tokens", [100, 400, 10_000])
def test_products_with_weights_are_those_that_pytorch_counts(
    sequences: list[TokenSequence], max_tokens: int
) -> None:
    scorer = TransformersScorer(make_model(TINY, CPU, torch.float32), max_tokens)
    with FlopCounterMode(display=False) as counter:
        scorer.response_logprobs(sequences)
    counted = counter.get_flop_counts()["Global"]
    products = sum(n for op, n in counted.items() if str(op) in ("aten.mm", "aten.addmm"))
    work = count_packed_work(TINY, sequences, min(max_tokens, scorer._max_pack_tokens))
    assert work.matmul_flops == products
    assert work.response_tokens == sum(len(s.response_ids) for s in sequences)


def test_attention_of_a_whole_sequence_is_the_causal_part_of_what_pytorch_counts() -> None:
    model = make_model(TINY, CPU, torch.float32)
    model.set_attn_implementation("eager")  # two plain products of all tokens with all
    sequence = TokenSequence([1] * 7, [2] * 31)
    num_tokens = len(sequence) - 1
    ids = torch.tensor([sequence.context_ids + sequence.response_ids[:-1]])
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.base_model(input_ids=ids)
    counted = counter.get_flop_counts()["Global"]
    products = sum(n for op, n in counted.items() if str(op) == "aten.bmm")
    # Turning positions into angles is a product too: of each half of a head, per token.
    products -= 2 * num_tokens * TINY.head_dim // 2
    work = count_unshared_work(TINY, [sequence])
    causal = (num_tokens + 1) / (2 * num_tokens)
    assert work.attention_flops == pytest.approx(products * causal)


@pytest.mark.parametrize("max_tokens", [60, 10_000])
def test_attention_in_packs_is_what_tokens_see(
    sequences: list[TokenSequence], max_tokens: int
) -> None:
    """Counted over again, token by token, from positions: each sees all before it and itself."""
    seen = sum(int((pack.positions_T + 1).sum()) for pack in plan_packs(sequences, max_tokens))
    width = TINY.num_heads * TINY.head_dim
    work = count_packed_work(TINY, sequences, max_tokens)
    assert work.attention_flops == 2 * 2 * width * TINY.num_layers * seen


def test_sharing_saves_tokens_but_no_response(sequences: list[TokenSequence]) -> None:
    shared, unshared = (
        count_packed_work(TINY, sequences, 10_000),
        count_unshared_work(TINY, sequences),
    )
    assert shared.body_tokens < unshared.body_tokens
    assert shared.head_flops == unshared.head_flops
    total = shared + unshared
    assert total.flops == shared.flops + unshared.flops
    assert [dataclasses.astuple(total)[1]] == [shared.body_tokens + unshared.body_tokens]


# ---- what is scored


def test_rollouts_are_as_long_as_they_should_be() -> None:
    lengths = Lengths()
    made = draw_sequences(40, 1000, lengths)
    responses = [len(s.response_ids) for s in made[::2]]
    assert len(made) == 40 * 6 * 2
    assert np.mean(responses) == pytest.approx(600, rel=0.1)
    assert max(responses) <= 4096
    assert np.mean([len(s.context_ids) for s in made[::2]]) == pytest.approx(150, abs=10)
    assert {len(s.context_ids) for s in made[1::2]} == {lengths.empty_question}
    assert all(a.response_ids == b.response_ids for a, b in zip(made[::2], made[1::2], strict=True))


# ---- what only a GPU takes, with stand-ins for what only a GPU has


@pytest.fixture
def pretended_gpu(monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A bench on the CPU that takes itself for one on CUDA."""
    bench = gpu.make_bench(CPU, tiny=True, rounds=5, step_seconds=1.0)
    bench.limit_s = 10.0
    monkeypatch.setattr(Bench, "is_cuda", True)

    def measure_peak_bytes(device: torch.device, task: Any) -> int:
        task()
        return 3 * 2**30

    monkeypatch.setattr(gpu_parts, "measure_peak_bytes", measure_peak_bytes)
    return bench


@pytest.mark.parametrize(
    ("part", "num_figures"),
    [(gpu_parts.measure_memory, 2), (gpu_parts.measure_naive, 2), (gpu_parts.measure_budgets, 4)],
)
def test_peak_memory_on_a_gpu(pretended_gpu: Bench, part: Any, num_figures: int) -> None:
    results = list(part(pretended_gpu))
    assert not any(isinstance(r, NotMeasured) for r in results)
    peaks = [r for r in results if isinstance(r, Measurement) and "peak memory" in r.name]
    assert [r.value for r in peaks] == [3.0] * num_figures


def test_varlen_attention_is_compared_where_there_is_one(
    pretended_gpu: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a CPU the scorer falls back to blocks, so both come to the same numbers."""
    monkeypatch.setattr(gpu_parts, "_can_use_varlen", lambda *_: True)
    results = {r.name: r for r in gpu_parts.measure_attention(pretended_gpu)}
    assert "tiny: varlen attention, tokens scored per second" in results
    difference = results["tiny: mean difference between varlen's numbers and blockwise's"]
    assert isinstance(difference, Measurement)
    assert difference.value == 0


# A vLLM that has the scorer's numbers, in the form of vLLM 0.29.0's outputs.
VLLM = """
from types import SimpleNamespace
from sar.scoring import TokenSequence
from sar.scoring.transformers_scorer import TransformersScorer

class SamplingParams:
    def __init__(self, **options):
        assert options["prompt_logprobs"] == 0

class LLM:
    def __init__(self, model, dtype, **options):
        self.scorer = TransformersScorer.from_pretrained(model, dtype=dtype, max_batch_tokens=500)

    def generate(self, prompts, params, use_tqdm):
        ids = [prompt["prompt_token_ids"] for prompt in prompts]
        scored = self.scorer.response_logprobs([TokenSequence(i[:1], i[1:]) for i in ids])
        return [
            SimpleNamespace(prompt_logprobs=SimpleNamespace(token_ids=i[1:], logprobs=list(s)))
            for i, s in zip(ids, scored)
        ]
"""


@pytest.mark.slow
def test_vllm_in_a_process_of_its_own(
    pretended_gpu: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "vllm.py").write_text(VLLM)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    speed, scorers, difference = gpu_vllm.measure_vllm(pretended_gpu)
    assert isinstance(speed, Measurement)
    assert isinstance(scorers, Measurement)
    assert isinstance(difference, Measurement)
    assert len(speed.samples) == len(scorers.samples) == 5
    assert difference.is_reached
    assert difference.value < 1e-5


# ---- vLLM, without it


def test_what_is_saved_for_vllm_is_the_model(
    tmp_path: Path, sequences: list[TokenSequence]
) -> None:
    model = make_model(TINY, CPU, torch.float32)
    gpu_vllm.save_for_vllm(model, tmp_path)
    assert (tmp_path / "tokenizer.json").exists()
    loaded = TransformersScorer.from_pretrained(str(tmp_path), device="cpu", max_batch_tokens=500)
    for one, other in zip(
        TransformersScorer(model, 500).response_logprobs(sequences),
        loaded.response_logprobs(sequences),
        strict=True,
    ):
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.slow
def test_a_failing_vllm_is_an_error_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "task.json").write_text("not JSON")
    with pytest.raises(RuntimeError, match="JSONDecodeError"):
        gpu_vllm._run(tmp_path)
