"""Time and peak memory on a device, and what a part of the GPU benchmark is given to work with."""

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
    """Something that was to be measured and could not be, with the reason."""

    name: str
    reason: str


@dataclass
class Bench:
    """What the parts are run with, and what they leave for one another.

    Attributes:
        rounds: repetitions of every measurement.
        limit_s: seconds that the running part may take.
        step_seconds: how long a training step is assumed to take.
        utilisation_bound: what the scorer has to reach; None where that says nothing.
        matmul_size: rows of the square matrices whose product is the yardstick.
        rollouts_per_s: scored per second, by the name of the shape.
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

    def num_groups(self, seconds_per_group: float, share: float = 0.6) -> int:
        """Groups of rollouts that all rounds get through within a share of the part's limit."""
        num_groups = share * self.limit_s / (self.rounds + 1) / seconds_per_group
        return max(1, min(int(num_groups), self.max_groups, STEP_GROUPS))


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(device: torch.device, task: Task) -> float:
    """How long the task takes, until the device has finished it."""
    synchronize(device)
    start = time.perf_counter()
    task()
    synchronize(device)
    return time.perf_counter() - start


def interleaved(
    device: torch.device, tasks: dict[str, Task], rounds: int
) -> dict[str, list[float]]:
    """Seconds of each task in each round, after one run to warm up.

    The tasks take turns, so that a device that slows down as it heats slows all of them.
    """
    for task in tasks.values():
        task()
    samples: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(rounds):
        for name, task in tasks.items():
            samples[name].append(seconds(device, task))
    return samples


def peak_bytes(device: torch.device, task: Task) -> int:
    """Device memory in use at the worst moment of the task, above what was in use before it."""
    assert device.type == "cuda"
    free(device)
    synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    task()
    synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def free(device: torch.device) -> None:
    """Gives back the memory of what is no longer referred to."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def matmul_flops_per_s(bench: Bench, size: int) -> Callable[[], float]:
    """A function that measures the rate at which square matrices of the dtype are multiplied."""
    left = torch.randn(size, size, device=bench.device, dtype=bench.dtype)
    right = torch.randn_like(left)
    product = torch.empty_like(left)
    repeats = 1

    def multiply() -> None:
        for _ in range(repeats):
            torch.mm(left, right, out=product)

    multiply()
    # Long enough that starting the kernels does not count, short beside what it is compared with.
    aim_s = 0.2 if bench.is_cuda else 0.01
    repeats = max(1, round(aim_s / max(seconds(bench.device, multiply), 1e-6)))
    return lambda: repeats * 2 * size**3 / seconds(bench.device, multiply)
