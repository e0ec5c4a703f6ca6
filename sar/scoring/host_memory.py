"""How the C library hands out memory, for processes that score on a CPU."""

from __future__ import annotations

import ctypes

# Parameters of glibc's mallopt (malloc.h).
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8
_NEVER = 2**31 - 1
_BLOCK_BYTES = 2**30


def keep_freed_memory() -> bool:
    """Makes freed memory stay with the process, to be used again; call it before threads start.

    By default glibc gives the blocks of activations and logits back to the system after each use,
    and every page of the next ones is faulted in and zeroed again, which costs a good part of the
    time of scoring. The process stays as large as it has once been.

    Returns:
        Whether the C library took it; other libraries than glibc go on as they were.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    # One arena: those of other threads than the main one cannot hold such blocks.
    settings = ((_M_MMAP_THRESHOLD, _BLOCK_BYTES), (_M_TRIM_THRESHOLD, _NEVER), (_M_ARENA_MAX, 1))
    done = [mallopt(parameter, value) == 1 for parameter, value in settings]
    return all(done)
