"""Checks that OpenRLHF can continue from a run's checkpoints.

OpenRLHF 0.11.2 keeps them in `--ckpt.path`/_actor and, with PPO, /_critic. DeepSpeed writes a
folder global_step{N} in each, then N's folder name into the file `latest`. OpenRLHF then writes the
folder's metric.json. Actor and critic are saved at the same time, and each continues from its own
`latest`. A run that is killed while it saves leaves them different:
1. Without `latest` in _actor, the next start ends with KeyError 'episode' when all models are
   loaded.
2. A critic without `latest`, or at another step, continues without a word.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from recipes.launch.settings import LaunchError


def check_checkpoints(folder: Path, roles: Sequence[str]) -> None:
    """Checks that all roles continue from the same step, or all from the start.

    Args:
        folder: OpenRLHF's `--ckpt.path`; it need not exist.
        roles: the subfolders that the run continues from.
    Raises:
        LaunchError: the run cannot continue; the message says what to do.
    """
    try:
        if not any((folder / role).exists() for role in roles):
            return
        tags = {role: _read_latest(folder / role) for role in roles}
        steps = {_get_step(folder / role, tag) for role, tag in tags.items()}
        if len(steps) == 1 and None not in steps:
            return
        common = set.intersection(*(_list_complete(folder / role) for role in roles))
    except OSError as error:
        raise LaunchError(f"cannot read {error.filename}: {error.strerror}") from error
    states = ", ".join(_describe(folder / role, tag) for role, tag in tags.items())
    if common:
        newest = max(common, key=lambda tag: _parse_step(tag) or 0)
        others = [f"{role}/latest" for role, tag in tags.items() if tag != newest]
        advice = f"to continue from {newest}, write this name into {' and '.join(others)}"
    else:
        advice = f"delete {' and '.join(roles)} there to start anew, or choose another OUTPUT"
    raise LaunchError(f"cannot continue from {folder}: {states}; {advice}")


def _read_latest(folder: Path) -> str:
    """The name in `latest`; empty if there is none."""
    file = folder / "latest"
    return file.read_text(encoding="utf-8", errors="replace").strip() if file.is_file() else ""


def _get_step(folder: Path, tag: str) -> int | None:
    """The step of a checkpoint; None if it is not there."""
    return _parse_step(tag) if tag and (folder / tag).is_dir() else None


def _parse_step(tag: str) -> int | None:
    found = re.fullmatch(r"(?:best_)?global_step(\d+)", tag)
    return int(found[1]) if found else None


def _list_complete(folder: Path) -> set[str]:
    """Names of the checkpoints that were written to their end."""
    return {
        file.parent.name
        for file in folder.glob("global_step*/metric.json")
        if _parse_step(file.parent.name) is not None
    }


def _describe(folder: Path, tag: str) -> str:
    if not folder.exists():
        return f"{folder.name} is missing"
    if not tag:
        return f"{folder.name} has no complete checkpoint (no file 'latest')"
    if _get_step(folder, tag) is None:
        return f"{folder.name}/latest names {tag[:60]!r}, which is not there"
    return f"{folder.name} is at {tag}"
