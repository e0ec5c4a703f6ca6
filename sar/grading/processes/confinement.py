"""Shuts a grader process in, for the case that a response gets code to run there.

Four walls, each as far as the system has it:

1. Resource limits: memory, open descriptors, no bytes written to files, no core dump, no processes
   (the last does not bind root).
2. An audit hook, which refuses what Python code would use. Native code can go around it.
3. seccomp, through libseccomp (package pyseccomp): every system call that grading does not need
   fails. No processes, no sockets, no signals to others, no file opened for writing.
4. Landlock (package landlock): only the folders of Python and of the loaded packages can be read.
"""

from __future__ import annotations

import errno
import importlib
import os
import resource
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

_MAX_ADDRESS_SPACE_BYTES = 4 * 2**30
_MAX_DESCRIPTORS = 64
_LIMITS = (
    (f"{_MAX_ADDRESS_SPACE_BYTES >> 30} GiB of memory", "RLIMIT_AS", _MAX_ADDRESS_SPACE_BYTES),
    (f"{_MAX_DESCRIPTORS} descriptors", "RLIMIT_NOFILE", _MAX_DESCRIPTORS),
    ("no bytes written to files", "RLIMIT_FSIZE", 0),
    ("no core dumps", "RLIMIT_CORE", 0),
)
# Audit events that grading never causes.
_FORBIDDEN = {
    *("os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.system", "subprocess.Popen"),
    *("socket.__new__", "socket.bind", "socket.connect", "socket.sendmsg", "socket.sendto"),
    *("socket.getaddrinfo", "socket.gethostbyaddr", "socket.gethostbyname", "socket.getnameinfo"),
    *("os.kill", "os.killpg", "os.remove", "os.rename", "os.link", "os.symlink", "os.truncate"),
    *("os.mkdir", "os.rmdir", "os.chmod", "os.chown", "shutil.rmtree", "ctypes.dlopen"),
}
# The system calls that grading needs: memory, time, its own signals, its one socket, reading files.
_ALLOWED_CALLS = (
    *("brk", "mmap", "munmap", "mremap", "mprotect", "madvise", "membarrier", "rseq"),
    *("futex", "futex_wait", "futex_wake", "set_robust_list", "sched_yield"),
    *("rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sigaltstack", "restart_syscall"),
    *("clock_gettime", "clock_getres", "clock_nanosleep", "nanosleep", "gettimeofday", "time"),
    *("getpid", "gettid", "getppid", "getuid", "geteuid", "getgid", "getegid", "getrandom"),
    *("getrusage", "sched_getaffinity", "sysinfo", "times", "uname"),
    *("read", "readv", "pread64", "write", "writev", "close", "lseek", "fcntl", "ioctl"),
    *("recvfrom", "sendto", "poll", "ppoll", "select", "pselect6"),
    *("stat", "lstat", "fstat", "newfstatat", "statx", "access", "faccessat", "faccessat2"),
    *("getcwd", "getdents64", "readlink", "readlinkat"),
    *("exit", "exit_group"),
)
_OPENED_FOR_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


@dataclass
class Confinement:
    """What holds in a process, in words."""

    in_force: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    def add(self, what: str, build: Callable[[], None]) -> None:
        """Builds one wall; if the system does not have it, notes why."""
        try:
            build()
        except (OSError, ValueError, ImportError, RuntimeError, AttributeError) as error:
            self.missing.append(f"{what} ({type(error).__name__}: {error})")
        else:
            self.in_force.append(what)

    def describe(self) -> str:
        text = "; ".join(self.in_force)
        return text + ("; NOT available here: " + "; ".join(self.missing) if self.missing else "")


class Walls:
    """What can be prepared before the fork, so that a process starts fast."""

    def __init__(self) -> None:
        """Loads the packages for seccomp and Landlock. Finding libseccomp runs a program."""
        self._landlock = _load("landlock")
        self._seccomp = _load("pyseccomp")
        self._folders = _find_readable_folders()
        self._filter: Any = None
        if not isinstance(self._seccomp, Exception):
            self._filter = _make_filter(self._seccomp)

    def confine(self) -> Confinement:
        """Shuts this process in; nothing can undo it."""
        confinement = Confinement(["an environment without keys"])
        for what, name, value in _LIMITS:
            confinement.add(what, partial(_set_limit, name, value))
        if os.geteuid() != 0:  # root is not bound by it
            confinement.add("no child processes", partial(_set_limit, "RLIMIT_NPROC", 0))
        confinement.add("Landlock: no files but Python's own", self._restrict_files)
        confinement.add(
            "seccomp: no processes, sockets or written files", self._restrict_system_calls
        )
        sys.addaudithook(_make_audit_hook(self._folders))
        return confinement

    def _restrict_files(self) -> None:
        if isinstance(self._landlock, Exception):
            raise self._landlock
        access = self._landlock.FSAccess
        ruleset = self._landlock.Ruleset()
        ruleset.allow(*self._folders, rules=access.READ_FILE | access.READ_DIR)
        ruleset.apply()

    def _restrict_system_calls(self) -> None:
        if isinstance(self._seccomp, Exception):
            raise self._seccomp
        self._filter.load()


def _set_limit(name: str, value: int) -> None:
    resource.setrlimit(getattr(resource, name), (value, value))


def _find_readable_folders() -> list[str]:
    """The standard library, and every package that is loaded: it may import more of its modules."""
    folders = {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")}
    for name, module in list(sys.modules.items()):
        if "." not in name:
            folders.update(getattr(module, "__path__", ()))
    return sorted(folder for folder in map(os.path.realpath, folders) if Path(folder).is_dir())


def _load(package: str) -> Any:
    """Loads a package; returns the error if it, or the library that it needs, is not there."""
    try:
        return importlib.import_module(package)
    except (ImportError, RuntimeError, OSError) as error:
        return error


def _make_filter(seccomp: Any) -> Any:
    """Every system call that is not allowed fails like one that the kernel does not know, so that
    libraries fall back to older ones."""
    calls = seccomp.SyscallFilter(seccomp.ERRNO(errno.ENOSYS))
    for name in _ALLOWED_CALLS:
        if _is_known(seccomp, name):
            calls.add_rule(seccomp.ALLOW, name)
    for name, position in (("open", 1), ("openat", 2)):
        if _is_known(seccomp, name):
            reads_only = seccomp.Arg(position, seccomp.MASKED_EQ, _OPENED_FOR_WRITING, 0)
            calls.add_rule(seccomp.ALLOW, name, reads_only)
    # Limits may be read, not set.
    calls.add_rule(seccomp.ALLOW, "prlimit64", seccomp.Arg(2, seccomp.EQ, 0))
    return calls


def _is_known(seccomp: Any, name: str) -> bool:
    """Whether libseccomp knows a system call; its number is negative if this machine lacks it."""
    try:
        return bool(seccomp.resolve_syscall(seccomp.Arch.NATIVE, name) >= 0)
    except (OSError, ValueError):
        return False


def _make_audit_hook(folders: list[str]) -> Callable[[str, tuple[Any, ...]], None]:
    readable = tuple(folder + os.sep for folder in folders)

    def forbid(event: str, args: tuple[Any, ...]) -> None:
        if event in _FORBIDDEN or (event == "open" and not may_open(args)):
            raise PermissionError(f"a grader process may not do this: {event}")

    def may_open(args: tuple[Any, ...]) -> bool:
        path, _, flags = args
        is_read_only = not (flags or 0) & _OPENED_FOR_WRITING
        return is_read_only and os.path.realpath(os.fsdecode(path)).startswith(readable)

    return forbid
