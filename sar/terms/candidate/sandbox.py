"""Runs candidates in pydantic-monty: an interpreter of a part of Python, in processes of its own.

Each call gets a new session, so no call leaves anything for the next. A process that hangs, crashes
or needs too much memory is killed and replaced by pydantic-monty; this process is not at risk. A
session has no files, network, environment or host functions.
"""

from __future__ import annotations

import atexit
import datetime
import os
import re
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sar.errors import one_line, shorten
from sar.terms.candidate.errors import CandidateError, Fault, SandboxError

if TYPE_CHECKING:
    from pydantic_monty import Monty, MontyError, MontySession, OSPolicy, ResourceLimits

INSTALL = "install pydantic-monty: pip install -c constraints.txt -e '.[search]'"

# Which methods Python has.
_KINDS = {kind.__name__: kind for kind in (str, int, float, list, tuple, dict, set, frozenset)}
_MAX_MEMORY_BYTES = 64 * 2**20
_MAX_DEPTH = 200
# Beyond the time limit, until a process is killed that does not end its call by itself.
_GRACE_S = 0.5
# A call is too slow if it has used this share of its time on a CPU. If it has not when the time is
# up, others had the CPU: it is repeated with more time, so many times as much.
_MIN_CPU_SHARE = 0.5
_PATIENCE = (1, 4, 16)
# A process that dies may have been killed by a machine that is short of memory: not twice.
_MAX_DEATHS = 2


@dataclass(frozen=True)
class Limits:
    """What one call of a candidate may use, and what it may return."""

    call_s: float = 0.25
    """Seconds. A usual call takes less than a thousandth of it."""
    memory_bytes: int = _MAX_MEMORY_BYTES
    """The interpreter's objects, the sample's texts included."""
    max_abs: float = 10.0
    """A reward lies between minus this and this."""


@dataclass(frozen=True)
class Outcome:
    """What one call gave."""

    value: object
    """As returned: not yet checked."""
    cpu_s: float
    """CPU time of the process, where the system says it; elsewhere the time that passed."""


def run(code: str, inputs: dict[str, Any], limits: Limits) -> Outcome:
    """Runs code in a new session, and returns the value of its last line. Thread-safe.

    Raises:
        CandidateError: the code failed, or went beyond a limit.
        SandboxError: the sandbox or the machine is at fault.
    """
    num_deaths = 0
    for patience in _PATIENCE:
        try:
            return _run_once(code, inputs, limits, patience * limits.call_s)
        except _UnclearError as unclear:
            verdict, cause = unclear.verdict, unclear.__cause__
            num_deaths += isinstance(verdict, CandidateError)
            if num_deaths == _MAX_DEATHS:
                break
    raise verdict from cause


class _UnclearError(Exception):
    """A call failed, perhaps through the machine's fault: it is worth another try."""

    def __init__(self, verdict: CandidateError | SandboxError) -> None:
        """
        Args:
            verdict: what it is if the call fails each time.
        """
        super().__init__()
        self.verdict = verdict


def _run_once(code: str, inputs: dict[str, Any], limits: Limits, wall_s: float) -> Outcome:
    pool = _get_pool()
    try:
        with pool.checkout(
            limits=_make_limits(limits, wall_s),
            os_policy=_OS_POLICY,
            assert_message_annotations=False,
        ) as session:
            return _feed(session, code, inputs, limits)
    except (CandidateError, SandboxError, _UnclearError):
        raise
    except Exception as error:  # of several types: there is no process for the call
        failed = SandboxError(f"the sandbox failed: {one_line(error)}")
        raise _UnclearError(failed) from error


def _feed(session: MontySession, code: str, inputs: dict[str, Any], limits: Limits) -> Outcome:
    from pydantic_monty import MontyConversionError, MontyCrashedError, MontyError

    pid = session.worker_pid
    before_s, started_s = _read_cpu_s(pid), time.monotonic()
    try:
        value = session.feed_run(code, inputs=inputs, print_callback=_discard)
    except MontyConversionError as error:  # the sample is the caller's
        raise SandboxError(f"a sample is not plain data: {one_line(error)}") from error
    except MontyError as error:
        fault = _find_fault(error)
        verdict = CandidateError(_describe(error, fault, limits), fault)
        if isinstance(error, MontyCrashedError):
            raise _UnclearError(verdict) from error
        elapsed_s = time.monotonic() - started_s
        used_s = _subtract(_read_cpu_s(pid), before_s)
        is_starved = used_s is not None and used_s < _MIN_CPU_SHARE * limits.call_s
        if fault == "time" and is_starved:
            message = f"a call had {used_s:.2f} s of CPU time in {elapsed_s:.2f} s"
            raise _UnclearError(SandboxError(f"{message}: the machine is busy")) from error
        raise verdict from error
    elapsed_s = time.monotonic() - started_s
    used_s = _subtract(_read_cpu_s(pid), before_s)
    return Outcome(value, elapsed_s if used_s is None else used_s)


def _find_fault(error: MontyError) -> Fault:
    from pydantic_monty import MontyCrashedError, MontySyntaxError

    if isinstance(error, MontyCrashedError):
        return "time" if error.timed_out else "crash"
    if isinstance(error, MontySyntaxError):
        return "source"
    match error.exception():
        case TimeoutError():
            return "time"
        case MemoryError() | RecursionError():
            return "memory"
        case _:
            return "raised"


def _describe(error: MontyError, fault: Fault, limits: Limits) -> str:
    """What went wrong, in which line."""
    from pydantic_monty import MontyRuntimeError, MontySyntaxError

    frames = error.traceback() if isinstance(error, (MontyRuntimeError, MontySyntaxError)) else []
    where = f"line {frames[-1].line}: " if frames else ""
    text = shorten(str(error).partition("\n")[0])
    match fault:
        case "time":
            return f"{where}a call took longer than {limits.call_s:g} s; do less work"
        case "memory" if "RecursionError" in text:
            return f"{where}calls are nested more than {_MAX_DEPTH} deep; use a loop"
        case "memory":
            mib = limits.memory_bytes / 2**20
            return f"{where}a call needed more than {mib:g} MiB of memory; build smaller values"
        case "crash":
            return f"a call ended its interpreter: {text}"
        case "source":
            return f"{where}the interpreter refuses it: {text}"
        case _:
            return f"{where}{_tell_missing(text)}"


def _tell_missing(text: str) -> str:
    """What the interpreter lacks and Python has is the sandbox's doing, not a slip of the author's.
    It lacks few methods, and all as values: `key=str.lower` fails too.

    Args:
        text: of an exception.
    """
    found = re.search(r"'(\w+)'(?: object)? has no attribute '(\w+)'", text)
    if found and hasattr(_KINDS.get(found[1]), found[2]):
        return (
            f"the sandbox's {found[1]} has no {found[2]!r}; methods that it has can only be "
            "called, as in x.lower()"
        )
    return text


def _make_limits(limits: Limits, wall_s: float) -> ResourceLimits:
    return {
        "max_feed_duration_secs": wall_s,
        "max_memory": limits.memory_bytes,
        "max_recursion_depth": _MAX_DEPTH,
        "max_suspensions": 1,
        "max_total_sleep_secs": 0.0,
    }


# Nothing that a candidate could read changes from call to call.
_OS_POLICY: OSPolicy = {
    "datetime": datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
    "sleep": "zero",
    "random_start": {"seed": 0},
}


def _discard(stream: str, text: str) -> None:
    """Takes what a candidate prints: a reward has no output."""


def _read_cpu_s(pid: int | None) -> float | None:
    """The CPU seconds that a process has used; None if it is gone or the system does not say."""
    if pid is None:
        return None
    try:
        # Linux's number for a process's CPU clock: what clock_getcpuclockid(3) computes.
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:
        return None


def _subtract(after_s: float | None, before_s: float | None) -> float | None:
    return None if after_s is None or before_s is None else after_s - before_s


_pools: dict[int, Monty] = {}
_lock = threading.Lock()


def _get_pool() -> Monty:
    """The worker processes of this process.

    Raises:
        SandboxError: pydantic-monty is not installed, or does not start.
    """
    if pool := _pools.get(os.getpid()):
        return pool
    if _pools:  # pydantic-monty's threads are not in a forked process, and a call would hang
        raise SandboxError(
            "a candidate was called before this process was forked; start processes with spawn"
        )
    with _lock:
        if pool := _pools.get(os.getpid()):
            return pool
        try:
            from pydantic_monty import Monty
        except ImportError as error:
            raise SandboxError(f"candidates need a package: {INSTALL}") from error
        try:
            pool = Monty(min_processes=1, feed_duration_limit_grace=_GRACE_S)
            pool.__enter__()
        except Exception as error:
            raise SandboxError(f"the sandbox does not start: {one_line(error)}") from error
        _pools[os.getpid()] = pool
        atexit.register(_close, os.getpid())
        return pool


def _close(pid: int) -> None:
    """Ends the workers when the process ends."""
    if pid == os.getpid() and (pool := _pools.pop(pid, None)):
        pool.__exit__(None, None, None)
