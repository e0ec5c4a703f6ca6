"""What goes wrong with a candidate, apart from what goes wrong with the machine."""

from __future__ import annotations

from typing import Literal

Fault = Literal["source", "raised", "result", "time", "memory", "crash"]
"""Where a candidate fails: its source is refused; or a call raises an exception, returns no valid
number, takes too long, needs too much memory, or ends its interpreter."""


class CandidateError(Exception):
    """The candidate is at fault. The message is one line that tells its author what to change."""

    def __init__(self, message: str, fault: Fault) -> None:
        super().__init__(message)
        self.fault = fault


class SandboxError(RuntimeError):
    """The sandbox or the machine is at fault, not the candidate: pydantic-monty is not installed,
    or its worker does not start or gets no CPU time."""
