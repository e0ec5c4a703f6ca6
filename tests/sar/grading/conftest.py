"""A stand-in for the grader processes' module; its functions take the time they are told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sar.grading.processes import pool as pool_module
from sar.grading.processes.forkserver import ForkServer
from sar.grading.processes.pool import GraderPool

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
