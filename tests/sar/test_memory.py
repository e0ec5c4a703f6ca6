"""Memory of the machine and of a container, with a folder in place of the container's cgroup."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sar import memory

MIB = 2**20


@pytest.fixture
def cgroup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    return tmp_path


def machine_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_a_container_has_its_limit(cgroup: Path) -> None:
    (cgroup / "memory.max").write_text(f"{64 * MIB}\n")
    (cgroup / "memory.current").write_text(f"{40 * MIB}\n")
    assert memory.total_memory_bytes() == 64 * MIB
    assert memory.free_memory_bytes() == 24 * MIB


@pytest.mark.parametrize("limit", ["max\n", "", f"{2**62}\n"])
def test_without_a_limit_the_machine_counts(cgroup: Path, limit: str) -> None:
    (cgroup / "memory.max").write_text(limit)
    (cgroup / "memory.current").write_text(f"{40 * MIB}\n")
    assert memory.total_memory_bytes() == machine_bytes()
    assert 0 < memory.free_memory_bytes() <= machine_bytes()


def test_without_a_cgroup_the_machine_counts(cgroup: Path) -> None:
    assert memory.total_memory_bytes() == machine_bytes()
    assert 0 < memory.free_memory_bytes() <= machine_bytes()
