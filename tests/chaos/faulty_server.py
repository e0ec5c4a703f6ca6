"""The real server with a stand-in scorer that obeys a control file.

python tests/chaos/faulty_server.py CONTROL [flags of the server]

CONTROL is a JSON file of orders. These are read before every batch:
- `step_s`: seconds that a batch takes.
- `fail`: how batches fail: `runtime`, `memory`, `cuda` (exceptions) or `nan` (the result).
- `times`: how many batches fail; without it, all.
- `above`: only batches with more sequences than this fail.
These are read before a checkpoint is loaded:
- `load_s`: seconds that loading takes.
- `fail_load`: how loading fails: as `fail`, or `io`.
- `has_room`: whether memory has room for it while the old weights stay loaded.

The environment variables `READ_TIMEOUT_S` and `WRITE_TIMEOUT_S` replace the listener's constants,
`POLL_S`, `PATIENCE_S` and `FIRST_RETRY_S` the follower's. With `FOLLOW_AS`, a user id, the follower
may read what that user may. `NUM_DESCRIPTORS` limits the file descriptors of the server.
"""

from __future__ import annotations

import ctypes
import errno
import json
import logging
import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, cast

# Every grader process imports this module again, so slow imports are inside the functions.


class FaultyScorer:
    """Gives log-probabilities that depend on every token, so that tests notice a mix-up. Fails on
    command."""

    max_context_tokens = 1 << 20
    description = "stand-in"
    architecture: ClassVar = {"class": "stand-in"}

    def __init__(self, control: Path) -> None:
        self._control = control
        self._last_orders: dict[str, Any] = {}
        self._times_left = 0

    @property
    def scoring_path(self) -> Any:
        from sar.scoring.base import ScoringPath

        return ScoringPath("packed")

    def make_room_check(self) -> Callable[[], bool]:
        return lambda: bool(_read_orders(self._control).get("has_room", True))

    def response_logprobs(self, sequences: Sequence[Any]) -> list[Any]:
        orders = _read_orders(self._control)
        if orders != self._last_orders:
            self._last_orders = orders
            self._times_left = orders.get("times", 1 << 30)
        time.sleep(orders.get("step_s", 0.0))
        fail = orders.get("fail")
        if fail and self._times_left > 0 and len(sequences) > orders.get("above", 0):
            self._times_left -= 1
            if fail != "nan":
                raise _create_failure(fail)
            return [_compute_logprobs(s) * float("nan") for s in sequences]
        return [_compute_logprobs(s) for s in sequences]


def _read_orders(control: Path) -> dict[str, Any]:
    orders: dict[str, Any] = json.loads(control.read_text())
    return orders


def _load(control: Path, path: str) -> FaultyScorer:
    """Spends `load_s` inside PyTorch, like a real load. A sleeping thread would end more easily."""
    logging.getLogger("reward_server").info("loading %s", path)
    if fail := _read_orders(control).get("fail_load"):
        raise _create_failure(fail)
    if load_s := _read_orders(control).get("load_s"):
        import torch

        end_s = time.monotonic() + load_s
        while time.monotonic() < end_s:
            torch.zeros(1000).add_(1)
    return FaultyScorer(control)


def _compute_logprobs(sequence: Any) -> Any:
    import numpy as np

    ids = np.asarray(sequence.response_ids)
    return (-0.05 - (ids * 7 + sum(sequence.context_ids)) % 61 / 61).astype(np.float32)


def _create_failure(kind: str) -> Exception:
    if kind == "io":
        return OSError(errno.EIO, "Input/output error")
    if kind == "memory":
        return MemoryError()
    if kind == "cuda":
        import torch

        return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    return RuntimeError("told to fail")


def _follow_as(user_id: int) -> None:
    """Gives the follower's thread the access to files of another user. Linux has this for each
    thread; the whole server could not even read Python under another user."""
    from reward_server.weights.follower import Follower

    run = Follower._run

    def run_as_user(self: Follower) -> None:
        ctypes.CDLL(None).setfsuid(user_id)
        run(self)

    Follower._run = run_as_user  # type: ignore[method-assign]


def main() -> int:
    from reward_server import __main__ as entry
    from reward_server.http import listener
    from reward_server.weights import follower, loading

    control, *arguments = sys.argv[1:]
    for module, names in (
        (listener, ("READ_TIMEOUT_S", "WRITE_TIMEOUT_S")),
        (follower, ("POLL_S", "PATIENCE_S", "FIRST_RETRY_S")),
    ):
        for name in names:
            if name in os.environ:
                setattr(module, f"_{name}", float(os.environ[name]))
    if "FOLLOW_AS" in os.environ:
        _follow_as(int(os.environ["FOLLOW_AS"]))
    if "NUM_DESCRIPTORS" in os.environ:
        resource.setrlimit(resource.RLIMIT_NOFILE, (int(os.environ["NUM_DESCRIPTORS"]),) * 2)
    loading.EngineLoader.load_scorer = cast(  # type: ignore[method-assign]
        Any, lambda self, path: _load(Path(control), path)
    )
    return entry.main(arguments)


if __name__ == "__main__":
    sys.exit(main())
