"""Measures the scorer on a GPU: `python -m performance.gpu`; under eight minutes on a large GPU.

Models have random weights and the shapes of Qwen3-1.7B and Qwen3-4B; nothing is downloaded.
`--tiny` runs in seconds, also without a GPU, to check the code; its results mean nothing.
"""

from __future__ import annotations

import argparse
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import FrameType

import torch

from performance import report
from performance.gpu import head as gpu_head
from performance.gpu import parts as gpu_parts
from performance.gpu import vllm as gpu_vllm
from performance.gpu.models import (
    QWEN3_1_7B,
    QWEN3_4B,
    STEP_GROUPS,
    TINY,
    TINY_DEEPER,
    TINY_LENGTHS,
    Lengths,
)
from performance.gpu.timing import Bench, NotMeasured, free_memory
from performance.report import Measurement
from performance.workload import MAX_BATCH_TOKENS
from sar.scoring.transformers_scorer import resolve_device

MIN_ROUNDS = 5


@dataclass(frozen=True)
class Part:
    name: str
    measure: Callable[[Bench], Iterator[Measurement | NotMeasured]]
    limit_s: float


# The order matters: `matmul` sets the rate that utilisation is relative to, `step` uses the rates
# of the scorer parts. The limits leave time to start up within eight minutes.
PARTS = (
    Part("matmul", gpu_parts.measure_matmul, 10),
    Part("scorer", lambda bench: gpu_parts.measure_scorer(bench, bench.small), 70),
    Part("scorer-large", lambda bench: gpu_parts.measure_scorer(bench, bench.large), 60),
    Part("memory", gpu_parts.measure_memory, 25),
    Part("naive", gpu_parts.measure_naive, 40),
    Part("attention", gpu_parts.measure_attention, 30),
    Part("head", gpu_head.measure_heads, 55),
    Part("budgets", gpu_parts.measure_budgets, 40),
    Part("vllm", gpu_vllm.measure_vllm, 100),
    Part("step", gpu_parts.measure_step, 1),
)


class TimeUp(BaseException):
    """A part took longer than its limit. A BaseException, so that no library catches it."""


@dataclass
class Outcome:
    """What a part gave. `status`: "measured", "not measured" if nothing could be, or "failed"."""

    name: str
    status: str = "measured"
    reason: str = ""
    seconds: float = 0.0
    measurements: list[Measurement] = field(default_factory=list)
    not_measured: list[NotMeasured] = field(default_factory=list)


def run_part(part: Part, bench: Bench) -> Outcome:
    """Runs a part within its time limit; keeps the results from before a failure."""
    print(f"{part.name}: at most {part.limit_s:g} s", flush=True)
    bench.limit_s = part.limit_s
    outcome = Outcome(part.name)
    start = time.perf_counter()
    try:
        with _limit_time(part.limit_s):
            for result in part.measure(bench):
                if isinstance(result, Measurement):
                    outcome.measurements.append(result)
                    print(f"  {result.name}: {result.value:.4g} {result.unit}", flush=True)
                else:
                    outcome.not_measured.append(result)
                    print(f"  {result.name}: not measured, {result.reason}", flush=True)
        if not outcome.measurements:
            outcome.status = "not measured"
            outcome.reason = "; ".join(dict.fromkeys(r.reason for r in outcome.not_measured))
    except (Exception, TimeUp) as error:  # noqa: BLE001  the other parts still run
        lines = str(error).strip().splitlines()
        outcome.status = "failed"
        outcome.reason = f"{type(error).__name__}: {lines[0] if lines else ''}"
        print(f"  FAILED: {outcome.reason}", flush=True)
    outcome.seconds = time.perf_counter() - start
    # After the handler, because the exception keeps the tensors of its frames alive.
    free_memory(bench.device)
    return outcome


@contextmanager
def _limit_time(limit_s: float) -> Iterator[None]:
    """Raises TimeUp in the block after `limit_s`, as soon as Python code runs."""

    def stop(signum: int, frame: FrameType | None) -> None:
        raise TimeUp(f"not done within its {limit_s:g} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, limit_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def make_bench(device: torch.device, *, tiny: bool, rounds: int, step_seconds: float) -> Bench:
    """The settings of a run; `tiny` makes every size small."""
    bench = Bench(
        device=device,
        dtype=torch.bfloat16,
        small=QWEN3_1_7B,
        large=QWEN3_4B,
        vocabularies=(32_000, 152_000),
        lengths=Lengths(),
        max_batch_tokens=MAX_BATCH_TOKENS,
        token_budgets=(8192, 16_384, 32_768, 65_536),
        matmul_sizes=(4096, 8192, 16_384),
        max_groups=STEP_GROUPS,
        head_positions=16_384,
        rounds=rounds,
        step_seconds=step_seconds,
        utilisation_bound=gpu_parts.UTILISATION,
        matmul_size=8192,
    )
    if not tiny:
        return bench
    return replace(
        bench,
        dtype=torch.bfloat16 if bench.is_cuda else torch.float32,
        small=TINY,
        large=TINY_DEEPER,
        vocabularies=(512, 2048),
        lengths=TINY_LENGTHS,
        max_batch_tokens=512,
        token_budgets=(128, 256, 512, 1024),
        matmul_sizes=(64, 256),
        max_groups=2,
        head_positions=512,
        utilisation_bound=None,
        matmul_size=256,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 1 if a part failed."""
    parser = argparse.ArgumentParser(prog="python -m performance.gpu", description=__doc__)
    parser.add_argument("--device", default="auto", help="auto, cuda, cuda:1; cpu with --tiny only")
    parser.add_argument(
        "--tiny", action="store_true", help="tiny models, to check that all parts run"
    )
    names = [part.name for part in PARTS]
    parser.add_argument(
        "--parts", nargs="+", choices=names, metavar="PART", help=f"default: {' '.join(names)}"
    )
    parser.add_argument("--rounds", type=int, default=MIN_ROUNDS, help="repetitions, at least 5")
    parser.add_argument(
        "--step-seconds",
        type=float,
        default=120.0,
        help="ASSUMED length of a training step, to compute the share that scoring takes of it",
    )
    parser.add_argument("--output", type=Path, help="default: performance/results/gpu.json")
    arguments = parser.parse_args(argv)
    try:
        device = resolve_device(arguments.device)
    except ValueError as error:
        parser.error(str(error))
    if device.type != "cuda" and not arguments.tiny:
        parser.error("needs a CUDA device; --tiny runs on a CPU")
    if arguments.rounds < MIN_ROUNDS:
        parser.error(f"--rounds {arguments.rounds}: at least {MIN_ROUNDS}")
    if not arguments.step_seconds > 0:
        parser.error(f"--step-seconds {arguments.step_seconds:g}: more than 0")
    if device.index is not None and device.type == "cuda":
        torch.cuda.set_device(device)
    if device.type == "cpu":
        torch.set_num_threads(1)  # for matrices this small, more threads only wait
    bench = make_bench(
        device,
        tiny=arguments.tiny,
        rounds=arguments.rounds,
        step_seconds=arguments.step_seconds,
    )
    wanted = [p for p in PARTS if arguments.parts is None or p.name in arguments.parts]
    outcomes = [run_part(part, bench) for part in wanted]
    print(_format_summary(outcomes, bench), flush=True)

    output: Path | None = arguments.output
    if output is None and not arguments.tiny:
        output = report.RESULTS / "gpu.json"
    if output is not None:
        _save(output, outcomes, bench, tiny=arguments.tiny)
        print(f"written to {output}", flush=True)
    return int(any(outcome.status == "failed" for outcome in outcomes))


def _format_summary(outcomes: Sequence[Outcome], bench: Bench) -> str:
    lines = ["", report.format_table([m for outcome in outcomes for m in outcome.measurements])]
    missing = [r for outcome in outcomes for r in outcome.not_measured]
    if missing:
        lines += ["", "| not measured | why |", "| --- | --- |"]
        lines += [f"| {r.name} | {r.reason} |" for r in missing]
    lines += ["", "| part | | seconds | |", "| --- | --- | --- | --- |"]
    lines += [f"| {o.name} | {o.status} | {o.seconds:.1f} | {o.reason} |" for o in outcomes]
    lines += [
        "",
        f"Ran on {bench.device.type}, {bench.dtype}. The share of a step rests on an assumption: "
        f"a step of {bench.step_seconds:g} s (--step-seconds).",
    ]
    return "\n".join(lines)


def _save(path: Path, outcomes: Sequence[Outcome], bench: Bench, *, tiny: bool) -> None:
    report.save(
        path,
        [measurement for outcome in outcomes for measurement in outcome.measurements],
        device=bench.device.type,
        dtype=str(bench.dtype).removeprefix("torch."),
        tiny=tiny,
        rounds=bench.rounds,
        assumed_step_seconds=bench.step_seconds,
        shapes=[asdict(bench.small), asdict(bench.large)],
        lengths=asdict(bench.lengths),
        parts=[
            {
                "name": o.name,
                "status": o.status,
                "reason": o.reason,
                "seconds": round(o.seconds, 2),
                "measurements": [m.name for m in o.measurements],
            }
            for o in outcomes
        ],
        not_measured=[
            {"part": o.name, "name": r.name, "reason": r.reason}
            for o in outcomes
            for r in o.not_measured
        ],
    )
