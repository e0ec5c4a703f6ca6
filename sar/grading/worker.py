"""What a grader process runs. Imported by the fork server once, so that a new process is ready at
once; nothing else may import it, as it brings sympy in.
"""

from __future__ import annotations

import resource
import signal

import math_verify  # noqa: F401  loaded before the fork and not in every process

from sar.grading.grade import grade
from sar.grading.label import Label
from sar.grading.math import is_readable_label
from sar.grading.verdict import Reason, Verdict

_MAX_ADDRESS_SPACE_BYTES = 4 * 2**30


def initialize() -> None:
    """Bounds a new grader process's memory, and lets it be killed at any time."""
    # pebble's Python handler never runs while one long C call does; the default action does.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_AS, (_MAX_ADDRESS_SPACE_BYTES, _MAX_ADDRESS_SPACE_BYTES))


def run(response: str, label: Label, *, read_label: bool) -> Verdict:
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
