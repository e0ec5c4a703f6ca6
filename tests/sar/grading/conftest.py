"""What the graders are compared with: math-verify alone, and a stand-in for their processes.

The stand-in's functions take the time they are told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sar.grading.processes import pool as pool_module
from sar.grading.processes.forkserver import ForkServer
from sar.grading.processes.pool import GraderPool

MathVerify = Callable[[str, str], bool]
"""`math_verify(response, label)`: whether math-verify alone credits a response."""

_MODULE = """
import os, signal, time
from sar.grading.verdict import Reason, Verdict

def warm_up():
    pass

def initialize(lifeline):
    return "nothing"

def grade_response(response, label, read_label):
    '''Does what the response says, such as `use 0.4`. Correct if it ends with the label.'''
    action, _, value = response.split("|")[0].partition(" ")
    if action == "label":
        if read_label:
            check_label(label)
    elif action == "use":
        _use_cpu(float(value))
    elif action == "sleep":
        time.sleep(float(value))
    elif action == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    return Verdict(Reason.CORRECT if response.endswith(label.answer) else Reason.WRONG)

def check_label(label):
    if label.answer == "a bomb":
        _use_cpu(1000)
    if label.answer == "a killer":
        os.kill(os.getpid(), signal.SIGKILL)
    return True

def _use_cpu(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass
"""


@pytest.fixture(scope="session")
def stand_in_module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Name of the module. Its `grade_response` says what a response may tell it to do."""
    folder: Path = tmp_path_factory.mktemp("stand_in")
    (folder / "stand_in_worker.py").write_text(_MODULE)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield "stand_in_worker"


@pytest.fixture
def stand_in_pool(
    stand_in_module: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[int, float], GraderPool]]:
    """Makes pools over the stand-in, with a number of workers and a timeout."""
    fork_server = ForkServer(stand_in_module)
    monkeypatch.setattr(pool_module, "_FORK_SERVER", fork_server)
    made: list[GraderPool] = []

    def make(num_workers: int, timeout_s: float) -> GraderPool:
        made.append(GraderPool(num_workers, timeout_s))
        return made[-1]

    yield make
    for pool in made:
        pool.close()
    fork_server.close()


@pytest.fixture(scope="session")
def math_verify() -> MathVerify:
    """math-verify with its default settings. The label is boxed, as it parses best that way."""
    from math_verify import parse, verify

    def grade(response: str, label: str) -> bool:
        is_marked = "$" in label or r"\boxed" in label
        marked = label if is_marked else rf"\boxed{{{label}}}"
        try:
            wanted = parse(marked, parsing_timeout=3)
            return bool(verify(wanted, parse(response, parsing_timeout=3), timeout_seconds=3))
        except Exception:  # noqa: BLE001
            return False  # to a user who calls math-verify, a crash is no reward

    return grade
