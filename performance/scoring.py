"""Speed of the scorer against the naive loop and against bare matrix products; its memory.

Each of them runs in its own process, configured as its user would. They take turns, so only one
works at a time, and each ratio compares two times measured one right after the other.
"""

from __future__ import annotations

import ctypes
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from performance import workload
from performance.report import Measurement
from performance.workload import (
    DEFAULT_ENVIRONMENT,
    SERVER_ENVIRONMENT,
    ModelShape,
    Scored,
    Worker,
    read_status_bytes,
    time_scoring,
)
from sar.scoring import TokenSequence
from sar.scoring.packing import plan_packs

MIN_OVER_NAIVE = 2.0
MIN_OF_FLOOR = 0.75
MAX_MEMORY_RATIO = 1.3
MAX_DIFFERENCE = 1e-4  # nats, between the log-probabilities of the two scorers
FLOOR_ROWS = 1024
# The peak settles only after a few scores, because the allocator still adds blocks.
SETTLING_SCORES = 4


SHAPE = ModelShape()


@dataclass(frozen=True)
class Sizes:
    """How much to measure."""

    repetitions: int = 7
    num_rollouts: int = 24
    shape: ModelShape = SHAPE
    memory_repetitions: int = 5
    num_memory_rollouts: int = 6
    memory_vocabularies: tuple[int, int] = (152_000, 32_000)


QUICK = Sizes(
    repetitions=2,
    num_rollouts=6,
    shape=ModelShape(vocabulary=500, hidden=64, intermediate=128, num_layers=2, head_dim=32),
    memory_repetitions=1,
    num_memory_rollouts=2,
    memory_vocabularies=(4000, 1000),
)


class ServedScorer:
    """The scorer as the server runs it: in one thread other than the main thread."""

    def __init__(self, shape: ModelShape) -> None:
        self._serve(workload.build_model(shape))

    def _serve(self, model: Any, **options: Any) -> None:
        from sar.scoring.transformers_scorer import TransformersScorer

        self._thread = ThreadPoolExecutor(1)
        self._model = model
        self._scorer = self._thread.submit(
            TransformersScorer, model, workload.MAX_BATCH_TOKENS, **options
        ).result()

    def score(self, batches: list[list[TokenSequence]]) -> Scored:
        return self._thread.submit(time_scoring, self._scorer, batches).result()

    def time_matmuls(self, num_tokens: int, num_response_tokens: int) -> float:
        """Seconds of the matrix products alone ("matmul floor"): the body's linear layers for all
        tokens, the output head for the response tokens."""
        return self._thread.submit(self._time_matmuls, num_tokens, num_response_tokens).result()

    def _time_matmuls(self, num_tokens: int, num_response_tokens: int) -> float:
        import torch

        body = [
            m.weight for m in self._model.base_model.modules() if isinstance(m, torch.nn.Linear)
        ]
        head = [self._model.get_output_embeddings().weight]
        dtype = head[0].dtype
        rows = {w.shape[1]: torch.randn(FLOOR_ROWS, w.shape[1], dtype=dtype) for w in body + head}
        # Reuse the result tensors, so that no time goes into allocating memory.
        results = {
            w.shape[0]: torch.empty(FLOOR_ROWS, w.shape[0], dtype=dtype) for w in body + head
        }
        with torch.inference_mode():
            started = time.perf_counter()
            for weights, num_rows in ((body, num_tokens), (head, num_response_tokens)):
                for weight in weights:
                    for start in range(0, num_rows, FLOOR_ROWS):
                        num = min(FLOOR_ROWS, num_rows - start)
                        result = results[weight.shape[0]][:num]
                        torch.mm(rows[weight.shape[1]][:num], weight.T, out=result)
            return time.perf_counter() - started

    def count_parameters(self) -> tuple[int, int]:
        """Parameters of the body's linear layers, and of the output head."""
        import torch

        linear = [m for m in self._model.base_model.modules() if isinstance(m, torch.nn.Linear)]
        head = self._model.get_output_embeddings().weight
        return sum(m.weight.numel() for m in linear), head.numel()

    def measure_memory(self, batches: list[list[TokenSequence]]) -> tuple[int, int]:
        """Resident bytes before scoring, and the peak while scoring."""
        # Give back what loading freed: scoring would reuse it, and the peak would not show it.
        with suppress(AttributeError):
            ctypes.CDLL(None).malloc_trim(0)
        # Writing 5 resets the recorded peak. Without permission, the peak includes loading.
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
        before = read_status_bytes("VmRSS")
        for _ in range(SETTLING_SCORES):
            self.score(batches)
        return before, read_status_bytes("VmHWM")


class NaiveScript:
    """The naive loop in the main thread, as in a script: first one pass, then the other."""

    def __init__(self, shape: ModelShape) -> None:
        from performance.naive import NaiveScorer

        self._scorer = NaiveScorer(workload.build_model(shape))

    def score(self, passes: list[list[TokenSequence]]) -> Scored:
        return time_scoring(self._scorer, passes)


def measure(quick: bool) -> list[Measurement]:
    """Measures speed and memory; under five minutes on two cores, half a minute with `quick`."""
    sizes = QUICK if quick else Sizes()
    return [*measure_speed(sizes), measure_memory(sizes)]


def measure_speed(sizes: Sizes) -> list[Measurement]:
    """The scorer against the naive loop and the matmul floor; the gain of shared contexts."""
    from performance.naive import compute_padding_share

    rollouts = workload.draw_rollouts(sizes.num_rollouts, sizes.shape.vocabulary)
    distinct = workload.make_contexts_distinct(rollouts, sizes.shape.vocabulary)
    sequences = workload.list_sequences(rollouts)
    num_tokens = workload.count_tokens(sequences)
    num_response_tokens = workload.count_response_tokens(sequences)
    batches = workload.split_into_batches(rollouts)
    passes = [[r.with_question for r in rollouts], [r.without_question for r in rollouts]]
    times: dict[str, list[float]] = {}
    print(f"scoring: {len(rollouts)} rollouts, {num_tokens:,} tokens in two passes", flush=True)
    with (
        Worker(NaiveScript, sizes.shape, environment=DEFAULT_ENVIRONMENT) as naive,
        Worker(ServedScorer, sizes.shape, environment=SERVER_ENVIRONMENT) as scorer,
    ):
        num_body, num_head = scorer.ask("count_parameters")
        for repetition in range(sizes.repetitions + 1):
            by_naive: Scored = naive.ask("score", passes)
            by_scorer: Scored = scorer.ask("score", batches)
            _check_same(by_naive, by_scorer)
            taken = {
                "naive": by_naive.seconds,
                "scorer": by_scorer.seconds,
                "floor": scorer.ask("time_matmuls", num_tokens, num_response_tokens),
                "distinct": scorer.ask("score", workload.split_into_batches(distinct)).seconds,
            }
            if not repetition:  # the first one only warms up
                continue
            for name, seconds in taken.items():
                times.setdefault(name, []).append(seconds)
            shown = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in taken.items())
            print(f"scoring: repetition {repetition} of {sizes.repetitions}: {shown}", flush=True)

    def ratios(slow: str, fast: str) -> list[float]:
        return [a / b for a, b in zip(times[slow], times[fast], strict=True)]

    def tokens_per_s(name: str) -> float:
        return num_tokens / statistics.median(times[name])

    def count_gflop(num_body_tokens: int) -> float:
        return float(2e-9 * (num_body * num_body_tokens + num_head * num_response_tokens))

    # The floor counts a shared context for each sequence. The scorer computes it once a pack.
    packs = [pack for batch in batches for pack in plan_packs(batch, workload.MAX_BATCH_TOKENS)]
    floor_gflop = count_gflop(num_tokens)
    work = {
        "rollouts": len(rollouts),
        "tokens_both_passes": num_tokens,
        "response_tokens_both_passes": num_response_tokens,
        "scorer_tokens_per_s": tokens_per_s("scorer"),
    }
    return [
        Measurement(
            "scorer against the naive loop",
            ratios("naive", "scorer"),
            "x",
            at_least=MIN_OVER_NAIVE,
            details=work
            | {
                "naive_tokens_per_s": tokens_per_s("naive"),
                "naive_padding_share": compute_padding_share(passes),
                "times_s": times,
            },
        ),
        Measurement(
            "scorer against the matmul floor",
            ratios("floor", "scorer"),
            "x",
            at_least=MIN_OF_FLOOR,
            details=work
            | {
                "floor_tokens_per_s": tokens_per_s("floor"),
                "floor_gflop": floor_gflop,
                "floor_gflop_per_s": floor_gflop / statistics.median(times["floor"]),
                "scorer_gflop": count_gflop(sum(pack.num_tokens for pack in packs)),
            },
        ),
        Measurement("gain of sharing contexts", ratios("distinct", "scorer"), "x"),
    ]


def _check_same(by_naive: Scored, by_scorer: Scored) -> None:
    """Raises RuntimeError if the scorers disagree. The naive one scored pass by pass, the other
    rollout by rollout."""
    in_passes = by_scorer.logprobs[::2] + by_scorer.logprobs[1::2]
    off = np.abs(np.concatenate(by_naive.logprobs) - np.concatenate(in_passes)).max()
    if not off <= MAX_DIFFERENCE:
        raise RuntimeError(f"scorer and naive loop differ by {off:.2g} nats")


def measure_memory(sizes: Sizes) -> Measurement:
    """Whether memory grows with the vocabulary. Each sample is from a new process: peaks stay."""
    large, small = sizes.memory_vocabularies
    rollouts = workload.draw_rollouts(sizes.num_memory_rollouts, small)
    above: dict[int, list[int]] = {large: [], small: []}
    for repetition in range(sizes.memory_repetitions):
        for vocabulary in (large, small):
            shape = replace(sizes.shape, vocabulary=vocabulary)
            with Worker(ServedScorer, shape, environment=SERVER_ENVIRONMENT) as scorer:
                before, peak = scorer.ask("measure_memory", workload.split_into_batches(rollouts))
            above[vocabulary].append(peak - before)
        shown = ", ".join(f"{v:,}: {above[v][-1] / 2**20:.0f} MiB" for v in above)
        print(f"memory: {repetition + 1} of {sizes.memory_repetitions}: {shown}", flush=True)
    return Measurement(
        f"peak memory above the weights, vocabulary {large:,} against {small:,}",
        [a / b for a, b in zip(above[large], above[small], strict=True)],
        "x",
        at_most=MAX_MEMORY_RATIO,
        details={
            "tokens_both_passes": workload.count_tokens(workload.list_sequences(rollouts)),
            "peak_above_weights_bytes": {str(v): above[v] for v in above},
        },
    )
