"""Reads the bodies of requests, and bounds the memory that large ones take together."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from reward_server.errors import Overloaded, TooLarge

_PIECE_BYTES = 1 << 20
# A trainer's requests hold a few rollouts each. Only larger bodies share the bounded memory, so
# that nobody who fills it can keep a trainer out.
_SMALL_BYTES = 1 << 20
_MAX_LARGE_BODIES = 4


class Bodies:
    """The bodies that are received and not yet parsed."""

    def __init__(self, max_body_bytes: int) -> None:
        """
        Args:
            max_body_bytes: limit of one body. Large bodies may take four times that together.
        """
        self._max_body_bytes = max_body_bytes
        self._max_large_bytes = _MAX_LARGE_BODIES * max_body_bytes
        self._num_large_bytes = 0
        self._counting = threading.Lock()

    @contextmanager
    def receive(self, stream: IO[bytes], num_bytes: int | None) -> Iterator[bytearray]:
        """A request's body, whose memory counts for as long as the block runs.

        Args:
            num_bytes: the Content-Length; None if there is none.
        Raises:
            TooLarge: it exceeds the limit. It is not read if its announced length does.
            Overloaded: there is no memory for another large body now.
        """
        if (num_bytes or 0) > self._max_body_bytes:
            raise self._make_too_large()
        body = bytearray()
        num_counted = 0
        try:
            while piece := stream.read(_PIECE_BYTES):
                body += piece
                if len(body) > self._max_body_bytes:
                    raise self._make_too_large()
                if len(body) > _SMALL_BYTES:
                    self._count(len(body) - num_counted)
                    num_counted = len(body)
            yield body
        finally:
            self._count(-num_counted)

    def _count(self, num_bytes: int) -> None:
        with self._counting:
            if num_bytes > 0 and self._num_large_bytes + num_bytes > self._max_large_bytes:
                raise Overloaded(
                    f"requests of more than {_SMALL_BYTES} bytes already fill "
                    f"{self._num_large_bytes} bytes of memory: send smaller ones, or again later"
                )
            self._num_large_bytes += num_bytes

    def _make_too_large(self) -> TooLarge:
        return TooLarge(f"the request is larger than --max-body-bytes, {self._max_body_bytes}")
