"""Checks that OpenRLHF can continue from a run's checkpoints.

OpenRLHF 0.11.2 keeps them in `--ckpt.path`/_actor and, with PPO, /_critic. DeepSpeed writes a
folder global_step{N} in each, then N's folder name into the file `latest`. OpenRLHF then writes the
folder's metric.json. Actor and critic are saved at the same time, and each continues from its own
`latest`. A run that is killed while it saves leaves them different:
1. Without `latest` in _actor, the next start ends with KeyError 'episode' when all models are
   loaded.
2. A critic without `latest`, or at another step, continues without a word.

The weights alone are in `--ckpt.path`/global_step{N}_hf. A reward server that follows the folder
would score with weights of a later step than the run's, until the run has come there again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from recipes.launch.settings import LaunchError


def check_checkpoints(folder: Path, roles: Sequence[str]) -> int:
    """Checks that all roles continue from the same step, or all from the start.

    Args:
        folder: OpenRLHF's `--ckpt.path`; it need not exist.
        roles: the subfolders that the run continues from.
    Returns:
        The step that the run continues from; 0 if it starts anew.
    Raises:
        LaunchError: the run cannot continue, or there are weights of later steps; the message says
            what to do.
    """
    try:
        weights = _list_weights(folder)
        if not any((folder / role).exists() for role in roles):
            _refuse_later(folder, weights, 0)
            return 0
        tags = {role: _read_latest(folder / role) for role in roles}
        steps = {_get_step(folder / role, tag) for role, tag in tags.items()}
        if len(steps) == 1 and (step := steps.pop()) is not None:
            _refuse_later(folder, weights, step)
            return step
        common = set.intersection(*(_list_complete(folder / role) for role in roles))
    except OSError as error:
        raise LaunchError(f"cannot read {error.filename}: {error.strerror}") from error
    states = ", ".join(_describe(folder / role, tag) for role, tag in tags.items())
    if common:
        newest = max(common, key=_order)
        later = _join_later(weights, _order(newest))
        others = [f"{role}/latest" for role, tag in tags.items() if tag != newest]
        advice = f"to continue from {newest}, write this name into {' and '.join(others)}"
        if later:
            advice += f" and delete {later}"
    else:
        stale = " and ".join(filter(None, (*roles, _join_later(weights, 0))))
        advice = f"delete {stale} there to start anew, or choose another OUTPUT"
    raise LaunchError(f"cannot continue from {folder}: {states}; {advice}")


def _refuse_later(folder: Path, weights: Mapping[int, str], step: int) -> None:
    """
    Raises:
        LaunchError: there are weights of a later step than the run's.
    """
    if later := _join_later(weights, step):
        start = f"continues from step {step}" if step else "starts anew"
        raise LaunchError(
            f"{folder} has {later}, and the run {start}: a server that follows this folder would "
            "score with weights of a later step; delete them and restart such a server, or choose "
            "another OUTPUT"
        )


def _list_weights(folder: Path) -> dict[int, str]:
    """The folders with weights alone, by step."""
    found = (re.fullmatch(r"global_step(\d+)_hf", file.name) for file in folder.glob("*_hf"))
    return {int(one[1]): one[0] for one in found if one}


def _join_later(weights: Mapping[int, str], step: int) -> str:
    """The names of weights of later steps; empty if there are none."""
    later = sorted(found for found in weights if found > step)
    return " to ".join(weights[one] for one in dict.fromkeys((*later[:1], *later[-1:])))


def _order(tag: str) -> int:
    return _parse_step(tag) or 0


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
