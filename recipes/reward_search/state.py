"""The folder of a search: what a killed search needs in order to go on.

DIR/search.json        settings, candidates and the time used; written whole after each change
DIR/rewards/NAME.*     reward files and candidates' code, as the reward servers read them
DIR/runs/NAME-SEED/    one training run and its evaluation
DIR/start/             the model that all runs start from
DIR/winner/            the best reward, to train with
DIR/report.html, DIR/search.png, DIR/results.json
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from eval.errors import UserError
from eval.records import write_json
from recipes.reward_search.candidates import Candidate
from recipes.reward_search.settings import SearchSettings
from sar.errors import first_line

SEARCH_FILE = "search.json"


class Search:
    """A search in its folder. Its methods may be called from several threads."""

    def __init__(
        self,
        folder: Path,
        settings: SearchSettings,
        *,
        mark: str,
        candidates: Iterable[Candidate] = (),
        used_s: float = 0.0,
        run_seconds: Iterable[float] = (),
        is_finished: bool = False,
        ended_by_budget: bool = False,
    ) -> None:
        self.folder = folder
        self.settings = settings
        self.mark = mark
        """In the environment of its processes, so that a resumed search finds what is left of
        them."""
        self.is_finished = is_finished
        self.ended_by_budget = ended_by_budget
        self._candidates = {one.name: one for one in candidates}
        self._run_seconds = list(run_seconds)
        self._used_s = used_s
        self._started_s = time.monotonic()
        self._lock = threading.Lock()

    @property
    def candidates(self) -> list[Candidate]:
        """In the order in which they were proposed: by round and place."""
        with self._lock:
            return sorted(self._candidates.values(), key=lambda one: (one.round, one.name))

    @property
    def used_s(self) -> float:
        """Time used so far, by interrupted starts too."""
        return self._used_s + time.monotonic() - self._started_s

    @property
    def run_seconds(self) -> list[float]:
        """How long each finished training run took."""
        with self._lock:
            return list(self._run_seconds)

    def find(self, name: str) -> Candidate | None:
        with self._lock:
            return self._candidates.get(name)

    def put(self, candidate: Candidate) -> None:
        """Adds or replaces a candidate, and saves."""
        with self._lock:
            self._candidates[candidate.name] = candidate
            self._save()

    def set_status(self, name: str, status: Any, reason: str | None = None) -> None:
        with self._lock:
            self._candidates[name] = replace(self._candidates[name], status=status, reason=reason)
            self._save()

    def add_run(self, seconds: float) -> None:
        with self._lock:
            self._run_seconds.append(seconds)
            self._save()

    def finish(self, *, ended_by_budget: bool) -> None:
        with self._lock:
            self.is_finished, self.ended_by_budget = True, ended_by_budget
            self._save()

    def save(self) -> None:
        """Writes the file, with the time used so far."""
        with self._lock:
            self._save()

    def _save(self) -> None:
        write_json(
            self.folder / SEARCH_FILE,
            {
                "settings": asdict(self.settings),
                "mark": self.mark,
                "used_s": round(self.used_s, 1),
                "run_seconds": [round(one, 1) for one in self._run_seconds],
                "is_finished": self.is_finished,
                "ended_by_budget": self.ended_by_budget,
                "candidates": [one.to_json() for one in self._candidates.values()],
            },
        )


def is_new_search(folder: Path) -> bool:
    """Whether a search begins here, and does not continue.

    Raises:
        UserError: the folder has files that are no search.
    """
    if (folder / SEARCH_FILE).exists():
        return False
    if others := sorted(folder.glob("[!.]*")):
        raise UserError(
            f"--output {folder} has {others[0].name} and no search to continue; give a new folder "
            "or an empty one"
        )
    return True


def open_search(folder: Path, settings: SearchSettings) -> Search:
    """Continues the search in a folder, or starts one.

    Raises:
        UserError: the folder has a search with other settings or other files, or its file is
            broken.
    """
    if is_new_search(folder):
        search = Search(folder, settings, mark=uuid.uuid4().hex)
        search.save()
        return search
    search = load_search(folder)
    old, new = search.settings.flatten(), settings.flatten()
    for name in dict.fromkeys([*old, *new]):
        if old.get(name) != new.get(name):
            raise UserError(
                f"--output {folder} has a search with {name} = {old.get(name)}, not "
                f"{new.get(name)}; give the same "
                "settings to continue it, or another --output"
            )
    return search


def load_search(folder: Path) -> Search:
    """Reads a search.

    Raises:
        UserError: there is none, or its file is broken.
    """
    path = folder / SEARCH_FILE
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return Search(
            folder,
            SearchSettings.from_json(values.pop("settings")),
            candidates=[Candidate.from_json(one) for one in values.pop("candidates")],
            **values,
        )
    except FileNotFoundError:
        raise UserError(f"{folder}: no search here ({SEARCH_FILE} is missing)") from None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UserError(f"{path}: {first_line(error)}") from error
