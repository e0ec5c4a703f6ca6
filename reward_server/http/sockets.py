"""Listening sockets, and the limit of the process's file descriptors."""

from __future__ import annotations

import errno
import resource
import socket
from contextlib import ExitStack

BACKLOG = 4096
"""Connections that may wait to be accepted."""

_MAX_DESCRIPTORS = 65536


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
