"""Reads the bodies of requests, and bounds the memory that they take together."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from werkzeug.exceptions import BadRequest

from reward_server.errors import Overloaded, TooLarge

_PIECE_BYTES = 1 << 16
# A trainer's requests hold a few rollouts each. They have a share of their own and a larger one, so
# that whoever fills the other share does not keep them out.
_SMALL_BYTES = 1 << 20
# What small and large bodies may take, in bodies of the largest size.
_SMALL_SHARE, _LARGE_SHARE = 16, 4


class Bodies:
    """The bodies that are received and not yet parsed."""

    def __init__(self, max_body_bytes: int) -> None:
        """
        Args:
            max_body_bytes: limit of one body.
        """
        self._max_body_bytes = max_body_bytes
        self._small = _Memory(_SMALL_SHARE * max_body_bytes)
        self._large = _Memory(_LARGE_SHARE * max_body_bytes)

    @contextmanager
    def receive(self, stream: IO[bytes], num_bytes: int | None) -> Iterator[bytearray]:
        """A request's body, whose memory counts for as long as the block runs.

        Args:
            num_bytes: the Content-Length; None if there is none.
        Raises:
            TooLarge: it exceeds the limit. It is not read if its announced length does.
            Overloaded: other bodies take all the memory that bodies may take.
            BadRequest: it is cut off, or its chunks are malformed.
        """
        if (num_bytes or 0) > self._max_body_bytes:
            raise self._make_too_large()
        body = bytearray()
        memory, num_taken = self._small, 0
        try:
            while piece := _read(stream):
                if len(body) + len(piece) > self._max_body_bytes:
                    raise self._make_too_large()
                if memory is self._small and len(body) + len(piece) > _SMALL_BYTES:
                    memory.give_back(num_taken)
                    memory, num_taken = self._large, 0
                num_more = len(body) + len(piece) - num_taken
                memory.take(num_more)
                num_taken += num_more
                body += piece
            yield body
        finally:
            memory.give_back(num_taken)

    def _make_too_large(self) -> TooLarge:
        return TooLarge(f"the request is larger than --max-body-bytes, {self._max_body_bytes}")


def _read(stream: IO[bytes]) -> bytes:
    try:
        return stream.read(_PIECE_BYTES)
    except OSError as error:
        # Not logged, unlike an error of ours: any number of clients may leave in the middle.
        raise BadRequest("the body is cut off, or its chunks are malformed") from error


class _Memory:
    """Counts the bytes that some bodies take."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._counting = threading.Lock()

    def take(self, num_bytes: int) -> None:
        """Raises `Overloaded` if there is not so much left."""
        with self._counting:
            if self._num_bytes + num_bytes > self._max_bytes:
                raise Overloaded(
                    f"requests that are not parsed yet take {self._num_bytes} bytes of memory, of "
                    f"at most {self._max_bytes}: send this one again later"
                )
            self._num_bytes += num_bytes

    def give_back(self, num_bytes: int) -> None:
        with self._counting:
            self._num_bytes -= num_bytes
