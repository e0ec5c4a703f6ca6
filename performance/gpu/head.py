"""Compares ways to compute the log-probabilities of target tokens from hidden states.

Shapes: N positions, C of them in a chunk, M of them compared, H hidden, V vocabulary.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from performance.gpu.models import make_model
from performance.gpu.parts import MAX_DIFFERENCE, Results, measure_peak
from performance.gpu.timing import Bench, NotMeasured, time_in_turns
from performance.report import Measurement
from sar.errors import one_line
from sar.scoring.transformers_scorer import TransformersScorer

Run = Callable[[], Tensor]
"""Computes the (N,) log-probabilities once."""

# Positions whose log-probabilities are compared with a float32 computation.
_COMPARED = 256


@dataclasses.dataclass(frozen=True)
class _HeadInput:
    """hidden (N, H), weight (V, H), targets (N,). `chunk_size` is C, as the scorer has it."""

    scoring: TransformersScorer
    hidden: Tensor
    weight: Tensor
    targets: Tensor
    chunk_size: int


@torch.no_grad()
def measure_heads(bench: Bench) -> Results:
    """Time, memory and precision of each contender, or the reason why it cannot run here."""
    inputs = _make_input(bench)
    expected_M = _compute_float32_logprobs(inputs)
    tasks: dict[str, Run] = {}
    errors: dict[str, Tensor] = {}
    for name, make in _list_contenders(inputs):
        try:
            task = make()
            errors[name] = (task()[: len(expected_M)].float() - expected_M).abs()
        except ImportError as error:
            yield NotMeasured(f"output head, {name}", f"not installed: {error}")
        except Exception as error:  # noqa: BLE001  one library's failure must not stop the others
            yield NotMeasured(f"output head, {name}", one_line(error))
        else:
            tasks[name] = task
    samples = time_in_turns(bench.device, dict(tasks), bench.rounds)
    num_positions = len(inputs.targets)
    for name, times in samples.items():
        yield Measurement(
            f"output head, {name}: time for {num_positions:,} positions",
            [1e3 * t for t in times],
            "ms",
            details={"vocabulary": len(inputs.weight), "positions": num_positions},
        )
        yield Measurement(
            f"output head, {name}: mean difference from float32",
            [float(errors[name].mean())],
            "nats",
            at_most=MAX_DIFFERENCE[bench.dtype],
            details={"largest": float(errors[name].max())},
        )
        yield measure_peak(bench, f"output head, {name}: peak memory", tasks[name])


def _make_input(bench: Bench) -> _HeadInput:
    """A model of one layer, of which only the head runs, and normally distributed hidden states."""
    shape = dataclasses.replace(bench.small, num_layers=1)
    model = make_model(shape, bench.device, bench.dtype)
    scoring = TransformersScorer(model, bench.max_batch_tokens)
    chunk_size = max(1, scoring._logits_bytes // (4 * shape.vocabulary))
    # Whole chunks only, so that the compiled function sees one shape.
    num_positions = max(chunk_size, bench.head_positions // chunk_size * chunk_size)
    num_positions = min(num_positions, bench.head_positions)
    options: dict[str, Any] = {"device": bench.device}
    return _HeadInput(
        scoring,
        torch.randn(num_positions, shape.hidden, dtype=bench.dtype, **options),
        model.get_output_embeddings().weight.detach(),
        torch.randint(shape.vocabulary, (num_positions,), **options),
        min(chunk_size, num_positions),
    )


def _compute_float32_logprobs(inputs: _HeadInput) -> Tensor:
    """(M,) log-probabilities of the first M targets, computed in float32 throughout."""
    hidden_MH = inputs.hidden[:_COMPARED].float()
    targets_M = inputs.targets[:_COMPARED]
    logits_MV = hidden_MH @ inputs.weight.float().T
    return logits_MV.log_softmax(1).gather(1, targets_M[:, None])[:, 0]


def _list_contenders(inputs: _HeadInput) -> Iterator[tuple[str, Callable[[], Run]]]:
    """Each contender's name, and a function that prepares it."""
    yield "the scorer's chunks", lambda: _make_chunked(inputs)
    yield "the same chunks compiled", lambda: _make_compiled(inputs)
    yield "Liger's fused linear cross entropy", lambda: _make_liger(inputs)
    yield "torch's linear_cross_entropy", lambda: _make_torch(inputs)
    yield (
        "torch's linear_cross_entropy, the scorer's chunk size",
        lambda: _make_torch(inputs, batch_chunk_size=inputs.chunk_size),
    )
    yield (
        "torch's linear_cross_entropy, the scorer's chunk size, accurate",
        lambda: _make_torch(
            inputs,
            batch_chunk_size=inputs.chunk_size,
            acc_policy="accurate",
            acc_dtype=torch.float32,
        ),
    )


def _make_chunked(inputs: _HeadInput) -> Run:
    from transformers.modeling_outputs import BaseModelOutputWithPast

    body = BaseModelOutputWithPast()
    return lambda: inputs.scoring._target_logprobs(inputs.hidden, inputs.targets, body)


def _make_compiled(inputs: _HeadInput) -> Run:
    def chunk(hidden_CH: Tensor, weight_VH: Tensor, targets_C: Tensor) -> Tensor:
        logprobs_CV = F.linear(hidden_CH, weight_VH).log_softmax(dim=1, dtype=torch.float32)
        return logprobs_CV.gather(1, targets_C[:, None])[:, 0]

    compiled: Any = torch.compile(chunk, dynamic=False)

    def run() -> Tensor:
        starts = range(0, len(inputs.targets), inputs.chunk_size)
        chunks = [slice(start, start + inputs.chunk_size) for start in starts]
        return torch.cat(
            [compiled(inputs.hidden[c], inputs.weight, inputs.targets[c]) for c in chunks]
        )

    return run


def _make_liger(inputs: _HeadInput) -> Run:
    liger: Any = importlib.import_module("liger_kernel.transformers.functional")
    loss = liger.liger_fused_linear_cross_entropy
    return lambda: -loss(inputs.hidden, inputs.weight, inputs.targets, reduction="none")


def _make_torch(inputs: _HeadInput, **options: Any) -> Run:
    """In PyTorch since 2.13. It returns losses in the dtype of the hidden states."""
    loss: Any = getattr(F, "linear_cross_entropy", None)
    if loss is None:
        raise ImportError(f"torch {torch.__version__} has no linear_cross_entropy")
    chosen = torch.nn.LinearCrossEntropyOptions(**options)
    return lambda: (
        -loss(
            inputs.hidden,
            inputs.weight,
            inputs.targets,
            reduction="none",
            options=chosen,
        )
    )
