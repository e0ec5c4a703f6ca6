"""The import of vLLM, which is an optional dependency."""

from __future__ import annotations

import os
from typing import Any


def import_vllm() -> Any:
    """The `vllm` module, with its workers set to start in fresh processes.

    Raises:
        ValueError: vLLM is not installed; the message says how to install it.
    """
    # vLLM forks its workers by default. A fork would inherit our sockets, threads and graders.
    os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
    try:
        import vllm
    except ModuleNotFoundError as error:
        if error.name != "vllm":
            raise
        raise ValueError(
            "vLLM is not installed: pip install -c constraints.txt -e '.[vllm]'"
        ) from error
    return vllm
