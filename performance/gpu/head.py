"""Compares ways to compute the log-probabilities of target tokens from hidden states.

Shapes: N positions, C of them at once, H hidden, V vocabulary.
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
from performance.gpu.parts import SAME, Results, measure_peak
from performance.gpu.timing import Bench, NotMeasured, time_in_turns
from performance.report import Measurement
from sar.errors import one_line
from sar.scoring.transformers_scorer import TransformersScorer

Head = Callable[[], Tensor]

# Positions whose log-probabilities are compared with a float32 computation.
_COMPARED = 256


@dataclasses.dataclass(frozen=True)
class _HeadInput:
    """hidden (N, H), weight (V, H), targets (N,). `rows` is C, the scorer's chunk size."""

    scoring: TransformersScorer
    hidden: Tensor
    weight: Tensor
    targets: Tensor
    rows: int


@torch.no_grad()
def head(bench: Bench) -> Results:
    """Time, memory and precision of each way; for one that cannot run here, the reason."""
    given = _make_input(bench)
    expected_M = _compute_float32_logprobs(given)
    tasks: dict[str, Head] = {}
    off: dict[str, Tensor] = {}
    for name, make in _list_ways(given):
        try:
            task = make()
            off[name] = (task()[: len(expected_M)].float() - expected_M).abs()
        except ImportError as error:
            yield NotMeasured(f"output head, {name}", f"not installed: {error}")
        except Exception as error:  # noqa: BLE001  one library's failure must not stop the others
            yield NotMeasured(f"output head, {name}", one_line(error))
        else:
            tasks[name] = task
    samples = time_in_turns(bench.device, dict(tasks), bench.rounds)
    num_positions = len(given.targets)
    for name, times in samples.items():
        yield Measurement(
            f"output head, {name}: time for {num_positions:,} positions",
            [1e3 * t for t in times],
            "ms",
            details={"vocabulary": len(given.weight), "positions": num_positions},
        )
        yield Measurement(
            f"output head, {name}: mean difference from float32",
            [float(off[name].mean())],
            "nats",
            at_most=SAME[bench.dtype],
            details={"largest": float(off[name].max())},
        )
        yield measure_peak(bench, f"output head, {name}: peak memory", tasks[name])


def _make_input(bench: Bench) -> _HeadInput:
    """A model of one layer, of which only the head runs, and normally distributed hidden states."""
    shape = dataclasses.replace(bench.small, num_layers=1)
    model = make_model(shape, bench.device, bench.dtype)
    scoring = TransformersScorer(model, bench.max_batch_tokens)
    rows = max(1, scoring._logits_bytes // (4 * shape.vocabulary))
    # Whole chunks only, so that the compiled function sees one shape.
    num_positions = max(rows, bench.head_positions // rows * rows)
    num_positions = min(num_positions, bench.head_positions)
    options: dict[str, Any] = {"device": bench.device}
    return _HeadInput(
        scoring,
        torch.randn(num_positions, shape.hidden, dtype=bench.dtype, **options),
        model.get_output_embeddings().weight.detach(),
        torch.randint(shape.vocabulary, (num_positions,), **options),
        min(rows, num_positions),
    )


def _compute_float32_logprobs(given: _HeadInput) -> Tensor:
    """(M,) log-probabilities of the first M targets, computed in float32 throughout."""
    hidden_MH = given.hidden[:_COMPARED].float()
    targets_M = given.targets[:_COMPARED]
    logits_MV = hidden_MH @ given.weight.float().T
    return logits_MV.log_softmax(1).gather(1, targets_M[:, None])[:, 0]


def _list_ways(given: _HeadInput) -> Iterator[tuple[str, Callable[[], Head]]]:
    yield "the scorer's chunks", lambda: _make_chunked(given)
    yield "the same chunks compiled", lambda: _make_compiled(given)
    yield "Liger's fused linear cross entropy", lambda: _make_liger(given)
    yield "torch's linear_cross_entropy", lambda: _make_torch(given)
    yield (
        "torch's linear_cross_entropy, the scorer's chunk size",
        lambda: _make_torch(given, batch_chunk_size=given.rows),
    )
    yield (
        "torch's linear_cross_entropy, the scorer's chunk size, accurate",
        lambda: _make_torch(
            given,
            batch_chunk_size=given.rows,
            acc_policy="accurate",
            acc_dtype=torch.float32,
        ),
    )


def _make_chunked(given: _HeadInput) -> Head:
    from transformers.modeling_outputs import BaseModelOutputWithPast

    body = BaseModelOutputWithPast()
    return lambda: given.scoring._target_logprobs(given.hidden, given.targets, body)


def _make_compiled(given: _HeadInput) -> Head:
    def chunk(hidden_CH: Tensor, weight_VH: Tensor, targets_C: Tensor) -> Tensor:
        logprobs_CV = F.linear(hidden_CH, weight_VH).log_softmax(dim=1, dtype=torch.float32)
        return logprobs_CV.gather(1, targets_C[:, None])[:, 0]

    compiled: Any = torch.compile(chunk, dynamic=False)

    def run() -> Tensor:
        starts = range(0, len(given.targets), given.rows)
        chunks = [slice(start, start + given.rows) for start in starts]
        return torch.cat(
            [compiled(given.hidden[c], given.weight, given.targets[c]) for c in chunks]
        )

    return run


def _make_liger(given: _HeadInput) -> Head:
    liger: Any = importlib.import_module("liger_kernel.transformers.functional")
    loss = liger.liger_fused_linear_cross_entropy
    return lambda: -loss(given.hidden, given.weight, given.targets, reduction="none")


def _make_torch(given: _HeadInput, **options: Any) -> Head:
    """PyTorch has it since 2.13. It returns losses in the dtype of the hidden states."""
    loss: Any = getattr(F, "linear_cross_entropy", None)
    if loss is None:
        raise ImportError(f"torch {torch.__version__} has no linear_cross_entropy")
    chosen = torch.nn.LinearCrossEntropyOptions(**options)
    return lambda: (
        -loss(
            given.hidden,
            given.weight,
            given.targets,
            reduction="none",
            options=chosen,
        )
    )
