"""Checks the settings of scorers on Ray, so that Ray does not refuse them later."""

from __future__ import annotations

import json
import re

from sar.errors import quote

_ADDRESS = re.compile(r"auto|(\[[0-9a-fA-F:.]+\]|[^\s:/@,\[\]]+):([0-9]{1,5})")
_MAX_PORT = 65535

# Ray's smallest amount, and more than it has of anything.
_MIN_AMOUNT, _MAX_AMOUNT = 0.0001, 10**9
# What Ray takes as options of their own.
_OTHER_FLAGS = {"CPU": "--scorer-cpus", "GPU": "--scorer-gpus"}
_REFUSED = {"", "memory", "object_store_memory"}


def check_address(text: str) -> None:
    """Refuses a `--ray-address` that cannot be Ray's.

    Raises:
        ValueError: it is neither host:port nor auto.
    """
    found = _ADDRESS.fullmatch(text)
    if not found or (found[2] and not 0 < int(found[2]) <= _MAX_PORT):
        raise ValueError(
            f"--ray-address {text!r}: must be host:port, or auto; this machine has to be a node of "
            "the cluster"
        )


def check_gpus(num_gpus: float, at_least: int) -> None:
    """Refuses a `--scorer-gpus` that Ray or the model cannot take.

    Args:
        at_least: GPUs that the model needs, by `--tensor-parallel-size`.
    Raises:
        ValueError: it is a part of more than one GPU, or too few.
    """
    if num_gpus > 1 and not num_gpus.is_integer():
        raise ValueError(f"--scorer-gpus {num_gpus:g}: must be a whole number, or at most 1")
    if num_gpus < at_least:
        raise ValueError(
            f"--scorer-gpus {num_gpus:g}: fewer than --tensor-parallel-size {at_least}"
        )


def read_resources(text: str) -> dict[str, float]:
    """The resources of a scorer in `--scorer-resources`, a JSON object; none if there is no text.

    Raises:
        ValueError: it is no JSON object, or Ray cannot take what is in it.
    """
    if not text.strip():
        return {}
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"--scorer-resources {quote(text)}: not JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise ValueError(f"--scorer-resources {quote(text)}: must be a JSON object")
    for name, amount in parsed.items():
        is_number = isinstance(amount, int | float) and not isinstance(amount, bool)
        if not is_number or not _MIN_AMOUNT <= amount <= _MAX_AMOUNT:
            raise ValueError(
                f"--scorer-resources {quote(name)}: must be a number from {_MIN_AMOUNT} to "
                f"{_MAX_AMOUNT:,}, not {quote(json.dumps(amount))}"
            )
        if name in _OTHER_FLAGS:
            raise ValueError(f"--scorer-resources {name!r}: use {_OTHER_FLAGS[name]}")
        if name in _REFUSED:
            raise ValueError(f"--scorer-resources {name!r}: not a resource that a scorer can take")
    return {name: float(amount) for name, amount in parsed.items()}
