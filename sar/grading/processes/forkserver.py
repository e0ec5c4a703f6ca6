"""A process that loads the graders' code once and forks every grader process from there.

multiprocessing's fork server would hand this process's whole environment on, keys included, and
import the main program again in every grader. This one starts with a short environment of its own.

The server's half is `ForkServer`; the other half, `main`, runs in the process:

    python -P -c "...main(...)" 'the import path, as JSON' MODULE DESCRIPTOR
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import traceback
from contextlib import suppress

from sar.grading.processes.serving import serve

_START_TIMEOUT_S = 60.0
# Variables that a grader process keeps: where programs, libraries and temporary files are, and the
# language. Everything else stays behind, as it may be a key or a token.
_KEPT_VARIABLES = frozenset(
    {
        *("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "DYLD_FALLBACK_LIBRARY_PATH"),
        *("LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "PYTHONHOME"),
    }
)
_PROGRAM = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]);"
    "from sar.grading.processes.forkserver import main; main(sys.argv[2], int(sys.argv[3]))"
)
# Asks for a process (with its niceness), or for the exit status of the process with a number.
_REQUEST = struct.Struct("!cq")
_FORK, _REAP = b"F", b"R"
_REPLY = struct.Struct("!q")
_NO_STATUS = -1


class ForkServer:
    """Starts processes that serve a module's functions. Thread-safe.

    The process behind it starts with the first request, again if it dies, and ends with this one.
    """

    def __init__(self, module: str) -> None:
        """
        Args:
            module: name of the module. Its `warm_up()` runs once, its `initialize(lifeline)` in
                each process.
        """
        self._module = module
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    def start_process(self, connection: socket.socket, lifeline: int, niceness: int) -> int:
        """Starts a process and returns its id.

        Args:
            connection: the socket on which the process gets its calls.
            lifeline: read end of a pipe. The process ends when the write end is closed.
            niceness: how much lower than this process's its priority is, from 0 to 19.
        Raises:
            OSError: it did not start. It may start if this is called again with other descriptors.
        """
        descriptors = [connection.fileno(), lifeline]
        with self._lock:
            try:
                pid = self._request(_FORK, niceness, descriptors)
            except OSError:  # the next request starts it again
                self._close()
                raise
        if pid < 0:
            raise OSError(-pid, f"cannot fork a grader process: {os.strerror(-pid)}")
        return pid

    def reap(self, pid: int) -> int | None:
        """Takes a dead process out of the system's table; its id is free for others afterwards.

        Returns:
            Its exit code, negative for a signal; None if its fork server has died.
        """
        with self._lock:
            if self._control is None:
                return None
            try:
                status = self._request(_REAP, pid)
            except OSError:
                self._close()
                return None
        return None if status == _NO_STATUS else os.waitstatus_to_exitcode(status)

    def close(self) -> None:
        """Ends the process behind it. The next request starts another."""
        with self._lock:
            self._close()

    def _request(self, action: bytes, number: int, descriptors: list[int] | None = None) -> int:
        control = self._control or self._start()
        socket.send_fds(control, [_REQUEST.pack(action, number)], descriptors or [])
        reply = control.recv(_REPLY.size, socket.MSG_WAITALL)
        if len(reply) < _REPLY.size:
            raise ConnectionResetError("the fork server has ended")
        value: int = _REPLY.unpack(reply)[0]
        return value

    def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        ours.settimeout(_START_TIMEOUT_S)
        arguments = [json.dumps(sys.path), self._module, str(theirs.fileno())]
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603  nothing in it comes from outside
                [sys.executable, "-P", "-c", _PROGRAM, *arguments],
                env=_make_environment(),
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        self._control = ours
        return ours

    def _close(self) -> None:
        if self._control:
            self._control.close()
            self._control = None
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None


def _make_environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name in _KEPT_VARIABLES}
    # sympy iterates over sets. With one order of them, a text always takes the same way through it.
    return {**kept, "PYTHONHASHSEED": "0"}


def main(module_name: str, descriptor: int) -> None:
    """Runs in the fork server's process until the process that started it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server
    control = socket.socket(fileno=descriptor)
    module = importlib.import_module(module_name)
    module.warm_up()
    gc.freeze()  # collections in the children then leave the shared memory alone
    while True:
        data, descriptors, _, _ = socket.recv_fds(control, _REQUEST.size, 2, socket.MSG_WAITALL)
        if len(data) < _REQUEST.size:
            return
        action, number = _REQUEST.unpack(data)
        if action == _FORK:
            reply = _fork(control, module, descriptors, number)
        else:
            reply = _wait_for(number)
        try:
            control.send(_REPLY.pack(reply))
        except BrokenPipeError:
            return


def _fork(control: socket.socket, module: object, descriptors: list[int], niceness: int) -> int:
    """Forks a process that serves `module`. Returns its id, or an error number below 0."""
    try:
        pid = os.fork()
    except OSError as error:
        pid = -(error.errno or 1)
    if pid == 0:
        _run_child(control, module, descriptors, niceness)
    for descriptor in descriptors:
        os.close(descriptor)
    return pid


def _run_child(
    control: socket.socket, module: object, descriptors: list[int], niceness: int
) -> None:
    status = 1
    try:
        control.close()
        os.nice(niceness)
        connection, lifeline = descriptors
        serve(module, socket.socket(fileno=connection), lifeline)
        status = 0
    except BaseException:  # noqa: BLE001  a forked process must not return to the loop of `main`
        traceback.print_exc()
    finally:
        with suppress(OSError):
            sys.stderr.flush()
        os._exit(status)


def _wait_for(pid: int) -> int:
    """Returns a child's exit status, or `_NO_STATUS` if it is no child of this process."""
    try:
        return os.waitpid(pid, 0)[1]
    except ChildProcessError:
        return _NO_STATUS
