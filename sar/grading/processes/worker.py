"""What a grader process runs. Imported by the fork server once, so that a new process is ready at
once; nothing else may import it, as it brings sympy in.
"""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import resource
import signal
import sys

import math_verify  # noqa: F401  loaded before the fork and not in every process

from sar.grading.grade import grade
from sar.grading.label import Label
from sar.grading.rules.math import is_readable_label
from sar.grading.verdict import Reason, Verdict

_MAX_ADDRESS_SPACE_BYTES = 4 * 2**30


# What grading never does, so what a response that found a way to run code may not do either.
_FORBIDDEN = frozenset(
    {
        "socket.bind",
        "socket.connect",
        "socket.getaddrinfo",
        "socket.sendto",
        "subprocess.Popen",
        "os.exec",
        "os.fork",
        "os.posix_spawn",
        "os.system",
    }
)


def initialize() -> None:
    """Bounds a new grader process's memory, and cuts it off from the network."""
    # Ctrl-C is for the parent, which ends this process; SIGTERM ends even a long C call.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_AS, (_MAX_ADDRESS_SPACE_BYTES, _MAX_ADDRESS_SPACE_BYTES))
    _die_with_parent()
    sys.addaudithook(_forbid)


def _die_with_parent() -> None:
    """Has the system send SIGIO, which ends a process, when the pipe that only the parent holds
    closes: a grader that hangs in a long C call would outlive a killed server otherwise."""
    if parent := multiprocessing.parent_process():
        fcntl.fcntl(parent.sentinel, fcntl.F_SETOWN, os.getpid())
        flags = fcntl.fcntl(parent.sentinel, fcntl.F_GETFL)
        fcntl.fcntl(parent.sentinel, fcntl.F_SETFL, flags | os.O_ASYNC)


def _forbid(event: str, _: object) -> None:
    if event in _FORBIDDEN:
        raise PermissionError(f"a grader may not do this: {event}")


def run(response: str, label: Label, read_label: bool) -> Verdict:
    """Grades one response; text that exhausts memory or stack has crashed its grader."""
    try:
        return grade(response, label, read_label=read_label)
    except (MemoryError, RecursionError):
        return Verdict(Reason.CRASHED)


def check_label(label: Label) -> bool:
    """Whether a math label can be read; one that takes too long is found out by the pool."""
    try:
        return is_readable_label(label.answer)
    except (MemoryError, RecursionError):
        return False
