"""What stands in for a model on scorers: waits in proportion to tokens, and obeys a control folder.

SCALING_SCORER_CLASS=stand_in:StandIn, with this folder in PYTHONPATH. STAND_IN_S_PER_TOKEN is its
speed. Orders are files in the folder STAND_IN_CONTROL:

- `fail_load`: the first scorer that finds it removes it, and cannot load.
- `fail_loads`: no scorer can load as long as it is there.
- `slow_load`: loading takes a second.
- `broken-PID`: the scorer with this process id fails on all packs.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reward_server.weights.checkpoints import parse_step

POISON_ID = 249
"""A token that ends the scorer's process."""


class StandIn:
    """See `reward_server.scaling.loaded_model.LoadedModel`. Log-probabilities depend on each token
    and on the training step in the checkpoint's name."""

    needs_files = False

    def __init__(self, path: str) -> None:
        self._step = parse_step(Path(path)) or 0
        self._seconds_per_token = float(os.environ.get("STAND_IN_S_PER_TOKEN", "0"))

    @classmethod
    def load(cls, path: str, _: Any) -> StandIn:
        if _exists("slow_load"):
            time.sleep(1.0)
        if _exists("fail_loads") or _take("fail_load"):
            raise OSError(5, "Input/output error")
        return cls(path)

    @property
    def facts(self) -> dict[str, Any]:
        return {
            "architecture": {"class": "stand-in"},
            "max_context_tokens": 1024,
            "scoring_path": ("packed", ""),
            "description": "stand-in",
        }

    def has_room_for(self, num_copies: int) -> bool:
        return not _exists("no_room")

    def response_logprobs(self, sequences: Sequence[Any]) -> list[Any]:
        if any(POISON_ID in one.response_ids for one in sequences):
            os.kill(os.getpid(), signal.SIGKILL)
        if _exists(f"broken-{os.getpid()}"):
            raise RuntimeError("device-side assert triggered")
        time.sleep(self._seconds_per_token * sum(map(len, sequences)))
        return [
            compute_logprobs(one.context_ids, one.response_ids, self._step) for one in sequences
        ]

    def close(self) -> None: ...


def compute_logprobs(context_ids: Sequence[int], response_ids: Sequence[int], step: int) -> Any:
    """The log-probabilities that a scorer gives with the weights of this step."""
    ids = np.asarray(response_ids)
    return (-0.05 - (ids * 7 + sum(context_ids) + 13 * step) % 61 / 61).astype(np.float32)


def _exists(name: str) -> bool:
    return Path(os.environ["STAND_IN_CONTROL"], name).exists()


def _take(name: str) -> bool:
    control = Path(os.environ["STAND_IN_CONTROL"])
    try:
        (control / name).rename(control / f"taken-{name}-{os.getpid()}")
    except FileNotFoundError:
        return False
    return True
