"""The import of vLLM, which is an optional dependency."""

from __future__ import annotations

import os
from typing import Any


def import_vllm() -> Any:
    """The `vllm` module, set to run its engine in this process and its workers in fresh ones.

    Raises:
        ValueError: vLLM is not installed; the message says how to install it.
    """
    # vLLM's own engine process outlives a parent that is killed, and dies of the Ctrl-C that the
    # parent wants to handle. The server starts a process for it: `sar.scoring.vllm_process`.
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
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
