"""Runs the preflight, in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from recipes.preflight import main


class Outcome(NamedTuple):
    """A preflight's exit code and output: stdout if all is well, else stderr."""

    code: int
    said: str

    def assert_one_line(self, *parts: str) -> None:
        """Fails unless it stopped with one line that holds these parts."""
        assert self.code == 1
        assert self.said.startswith("preflight: ")
        assert self.said.count("\n") == 1
        for part in parts:
            assert part in self.said


Preflight = Callable[..., Outcome]


@pytest.fixture
def preflight(capsys: pytest.CaptureFixture[str], bundled_model_path: Path) -> Preflight:
    """Checks the servers at these URLs: `preflight(url, sar_weight="0")`."""

    def run(*urls: str, model: Path = bundled_model_path, **flags: str) -> Outcome:
        named = [w for name, value in flags.items() for w in (f"--{name.replace('_', '-')}", value)]
        code = main(["--model", str(model), *(w for url in urls for w in ("--url", url)), *named])
        said = capsys.readouterr()
        assert "" in (said.out, said.err)
        return Outcome(code, said.out + said.err)

    return run
