"""The functions that a grader process runs.

The fork server imports this module once, so that new processes start fast. Nothing else may import
it, because it loads sympy.
"""

from __future__ import annotations

import fcntl
import os
import signal
from dataclasses import asdict
from typing import Any

import sympy.physics.units.systems  # noqa: F401  sympy itself loads it late

from sar.grading.explain import explain as explain_verdict
from sar.grading.grade import grade
from sar.grading.label import Label
from sar.grading.processes.confinement import Walls
from sar.grading.rules.equivalence import compare_common_forms
from sar.grading.rules.math import is_readable_label
from sar.grading.verdict import Reason, Verdict

_walls: Walls | None = None
"""What `warm_up` prepared."""


def warm_up() -> None:
    """Runs once in the fork server, before any process is forked."""
    compare_common_forms()
    global _walls
    _walls = Walls()


def initialize(lifeline: int) -> str:
    """Shuts a new grader process in, and says in words what holds.

    Args:
        lifeline: descriptor that is closed at its other end when the server dies.
    """
    # Ctrl-C is for the server, which kills this process. SIGTERM's default action ends it even
    # during a long C call.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _die_with_server(lifeline)
    _leave_the_log()
    return (_walls or Walls()).confine().describe()


def _die_with_server(lifeline: int) -> None:
    """Makes the system end this process when the server dies, even during a long C call.

    The server's death closes a pipe that only it holds; the system then sends SIGIO, whose default
    action ends a process.
    """
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    flags = fcntl.fcntl(lifeline, fcntl.F_GETFL)
    fcntl.fcntl(lifeline, fcntl.F_SETFL, flags | os.O_ASYNC)


def _leave_the_log() -> None:
    """Points standard output and error away from the server's log."""
    null = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        os.dup2(null, descriptor)
    os.close(null)


def grade_response(response: str, label: Label, read_label: bool) -> Verdict:
    """Grades one response; running out of memory or stack counts as a crash."""
    try:
        return grade(response, label, read_label=read_label)
    except (MemoryError, RecursionError):
        return Verdict(Reason.CRASHED)


def check_label(label: Label) -> bool:
    """Whether a math label can be parsed. The pool's timeout catches one that takes too long."""
    try:
        return is_readable_label(label.answer)
    except (MemoryError, RecursionError):
        return False


def explain(response: str, label: Label, verdict: Verdict) -> dict[str, Any]:
    """Explains one verdict; returns the fields of an `Explanation`."""
    return asdict(explain_verdict(response, label, verdict))
