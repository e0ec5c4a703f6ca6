"""Listening sockets, what arrives on connections, and the limit of file descriptors."""

from __future__ import annotations

import errno
import io
import resource
import select
import socket
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import gevent

BACKLOG = 4096
"""Connections that may wait to be accepted."""

_MAX_DESCRIPTORS = 65536
# Reads of one connection before other connections get a turn. A usual request needs fewer.
_MAX_READS_IN_A_ROW = 8


def open_sockets(host: str, port: int) -> list[socket.socket]:
    """Listens on every address that the host name has on this machine, on the same port."""
    sockets: list[socket.socket] = []
    with ExitStack() as closing:
        for family, _, _, _, address in socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            same_port = sockets[0].getsockname()[1] if sockets else port
            try:
                listening = socket.create_server(
                    (address[0], same_port, *address[2:]), family=family, backlog=BACKLOG
                )
            except OSError as error:
                # localhost may resolve to an IPv6 address on a machine without IPv6.
                if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    raise
                unavailable = error
            else:
                listening.setblocking(False)
                sockets.append(closing.enter_context(listening))
        if not sockets:
            raise unavailable
        closing.pop_all()  # none failed: they stay open
    return sockets


def raise_descriptor_limit() -> int:
    """Allows as many open descriptors as the system permits, and returns their number. The usual
    default is only 1,024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = _MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _MAX_DESCRIPTORS)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    return limit


class Incoming(io.RawIOBase):
    """The bytes of a connection. Lets other connections run between reads: otherwise a client that
    sends without pause would keep the server for itself."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._num_reads = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._num_reads += 1
        if self._num_reads > _MAX_READS_IN_A_ROW:
            gevent.sleep(0)
        return int(self._connection.recv_into(buffer))


def create_hang_up_check(descriptor: int) -> Callable[[], bool]:
    """A function that tells whether the client has closed the connection."""
    # POLLRDHUP exists on Linux only. Elsewhere only a connection that was reset is noticed.
    hang_up = getattr(select, "POLLRDHUP", select.POLLHUP)

    def is_gone() -> bool:
        poll = select.poll()  # each call its own: a poll object serves one thread at a time
        poll.register(descriptor, hang_up)
        return bool(poll.poll(0))

    return is_gone
