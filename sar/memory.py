"""Memory of this machine, or of the container that the process runs in."""

from __future__ import annotations

import os
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def total_memory_bytes() -> int:
    """Memory that this process may use in total: the machine's, or its container's limit."""
    machine_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit_bytes = _read_cgroup_bytes("memory.max")
    return machine_bytes if limit_bytes is None else min(machine_bytes, limit_bytes)


def free_memory_bytes() -> int:
    """Memory that is free: on the machine, and within the container's limit."""
    machine_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    limit_bytes, used_bytes = _read_cgroup_bytes("memory.max"), _read_cgroup_bytes("memory.current")
    if limit_bytes is None or used_bytes is None:
        return machine_bytes
    return min(machine_bytes, limit_bytes - used_bytes)


def _read_cgroup_bytes(name: str) -> int | None:
    """A number from the container's control group; None if there is no group or no limit."""
    try:
        return int((_CGROUP / name).read_text())
    except (OSError, ValueError):  # no such file, or "max"
        return None
