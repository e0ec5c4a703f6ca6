"""A real language model: our scorer, the naive loop and vLLM, on SmolLM2 in float32 and bfloat16.

    build/real/bin/python -m performance --only smollm2

It runs in the environment of `make real-test`, in about five minutes on two cores. Each contender
has its own process, configured as its user would. They take turns, so that each ratio compares
times measured one right after the other. Without vLLM installed, it is left out. The rollouts' ids
are drawn: time does not depend on them.
"""

from __future__ import annotations

import importlib.util
import statistics
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from performance import workload
from performance.report import Measurement
from performance.scoring import ServedScorer
from performance.workload import (
    DEFAULT_ENVIRONMENT,
    SERVER_ENVIRONMENT,
    Scored,
    Worker,
    time_scoring,
)
from sar.scoring import TokenSequence

FOLDER = Path(__file__).parents[1] / "build" / "real" / "smollm2"
MIN_OVER_VLLM = 1.3
MIN_OVER_NAIVE = 2.0
MIN_OF_FLOOR = 0.75
# In nats, between the mean negative log-probabilities of a response that two contenders give. Drawn
# ids cost this model 20 nats each, so rounding is larger than on text.
MAX_DIFFERENCE = {"float32": 1e-3, "bfloat16": 0.1}
# In one process, as its worker here is to end with it. The memory is for the KV cache, in GiB.
_VLLM_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_CI_ENV": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
}


@dataclass(frozen=True)
class Sizes:
    """How much to measure."""

    repetitions: int = 3
    num_rollouts: int = 6


QUICK = Sizes(repetitions=1, num_rollouts=1)


class ServedCheckpoint(ServedScorer):
    """Our scorer as the server runs it, on a checkpoint."""

    def __init__(self, folder: Path, dtype: str) -> None:
        from sar.scoring.checkpoint import load_model
        from sar.scoring.probe import read_probe_text

        model = load_model(str(folder), dtype=dtype, trust_remote_code=False).eval()
        text = read_probe_text(str(folder), trust_remote_code=False)
        self._serve(model, probe_text=text)

    def find_path(self) -> str:
        """Which way of scoring runs."""
        return self._scorer.scoring_path.name


class NaiveCheckpoint:
    """The naive loop on a checkpoint."""

    def __init__(self, folder: Path, dtype: str) -> None:
        from performance.naive import NaiveScorer
        from sar.scoring.checkpoint import load_model

        model = load_model(str(folder), dtype=dtype, trust_remote_code=False).eval()
        self._scorer = NaiveScorer(model)

    def score(self, batches: list[list[TokenSequence]]) -> Scored:
        return time_scoring(self._scorer, batches)


class VllmCheckpoint:
    """vLLM's prompt_logprobs through our scorer for vLLM, on a checkpoint."""

    def __init__(self, folder: Path, dtype: str) -> None:
        from sar.scoring.vllm_scorer import VllmScorer

        self._scorer = VllmScorer.from_pretrained(
            str(folder), dtype=dtype, max_batch_tokens=workload.MAX_BATCH_TOKENS
        )

    def score(self, batches: list[list[TokenSequence]]) -> Scored:
        return time_scoring(self._scorer, batches)


def measure(quick: bool) -> list[Measurement]:
    """Measures both dtypes, one after the other.

    Raises:
        FileNotFoundError: there is no SmolLM2 in build/real/smollm2.
    """
    if not (FOLDER / "config.json").is_file():
        raise FileNotFoundError(f"no SmolLM2 in {FOLDER}: make smollm2")
    sizes = QUICK if quick else Sizes()
    return [m for dtype in MAX_DIFFERENCE for m in _measure_dtype(dtype, sizes)]


def _measure_dtype(dtype: str, sizes: Sizes) -> list[Measurement]:
    rollouts = workload.draw_rollouts(sizes.num_rollouts, _count_words())
    sequences = workload.list_sequences(rollouts)
    num_tokens = workload.count_tokens(sequences)
    num_response_tokens = workload.count_response_tokens(sequences)
    batches = workload.split_into_batches(rollouts)
    print(f"smollm2, {dtype}: {len(rollouts)} rollouts, {num_tokens:,} tokens", flush=True)
    times: dict[str, list[float]] = {}
    with ExitStack() as stack:
        contenders = _start_contenders(stack, dtype)
        path = contenders["scorer"].ask("find_path")
        for repetition in range(sizes.repetitions + 1):
            scored = {name: worker.ask("score", batches) for name, worker in contenders.items()}
            _check_same(scored, dtype)
            taken = {name: one.seconds for name, one in scored.items()}
            taken["floor"] = contenders["scorer"].ask(
                "time_matmuls", num_tokens, num_response_tokens
            )
            if not repetition:  # the first one only warms up
                continue
            for name, seconds in taken.items():
                times.setdefault(name, []).append(seconds)
            shown = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in taken.items())
            print(f"smollm2, {dtype}: {repetition} of {sizes.repetitions}: {shown}", flush=True)
    details = {
        "path": path,
        "rollouts": len(rollouts),
        "tokens_both_passes": num_tokens,
        "tokens_per_s": {name: num_tokens / statistics.median(t) for name, t in times.items()},
        "times_s": times,
    }
    compared = [
        ("naive", "the naive loop", MIN_OVER_NAIVE),
        ("floor", "the matmul floor", MIN_OF_FLOOR),
        ("vllm", "vLLM", MIN_OVER_VLLM),
    ]
    return [
        Measurement(
            f"SmolLM2, {dtype}: scorer against {what}",
            [a / b for a, b in zip(times[name], times["scorer"], strict=True)],
            "x",
            at_least=aim,
            details=details,
        )
        for name, what, aim in compared
        if name in times
    ]


def _start_contenders(stack: ExitStack, dtype: str) -> dict[str, Worker]:
    def start(factory: Any, environment: dict[str, str | None], **options: Any) -> Worker:
        worker = Worker(factory, FOLDER, dtype, environment=environment, **options)
        return stack.enter_context(worker)

    contenders = {
        "scorer": start(ServedCheckpoint, {**SERVER_ENVIRONMENT}),
        "naive": start(NaiveCheckpoint, {**DEFAULT_ENVIRONMENT}),
    }
    if _has_vllm():
        environment = {**DEFAULT_ENVIRONMENT, **_VLLM_ENVIRONMENT}
        contenders["vllm"] = start(VllmCheckpoint, environment, has_children=True)
    else:
        print("smollm2: vLLM is not installed, and left out", flush=True)
    return contenders


def _has_vllm() -> bool:
    return importlib.util.find_spec("vllm") is not None


def _count_words() -> int:
    from transformers import AutoConfig

    return int(AutoConfig.from_pretrained(FOLDER).vocab_size)


def _check_same(scored: dict[str, Scored], dtype: str) -> None:
    """Raises RuntimeError if a contender disagrees with our scorer."""

    def nlls(one: Scored) -> Sequence[float]:
        return [float(-logprobs_T.mean()) for logprobs_T in one.logprobs]

    for name, one in scored.items():
        off = np.abs(np.subtract(nlls(one), nlls(scored["scorer"]))).max()
        if not off <= MAX_DIFFERENCE[dtype]:
            raise RuntimeError(f"{dtype}: scorer and {name} differ by {off:.2g} nats a token")
