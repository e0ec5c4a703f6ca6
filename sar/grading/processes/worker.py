"""The functions that a grader process runs.

The fork server imports this module once, so that new processes start fast. Nothing else may import
it, because it loads sympy.
"""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import resource
import signal
import sys
from dataclasses import asdict
from typing import Any

import math_verify  # noqa: F401  loaded once, before the fork

from sar.grading.explain import explain as explain_verdict
from sar.grading.grade import grade
from sar.grading.label import Label
from sar.grading.rules.math import is_readable_label
from sar.grading.verdict import Reason, Verdict

_MAX_ADDRESS_SPACE_BYTES = 4 * 2**30
# Audit events that grading never causes. Forbidding them limits a response that gets code to run.
_FORBIDDEN = {
    *("os.exec", "os.fork", "os.posix_spawn", "os.system", "subprocess.Popen"),
    *("socket.__new__", "socket.bind", "socket.connect", "socket.sendmsg", "socket.sendto"),
    *("socket.getaddrinfo", "socket.gethostbyaddr", "socket.gethostbyname", "socket.getnameinfo"),
}


def initialize() -> None:
    """Limits a new grader process's memory, and forbids it the network and other programs."""
    # Ctrl-C is for the parent, which kills this process. SIGTERM's default action ends it even
    # during a long C call.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_AS, (_MAX_ADDRESS_SPACE_BYTES, _MAX_ADDRESS_SPACE_BYTES))
    _die_with_parent()
    sys.addaudithook(_forbid)


def _die_with_parent() -> None:
    """Makes the system end this process when the parent dies, even during a long C call.

    The parent's death closes a pipe that only it holds; the system then sends SIGIO, whose default
    action ends a process.
    """
    if parent := multiprocessing.parent_process():
        fcntl.fcntl(parent.sentinel, fcntl.F_SETOWN, os.getpid())
        flags = fcntl.fcntl(parent.sentinel, fcntl.F_GETFL)
        fcntl.fcntl(parent.sentinel, fcntl.F_SETFL, flags | os.O_ASYNC)


def _forbid(event: str, _: object) -> None:
    if event in _FORBIDDEN:
        raise PermissionError(f"a grader process may not do this: {event}")


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
