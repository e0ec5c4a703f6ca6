"""Candidates that somebody wrote: the files *.py of a folder, by name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path

from eval.errors import UserError
from recipes.reward_search.candidates import MAX_KEPT_CHARS, Proposal
from recipes.reward_search.generators.base import Past, Slot


class FolderGenerator:
    """Hands out the files of a folder, each once."""

    def __init__(self, folder: Path, per_round: int) -> None:
        """
        Raises:
            UserError: the folder holds no *.py.
        """
        self._files = sorted(file for file in folder.glob("*.py") if file.is_file())
        self._per_round = per_round
        if not self._files:
            raise UserError(f"--generator {folder}: no *.py in this folder")

    def check(self) -> None:
        """It can always propose."""

    def propose(
        self,
        slots: Sequence[Slot],
        past: Sequence[Past],
        known: AbstractSet[str],
        timeout_s: float,
    ) -> Iterator[tuple[Slot, Proposal]]:
        for slot in slots:
            number = (slot.round - 1) * self._per_round + slot.place - 1
            if number < len(self._files):
                yield slot, _read(self._files[number])


def _read(file: Path) -> Proposal:
    try:
        with file.open("rb") as opened:
            content = opened.read(4 * MAX_KEPT_CHARS + 1)
        return Proposal(content.decode("utf-8-sig"))
    except OSError as error:
        return Proposal("", failure=f"{file.name}: {error.strerror}")
    except UnicodeDecodeError:
        return Proposal("", failure=f"{file.name}: not a text in UTF-8")
