"""The product's own server, with a scorer and a clock that a test controls.

`python tests/chaos/faulty_server.py CONTROL [the server's flags]`. CONTROL is a JSON file, read
before every batch: `step_s` seconds for a batch, `fail` what to raise (`runtime`, `memory`, `cuda`,
`nan`), `times` so many batches, `above` only for batches of more sequences; and before a checkpoint
is loaded: `load_s` seconds for it, `has_room` whether it fits beside the one in service.
`READ_TIMEOUT_S` and `WRITE_TIMEOUT_S` in the environment take the listener's places.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Every grader process imports the main module again: what is slow to import waits for `main`.


class FaultyScorer:
    """Log-probabilities that depend on every token, so that a mix-up shows; or a failure."""

    max_context_tokens = 1 << 20
    description = architecture = "stand-in"

    def __init__(self, control: Path) -> None:
        self._control = control
        self._version: Any = None
        self._times_left = 0

    def has_room_for_copy(self) -> bool:
        return _orders(self._control).get("has_room", True)

    def response_logprobs(self, sequences: Sequence[Any]) -> list[Any]:
        control = _orders(self._control)
        if control != self._version:
            self._version = control
            self._times_left = control.get("times", 1 << 30)
        time.sleep(control.get("step_s", 0.0))
        fail = control.get("fail")
        if fail and self._times_left > 0 and len(sequences) > control.get("above", 0):
            self._times_left -= 1
            if fail != "nan":
                raise _failure(fail)
            return [_logprobs(s) * float("nan") for s in sequences]
        return [_logprobs(s) for s in sequences]


def _orders(control: Path) -> dict[str, Any]:
    return json.loads(control.read_text())


def _load(control: Path, path: str) -> FaultyScorer:
    """Spends its time in PyTorch, as a real load does: a thread that sleeps ends more easily."""
    if load_s := _orders(control).get("load_s"):
        import torch

        logging.getLogger("reward_server").info("loading %s", path)
        end_s = time.monotonic() + load_s
        while time.monotonic() < end_s:
            torch.zeros(1000).add_(1)
    return FaultyScorer(control)


def _logprobs(sequence: Any) -> Any:
    import numpy as np

    ids = np.asarray(sequence.response_ids)
    return (-0.05 - (ids * 7 + sum(sequence.context_ids)) % 61 / 61).astype(np.float32)


def _failure(kind: str) -> Exception:
    if kind == "memory":
        return MemoryError()
    if kind == "cuda":
        import torch

        return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    return RuntimeError("told to fail")


def main() -> int:
    from reward_server import __main__ as entry
    from reward_server.http import listener

    control, *arguments = sys.argv[1:]
    for name in ("READ_TIMEOUT_S", "WRITE_TIMEOUT_S"):
        if name in os.environ:
            setattr(listener, f"_{name}", float(os.environ[name]))
    entry._load_scorer = lambda config, path: _load(Path(control), path)
    return entry.main(arguments)


if __name__ == "__main__":
    sys.exit(main())
