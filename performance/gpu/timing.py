"""Measures time and peak memory on a device; the settings that parts are run with."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from performance.gpu.models import STEP_GROUPS, Lengths, Shape

Task = Callable[[], Any]


@dataclass(frozen=True)
class NotMeasured:
    """A measurement that could not be made, and why."""

    name: str
    reason: str


@dataclass
class Bench:
    """Settings of all parts, and the results that later parts need.

    Attributes:
        rounds: repetitions of each measurement.
        limit_s: time limit of the running part.
        step_seconds: assumed length of a training step.
        utilisation_bound: the utilisation that the scorer must reach; None for tiny models.
        matmul_size: rows of the square matrices whose rate utilisation is relative to.
        rollouts_per_s: rollouts scored per second, by name of the shape.
    """

    device: torch.device
    dtype: torch.dtype
    small: Shape
    large: Shape
    vocabularies: tuple[int, int]
    lengths: Lengths
    max_batch_tokens: int
    token_budgets: Sequence[int]
    matmul_sizes: Sequence[int]
    max_groups: int
    head_positions: int
    rounds: int
    step_seconds: float
    utilisation_bound: float | None
    limit_s: float = 0.0
    matmul_size: int = 0
    rollouts_per_s: dict[str, list[float]] = field(default_factory=dict)

    @property
    def is_cuda(self) -> bool:
        return self.device.type == "cuda"

    def fit_groups(self, seconds_per_group: float, share: float = 0.6) -> int:
        """Number of groups that all rounds can score within a share of the part's time limit."""
        num_groups = share * self.limit_s / (self.rounds + 1) / seconds_per_group
        return max(1, min(int(num_groups), self.max_groups, STEP_GROUPS))


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def time_task(device: torch.device, task: Task) -> float:
    """Seconds until the device has finished the task."""
    synchronize(device)
    start = time.perf_counter()
    task()
    synchronize(device)
    return time.perf_counter() - start


def time_in_turns(
    device: torch.device, tasks: dict[str, Task], rounds: int
) -> dict[str, list[float]]:
    """Seconds of each task in each round, after one run to warm up.

    The tasks take turns, so that a device that slows down when hot slows all of them.
    """
    for task in tasks.values():
        task()
    samples: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(rounds):
        for name, task in tasks.items():
            samples[name].append(time_task(device, task))
    return samples


def measure_peak_bytes(device: torch.device, task: Task) -> int:
    """Peak device memory during the task, above the memory in use before it."""
    free_memory(device)
    synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    task()
    synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def free_memory(device: torch.device) -> None:
    """Releases the memory of unreachable tensors."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def make_matmul_timer(bench: Bench, size: int) -> Callable[[], float]:
    """Returns a function that measures the FLOP/s of multiplying square matrices."""
    left = torch.randn(size, size, device=bench.device, dtype=bench.dtype)
    right = torch.randn_like(left)
    product = torch.empty_like(left)
    repeats = 1

    def multiply() -> None:
        for _ in range(repeats):
            torch.mm(left, right, out=product)

    multiply()
    # Long enough to hide kernel launches, short compared with what is measured beside it.
    aim_s = 0.2 if bench.is_cuda else 0.01
    repeats = max(1, round(aim_s / max(time_task(bench.device, multiply), 1e-6)))
    return lambda: repeats * 2 * size**3 / time_task(bench.device, multiply)
