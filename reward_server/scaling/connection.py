"""The front's end of the connection to the process that talks to Ray."""

from __future__ import annotations

import logging
import os
import pickle
import re
import signal
import socket
import subprocess
import sys
import threading
import weakref
from contextlib import suppress
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any

from reward_server.config import ENV_PREFIX
from reward_server.scaling.messages import Ping, Pong

_log = logging.getLogger(__name__)

# How long the process may take to end Ray's processes after its connection was closed.
_END_S = 12.0
# A process that says nothing for so long is asked whether it is there, and may take as long again
# to answer. It takes minutes to put the weights of a large model into Ray's object store, or to
# start Ray on a busy machine.
_QUIET_S = 300.0
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class DriverProcess:
    """A process of `reward_server.scaling.driver`. It ends with this object, or this process."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self._socket = ours
        self._connection: Connection[Any, Any] = Connection(os.dup(ours.fileno()))
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
        self._unsent: SimpleQueue[bytes | None] = SimpleQueue()
        sender = threading.Thread(
            target=_send_all, args=(self._connection, self._unsent), name="ray-send", daemon=True
        )
        sender.start()
        self.end = weakref.finalize(
            self, _end, self._process, ours, self._connection, self._unsent, sender
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, message: Any) -> None:
        """Sends a message from any thread, without waiting for the process to read it. It is lost
        if the process has ended: `receive` tells."""
        self._unsent.put(pickle.dumps(message))

    def receive(self) -> Any:
        """The next message. Used by one thread only.

        Raises:
            EOFError: the process has ended, or handles no messages (any more).
        """
        is_asked = False
        try:
            while True:
                if self._connection.poll(_QUIET_S):
                    message = self._connection.recv()
                    if not isinstance(message, Pong):
                        return message
                    is_asked = False
                elif is_asked:
                    _log.error("the process that talks to Ray (%d) does not answer", self.pid)
                    raise EOFError
                else:
                    self.send(Ping())
                    is_asked = True
        except OSError as error:
            raise EOFError from error

    def stop(self) -> None:
        """Tells the process to end. `receive` then raises."""
        _shut_down(self._socket)


def _send_all(connection: Connection[Any, Any], unsent: SimpleQueue[bytes | None]) -> None:
    """Sends messages in turn, until None. A process that does not read them holds up this thread
    only."""
    while (message := unsent.get()) is not None:
        try:
            connection.send_bytes(message)
        except OSError:
            return


def _log_output(process: subprocess.Popen[bytes]) -> None:
    """Logs what Ray writes, in the server's format."""
    assert process.stdout
    for line in process.stdout:
        if text := _COLOUR.sub("", line.decode(errors="replace")).strip():
            _log.info("Ray: %s", text)


def _shut_down(ours: socket.socket) -> None:
    """Ends the sending and the receiving that threads are at."""
    with suppress(OSError):  # it is closed
        ours.shutdown(socket.SHUT_RDWR)


def _end(
    process: subprocess.Popen[bytes],
    ours: socket.socket,
    connection: Connection[Any, Any],
    unsent: SimpleQueue[bytes | None],
    sender: threading.Thread,
) -> None:
    """Ends the process, and what it has left in its process group."""
    _shut_down(ours)
    unsent.put(None)
    sender.join()
    connection.close()
    ours.close()
    with suppress(subprocess.TimeoutExpired):
        process.wait(_END_S)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
