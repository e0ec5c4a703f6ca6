"""The front's end of the connection to the process that talks to Ray."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import weakref
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from reward_server.config import ENV_PREFIX

_log = logging.getLogger(__name__)

# How long the process may take to end Ray's processes after its connection was closed.
_END_S = 12.0


class DriverProcess:
    """A process of `reward_server.scaling.driver`. It ends with this object, or this process."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603
                [sys.executable, "-m", "reward_server.scaling.driver", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=[theirs.fileno()],
                # Ctrl-C at a terminal goes to all processes of the terminal's session.
                start_new_session=True,
                # A Ray that is started here hands its environment on to the scorers.
                env={k: v for k, v in os.environ.items() if not k.startswith(ENV_PREFIX)},
            )
        threading.Thread(target=_log_output, args=(self._process,), daemon=True).start()
        self._connection: Connection[Any, Any] = Connection(ours.detach())
        self._sending = threading.Lock()
        self.end = weakref.finalize(self, _end, self._process, self._connection)

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, message: Any) -> None:
        """Sends a message from any thread. It is lost if the process has ended: `receive` tells."""
        with self._sending, suppress(OSError):
            self._connection.send(message)

    def receive(self) -> Any:
        """The next message. Used by one thread only.

        Raises:
            EOFError: the process has ended.
        """
        try:
            return self._connection.recv()
        except OSError as error:
            raise EOFError from error

    def stop(self) -> None:
        """Tells the process to end. `receive` then raises."""
        with suppress(OSError):
            fd = self._connection.fileno()
            with socket.socket(fileno=os.dup(fd)) as shared:
                shared.shutdown(socket.SHUT_RDWR)


def _log_output(process: subprocess.Popen[bytes]) -> None:
    """Logs what Ray writes, in the server's format."""
    assert process.stdout
    for line in process.stdout:
        if text := line.decode(errors="replace").strip():
            _log.info("Ray: %s", text)


def _end(process: subprocess.Popen[bytes], connection: Connection[Any, Any]) -> None:
    """Ends the process, and what it has left in its process group."""
    connection.close()
    with suppress(subprocess.TimeoutExpired):
        process.wait(_END_S)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
