"""Ways of getting from hidden states to the log-probabilities of targets, side by side.

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
from performance.gpu.parts import GIB, NO_GPU_MEMORY, SAME, Results
from performance.gpu.timing import Bench, NotMeasured, interleaved, peak_bytes
from performance.report import Measurement
from sar.errors import one_line
from sar.scoring.transformers_scorer import TransformersScorer

Head = Callable[[], Tensor]

# Positions that are compared with a float32 computation.
_COMPARED = 256


@dataclasses.dataclass(frozen=True)
class _Problem:
    """hidden (N, H), weight (V, H), targets (N,); `rows` is C, what the scorer takes at once."""

    scoring: TransformersScorer
    hidden: Tensor
    weight: Tensor
    targets: Tensor
    rows: int


def head(bench: Bench) -> Results:
    """Time, memory and exactness of each way; one that cannot run here is named with the reason."""
    with torch.no_grad():
        yield from _head(bench)


def _head(bench: Bench) -> Results:
    problem = _problem(bench)
    expected_M = _float32_logprobs(problem)
    tasks: dict[str, Head] = {}
    off: dict[str, Tensor] = {}
    for name, make in _candidates(problem):
        try:
            task = make()
            off[name] = (task()[: len(expected_M)].float() - expected_M).abs()
        except ImportError as error:
            yield NotMeasured(f"output head, {name}", f"not installed: {error}")
        except Exception as error:  # noqa: BLE001  of third parties; the others go on
            yield NotMeasured(f"output head, {name}", one_line(error))
        else:
            tasks[name] = task
    samples = interleaved(bench.device, dict(tasks), bench.rounds)
    num_positions = len(problem.targets)
    for name, times in samples.items():
        yield Measurement(
            f"output head, {name}: time for {num_positions:,} positions",
            [1e3 * t for t in times],
            "ms",
            details={"vocabulary": len(problem.weight), "positions": num_positions},
        )
        yield Measurement(
            f"output head, {name}: mean difference from float32",
            [float(off[name].mean())],
            "nats",
            at_most=SAME[bench.dtype],
            details={"largest": float(off[name].max())},
        )
        title = f"output head, {name}: peak memory"
        if bench.is_cuda:
            peaks = [peak_bytes(bench.device, tasks[name]) / GIB for _ in range(bench.rounds)]
            yield Measurement(title, peaks, "GiB")
        else:
            yield NotMeasured(title, NO_GPU_MEMORY)


def _problem(bench: Bench) -> _Problem:
    """A model of one layer, as only its head is run, and hidden states such as a norm leaves."""
    shape = dataclasses.replace(bench.small, num_layers=1)
    model = make_model(shape, bench.device, bench.dtype)
    scoring = TransformersScorer(model, bench.max_batch_tokens)
    rows = max(1, scoring._logits_bytes // (4 * shape.vocabulary))
    # Whole chunks only, so that what is compiled for one fits all.
    num_positions = max(rows, bench.head_positions // rows * rows)
    num_positions = min(num_positions, bench.head_positions)
    options: dict[str, Any] = {"device": bench.device}
    return _Problem(
        scoring,
        torch.randn(num_positions, shape.hidden, dtype=bench.dtype, **options),
        model.get_output_embeddings().weight.detach(),
        torch.randint(shape.vocabulary, (num_positions,), **options),
        min(rows, num_positions),
    )


def _float32_logprobs(problem: _Problem) -> Tensor:
    """(M,) log-probabilities of the first M targets, every step of them in float32."""
    hidden_MH = problem.hidden[:_COMPARED].float()
    targets_M = problem.targets[:_COMPARED]
    logits_MV = hidden_MH @ problem.weight.float().T
    return logits_MV.log_softmax(1).gather(1, targets_M[:, None])[:, 0]


def _candidates(problem: _Problem) -> Iterator[tuple[str, Callable[[], Head]]]:
    yield "the scorer's chunks", lambda: _scorers(problem)
    yield "the same chunks compiled", lambda: _compiled(problem)
    yield "Liger's fused linear cross entropy", lambda: _ligers(problem)
    yield "torch's linear_cross_entropy", lambda: _torchs(problem)
    yield (
        "torch's linear_cross_entropy, the scorer's chunk size",
        lambda: _torchs(problem, batch_chunk_size=problem.rows),
    )
    yield (
        "torch's linear_cross_entropy, the scorer's chunk size, accurate",
        lambda: _torchs(
            problem,
            batch_chunk_size=problem.rows,
            acc_policy="accurate",
            acc_dtype=torch.float32,
        ),
    )


def _scorers(problem: _Problem) -> Head:
    from transformers.modeling_outputs import BaseModelOutputWithPast

    body = BaseModelOutputWithPast()
    return lambda: problem.scoring._target_logprobs(problem.hidden, problem.targets, body)


def _compiled(problem: _Problem) -> Head:
    def chunk(hidden_CH: Tensor, weight_VH: Tensor, targets_C: Tensor) -> Tensor:
        logprobs_CV = F.linear(hidden_CH, weight_VH).log_softmax(dim=1, dtype=torch.float32)
        return logprobs_CV.gather(1, targets_C[:, None])[:, 0]

    compiled: Any = torch.compile(chunk, dynamic=False)

    def run() -> Tensor:
        starts = range(0, len(problem.targets), problem.rows)
        chunks = [slice(start, start + problem.rows) for start in starts]
        return torch.cat(
            [compiled(problem.hidden[c], problem.weight, problem.targets[c]) for c in chunks]
        )

    return run


def _ligers(problem: _Problem) -> Head:
    liger: Any = importlib.import_module("liger_kernel.transformers.functional")
    loss = liger.liger_fused_linear_cross_entropy
    return lambda: -loss(problem.hidden, problem.weight, problem.targets, reduction="none")


def _torchs(problem: _Problem, **options: Any) -> Head:
    """Since PyTorch 2.13. It returns its losses in the dtype of the hidden states."""
    loss: Any = getattr(F, "linear_cross_entropy", None)
    if loss is None:
        raise ImportError(f"torch {torch.__version__} has no linear_cross_entropy")
    chosen = torch.nn.LinearCrossEntropyOptions(**options)
    return lambda: (
        -loss(
            problem.hidden,
            problem.weight,
            problem.targets,
            reduction="none",
            options=chosen,
        )
    )
