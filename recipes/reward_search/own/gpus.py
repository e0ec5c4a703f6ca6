"""The machine's GPUs, and how training runs share them."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from queue import SimpleQueue

_VARIABLE = "CUDA_VISIBLE_DEVICES"
_TRAINER_SHARE = 0.75
"""Of a run's part of the memory. The reward server has the rest; the evaluation comes later."""


def list_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    count = torch.cuda.device_count()
    given = [one.strip() for one in os.environ.get(_VARIABLE, "").split(",") if one.strip()]
    return (given or [str(number) for number in range(count)])[:count]


class Places:
    """Where training runs run: each on one GPU, or on a share of the CPU's cores."""

    def __init__(self, gpus: list[str], jobs: int) -> None:
        """
        Args:
            gpus: their names. Empty: the CPU.
            jobs: runs at a time.
        """
        self.on_gpu = bool(gpus)
        runs_per_gpu = math.ceil(jobs / len(gpus)) if gpus else 1
        self.trainer_memory_share = _TRAINER_SHARE / runs_per_gpu
        """Of a GPU's memory, for the training process of one run."""
        cores = len(os.sched_getaffinity(0))
        threads = {
            "OMP_NUM_THREADS": str(max(1, cores // jobs)),
            "OMP_WAIT_POLICY": "PASSIVE",  # a waiting process leaves its cores to the others
        }
        self._free: SimpleQueue[dict[str, str]] = SimpleQueue()
        for number in range(jobs):
            pinned = {_VARIABLE: gpus[number % len(gpus)]} if gpus else {}
            self._free.put({**threads, **pinned})

    @contextmanager
    def take(self) -> Iterator[dict[str, str]]:
        """Waits for a free place. Yields the environment variables of its processes."""
        environ = self._free.get()
        try:
            yield environ
        finally:
            self._free.put(environ)
