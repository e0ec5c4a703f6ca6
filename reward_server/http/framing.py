"""Where an HTTP request begins and ends, by the letter of RFC 9112.

gevent, and Python's email parser, which reads headers for it, are lenient: they fold lines, take a
bare CR as the end of a line, and let one of two lengths win. A proxy in front of the server may
read the same bytes otherwise, and take a part of one request for the next. So a request that is not
plainly well-formed is an error, and the listener closes its connection.

Stricter than the RFC asks: a line must end in CR LF, not in LF alone, and a repeated Content-Length
is refused even if both agree.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from typing import Any

import gevent
from gevent.pywsgi import MAX_REQUEST_LINE, Input

# With the longest first line, a head takes at most 64 KiB of memory while it arrives.
_MAX_HEADERS_BYTES = 65536 - MAX_REQUEST_LINE
_MAX_HEADERS = 100
_MAX_READ_BYTES = 65536
# A chunk costs time however small it is. Of tiny ones, clients have no need to send many.
_MAX_TINY_CHUNKS = 4096
_MIN_MEAN_CHUNK_BYTES = 16
# Chunks of one connection before other connections get a turn.
_MAX_CHUNKS_IN_A_ROW = 64

_FRAMING_NAMES = (b"host", b"content-length", b"transfer-encoding")

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
# Printable characters, the tab, and bytes that are not ASCII. No other control characters: some
# parsers end a line at them.
_TEXT = rb"[\t\x20-\x7e\x80-\xff]*"
_REQUEST_LINE = re.compile(_TOKEN + rb" [\x21-\x7e\x80-\xff]+ HTTP/1\.[01]\r\n")
_HEADER = re.compile(rb"(" + _TOKEN + rb"):(" + _TEXT + rb")\r\n")
_LENGTH = re.compile(rb"[0-9]{1,18}")
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,16})(?:[\t ]*;" + _TEXT + rb")?\r\n")


def check_request_line(line: str) -> None:
    """Raises ValueError unless a request's first line is well-formed.

    Args:
        line: decoded as latin-1, with its line end.
    """
    if not _REQUEST_LINE.fullmatch(line.encode("latin-1")):
        raise ValueError("the first line of the request is malformed")


def read_head(source: Any, version: str) -> bytes:
    """Reads the headers of a request, up to and with the empty line that ends them.

    Args:
        source: a buffered file, after the request's first line.
        version: of the request, such as "HTTP/1.1".
    Raises:
        ValueError: a line is malformed, the head is too large, or the end of the body is not clear.
    """
    head = bytearray()
    values: dict[bytes, list[bytes]] = {name: [] for name in _FRAMING_NAMES}
    for match in _read_headers(source):
        head += match[0]
        if (name := match[1].lower()) in values:
            values[name].append(match[2].strip(b" \t"))
    hosts, lengths, codings = (values[name] for name in _FRAMING_NAMES)
    if len(hosts) > 1:
        raise ValueError("more than one Host")
    if len(lengths) + len(codings) > 1:
        raise ValueError("more than one Content-Length or Transfer-Encoding")
    if lengths and not _LENGTH.fullmatch(lengths[0]):
        raise ValueError("the Content-Length is not a number of bytes")
    if codings and (codings[0].lower() != b"chunked" or version != "HTTP/1.1"):
        raise ValueError("a Transfer-Encoding that is not chunked, or not in HTTP/1.1")
    return bytes(head + b"\r\n")


def _read_headers(source: Any) -> Iterator[re.Match[bytes]]:
    """Reads header or trailer lines up to an empty one. Group 1 is the name, group 2 the value."""
    num_bytes_left = _MAX_HEADERS_BYTES
    for _ in range(_MAX_HEADERS + 1):
        line = source.readline(num_bytes_left)
        if line == b"\r\n":
            return
        match = _HEADER.fullmatch(line)
        if not match:
            raise ValueError("a header is malformed or cut off, or all are too long together")
        num_bytes_left -= len(line)
        yield match
    raise ValueError(f"more than {_MAX_HEADERS} headers")


class ChunkedInput(Input):
    """A body in chunks. Trailers are read and ignored."""

    def __init__(self, source: Any, connection: Any) -> None:
        """
        Args:
            source: a buffered file, after the request's headers.
            connection: where the client waits for "100 Continue"; None if it does not wait.
        """
        super().__init__(source, None, socket=connection, chunked_input=True)
        self._num_left = 0  # bytes of the current chunk
        self._num_chunks = 0
        self._num_bytes = 0  # of all chunks so far, by their sizes
        self._is_over = False

    def read(self, length: int | None = None) -> bytes:
        """Reads like a file.

        Raises:
            OSError: the chunks are malformed or mostly tiny, or the connection is closed.
        """
        self._send_100_continue()
        wanted = sys.maxsize if length is None or length < 0 else length
        data = bytearray()
        while len(data) < wanted and not self._is_over:
            if not self._num_left:
                self._start_chunk()
                continue
            part = self.rfile.read1(min(self._num_left, wanted - len(data), _MAX_READ_BYTES))
            if not part:
                raise OSError("the connection ended inside a chunk")
            data += part
            self._num_left -= len(part)
            if not self._num_left and self.rfile.read(2) != b"\r\n":
                raise OSError("a chunk is longer than its size says")
        return bytes(data)

    def _start_chunk(self) -> None:
        match = _CHUNK_SIZE.fullmatch(self.rfile.readline(MAX_REQUEST_LINE))
        if not match:
            raise OSError("the size of a chunk is malformed")
        self._num_left = int(match[1], 16)
        if self._num_left:
            self._count_chunk()
            return
        try:
            for _ in _read_headers(self.rfile):
                pass
        except ValueError as error:
            raise OSError(f"in the trailers: {error}") from error
        self._is_over = True

    def _count_chunk(self) -> None:
        self._num_chunks += 1
        self._num_bytes += self._num_left
        is_tiny = self._num_bytes < _MIN_MEAN_CHUNK_BYTES * self._num_chunks
        if is_tiny and self._num_chunks > _MAX_TINY_CHUNKS:
            raise OSError(
                f"more than {_MAX_TINY_CHUNKS} chunks of less than {_MIN_MEAN_CHUNK_BYTES} bytes "
                "on average"
            )
        if self._num_chunks % _MAX_CHUNKS_IN_A_ROW == 0:
            gevent.sleep(0)
