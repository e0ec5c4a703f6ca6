"""Where a request ends: contradictory or malformed framing is refused, and nothing that follows it
is read as a second request (RFC 9112, sections 2 to 7).
"""

from __future__ import annotations

import io
import json
import socket
import tracemalloc
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import gevent
import pytest

from reward_server.http import framing

if TYPE_CHECKING:
    from tests.conftest import TestedServer

ONE = json.dumps({"query": ["Q: 2+3?\nA: 5"], "prompts": ["Q: 2+3?\nA:"], "labels": ["5"]}).encode()
# Follows each request. If the server answered it, an attacker could hide a request in a body.
SECOND = b"GET /hidden HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n"
LINE = b"POST /get_reward HTTP/1.1\r\n"
HOST = b"Host: here\r\n"
SIZE = b"%d" % len(ONE)
LENGTH = b"Content-Length: " + SIZE + b"\r\n"
CODING = b"Transfer-Encoding: chunked\r\n"
CHUNKS = b"%x\r\n%b\r\n0\r\n\r\n" % (len(ONE), ONE)


def _send(server: TestedServer, data: bytes, *, is_all: bool = True) -> list[int]:
    """The statuses of all answers on one connection, until the server closes it.

    Args:
        is_all: closes the client's side after sending, so that a server that waits for more knows
            that nothing comes. Without it, this side stays open until the server answers.
    """
    address = urlsplit(server.url)
    received = b""
    with socket.create_connection((address.hostname, address.port), 30) as client:
        client.sendall(data)
        if is_all:
            client.shutdown(socket.SHUT_WR)
        while chunk := client.recv(1 << 16):
            received += chunk
            if not is_all and not received.endswith(b"100 Continue\r\n\r\n"):
                is_all = True
                client.shutdown(socket.SHUT_WR)
    return [int(part[:3]) for part in received.split(b"HTTP/1.1 ")[1:]]


HEADS = {
    "two lengths that differ": LENGTH + b"Content-Length: 5\r\n",
    "two lengths that agree": LENGTH + LENGTH,
    "two lengths apart": LENGTH + b"X: y\r\ncontent-length: 0\r\n",
    "a list of lengths": b"Content-Length: " + SIZE + b", " + SIZE + b"\r\n",
    "a plus sign": b"Content-Length: +" + SIZE + b"\r\n",
    "a minus sign": b"Content-Length: -1\r\n",
    "minus nothing": b"Content-Length: -0\r\n",
    "a space inside": b"Content-Length: " + SIZE[:1] + b" " + SIZE[1:] + b"\r\n",
    "an underscore": b"Content-Length: " + SIZE[:1] + b"_" + SIZE[1:] + b"\r\n",
    "hexadecimal": b"Content-Length: 0x10\r\n",
    "a fraction": b"Content-Length: " + SIZE + b".0\r\n",
    "no digits": b"Content-Length: \r\n",
    "Arabic digits": b"Content-Length: \xd9\xa1\xd9\xa0\r\n",
    "a superscript": b"Content-Length: \xb2\r\n",
    "too many digits": b"Content-Length: " + b"9" * 30 + b"\r\n",
    "a vertical tab": b"Content-Length: \x0b" + SIZE + b"\r\n",
    "a NUL": b"Content-Length: " + SIZE + b"\x00\r\n",
    "length and coding": LENGTH + CODING,
    "coding and length": CODING + LENGTH,
    "coding and no length": CODING + b"Content-Length: 0\r\n",
    "two codings": CODING + CODING,
    "chunked twice": b"Transfer-Encoding: chunked, chunked\r\n",
    "gzip, chunked": b"Transfer-Encoding: gzip, chunked\r\n",
    "chunked, gzip": b"Transfer-Encoding: chunked, gzip\r\n",
    "identity": b"Transfer-Encoding: identity\r\n",
    "identity and a length": b"Transfer-Encoding: identity\r\n" + LENGTH,
    "an unknown coding": b"Transfer-Encoding: xchunked\r\n" + LENGTH,
    "no coding": b"Transfer-Encoding: \r\n" + LENGTH,
    "a quoted coding": b'Transfer-Encoding: "chunked"\r\n',
    "a parameter": b"Transfer-Encoding: chunked;q=1\r\n",
    "a vertical tab before chunked": b"Transfer-Encoding: \x0bchunked\r\n" + LENGTH,
    "a folded coding": b"Transfer-Encoding:\r\n chunked\r\n" + LENGTH,
    "a folded length": b"X: y\r\n Content-Length: 5\r\n" + LENGTH,
    "a space before the first header": b" X: y\r\n" + LENGTH,
    "a space before the colon": b"Content-Length : 5\r\n" + LENGTH,
    "a tab before the colon": b"Transfer-Encoding\t: chunked\r\n" + LENGTH,
    "a space in a name": b"X Y: z\r\n" + LENGTH,
    "a name that is not ASCII": b"Content-Length\xa0: 5\r\n" + LENGTH,
    "no name": b": 5\r\n" + LENGTH,
    "no colon": b"Content-Length 5\r\n" + LENGTH,
    "a bare CR ends a line": b"X: y\rContent-Length: 5\r\n" + LENGTH,
    "a bare CR hides a coding": b"X: y\rTransfer-Encoding: chunked\r\n" + LENGTH,
    "CR CR LF": b"X: y\r\r\n" + LENGTH,
    "a bare LF ends a line": b"X: y\nContent-Length: 5\r\n" + LENGTH,
    "a bare LF after a length": b"Content-Length: " + SIZE + b"\n",
    "a form feed in a value": b"X: y\x0cContent-Length: 5\r\n" + LENGTH,
    "a file separator in a value": b"X: y\x1cContent-Length: 5\r\n" + LENGTH,
    "two hosts": HOST + LENGTH,
    "a long header": b"X: " + b"y" * 70_000 + b"\r\n" + LENGTH,
    "headers that are long together": (b"X: " + b"y" * 7_000 + b"\r\n") * 10 + LENGTH,
    "one header more than allowed": b"X: y\r\n" * 99 + LENGTH,
}


@pytest.mark.parametrize("headers", HEADS.values(), ids=HEADS)
def test_bad_heads_are_refused_and_end_the_connection(server: TestedServer, headers: bytes) -> None:
    body = CHUNKS if b"chunked" in headers else ONE
    data = LINE + HOST + headers + b"\r\n" + body + SECOND
    assert _send(server, data, is_all=False) == [400]


@pytest.mark.parametrize("size", [10, 1_000, 60_000])
def test_a_head_that_is_still_arriving_takes_little_memory(size: int) -> None:
    class Endless(io.RawIOBase):
        """Sends headers without end, and notes the memory that they take."""

        peak_bytes = 0
        num_sent = 0

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            self.peak_bytes = max(self.peak_bytes, tracemalloc.get_traced_memory()[0])
            line = b"X: ".ljust(size, b"y") + b"\r\n"
            start = self.num_sent % len(line)
            sent = (line * (len(buffer) // len(line) + 2))[start : start + len(buffer)]
            self.num_sent += len(sent)
            buffer[:] = sent
            return len(sent)

    source = Endless()
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="header"):
            framing.read_head(io.BufferedReader(source), "HTTP/1.1")
    finally:
        tracemalloc.stop()
    assert source.num_sent < 100_000
    assert source.peak_bytes < 300_000


LINES = {
    "HTTP/0.9": b"GET /healthz\r\n",
    "another version": b"GET /healthz HTTP/1.2\r\n",
    "version 2": b"GET /healthz HTTP/2.0\r\n",
    "a version of signs": b"GET /healthz HTTP/+1.+1\r\n",
    "a lower-case name": b"GET /healthz http/1.1\r\n",
    "a long version": b"GET /healthz HTTP/1.10\r\n",
    "two spaces": b"GET  /healthz HTTP/1.1\r\n",
    "tabs": b"GET\t/healthz\tHTTP/1.1\r\n",
    "a space before": b" GET /healthz HTTP/1.1\r\n",
    "a space behind": b"GET /healthz HTTP/1.1 \r\n",
    "a bare LF": b"GET /healthz HTTP/1.1\n",
    "a bare CR": b"GET /healthz HTTP/1.1\rX: y\r\n",
    "CR CR LF": b"GET /healthz HTTP/1.1\r\r\n",
    "a no-break space": b"GET\xa0/healthz\xa0HTTP/1.1\r\n",
    "a NUL in the path": b"GET /health\x00z HTTP/1.1\r\n",
    "a delimiter in the method": b"GE(T /healthz HTTP/1.1\r\n",
    "four words": b"GET /healthz HTTP/1.1 HTTP/1.1\r\n",
}


@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
def test_bad_first_lines_are_refused_and_end_the_connection(
    server: TestedServer, line: bytes
) -> None:
    assert _send(server, line + HOST + b"\r\n" + SECOND, is_all=False) == [400]


def _cut(body: bytes, size: int) -> bytes:
    """A body in chunks of `size` bytes."""
    pieces = (body[start : start + size] for start in range(0, len(body), size))
    return b"".join(b"%x\r\n%b\r\n" % (len(one), one) for one in pieces) + b"0\r\n\r\n"


BODIES = {
    "many tiny chunks": _cut(ONE.ljust(5_000), 1),
    "many tiny chunks after a larger one": b"7d0\r\n%2000b\r\n" % b"" + _cut(ONE.ljust(5_000), 1),
    "no size": b"\r\n" + CHUNKS,
    "a sign": b"+" + CHUNKS,
    "a minus sign": b"-" + CHUNKS,
    "0x": b"0x" + CHUNKS,
    "an underscore": b"0_" + CHUNKS,
    "a space before": b" " + CHUNKS,
    "a space behind": CHUNKS.replace(b"\r\n", b" \r\n", 1),
    "too many digits": b"0" * 30 + CHUNKS,
    "larger than memory": b"f" * 16 + b"\r\n" + ONE,
    "not hexadecimal": b"g\r\n" + CHUNKS,
    "a bare LF": CHUNKS.replace(b"\r\n", b"\n", 1),
    "a bare CR": CHUNKS.replace(b"\r\n", b"\r", 1),
    "CR CR LF": CHUNKS.replace(b"\r\n", b"\r\r\n", 1),
    "a bare LF in an extension": CHUNKS.replace(b"\r\n", b";a\nb\r\n", 1),
    "a bare CR in an extension": CHUNKS.replace(b"\r\n", b";a\rb\r\n", 1),
    "a NUL in an extension": CHUNKS.replace(b"\r\n", b";a\x00\r\n", 1),
    "a long extension": CHUNKS.replace(b"\r\n", b";" + b"a" * 70_000 + b"\r\n", 1),
    "data longer than its size": b"%x\r\n%b\r\n0\r\n\r\n" % (len(ONE) - 1, ONE),
    "data shorter than its size": b"%x\r\n%b\r\n0\r\n\r\n" % (len(ONE) + 1, ONE),
    "a bare LF after the data": CHUNKS.replace(b"}\r\n", b"}\n"),
    "a bare LF after the last size": CHUNKS.replace(b"0\r\n\r\n", b"0\n\r\n"),
    "a bare LF at the end": CHUNKS.replace(b"0\r\n\r\n", b"0\r\n\n"),
    "a trailer without a colon": CHUNKS[:-2] + b"abc\r\n\r\n",
    "a trailer with a space before the colon": CHUNKS[:-2] + b"a : b\r\n\r\n",
    "a bare LF in a trailer": CHUNKS[:-2] + b"a: b\nc: d\r\n\r\n",
    "a bare CR in a trailer": CHUNKS[:-2] + b"a: b\rc: d\r\n\r\n",
    "a folded trailer": CHUNKS[:-2] + b"a: b\r\n c\r\n\r\n",
    "too many trailers": CHUNKS[:-2] + b"a: b\r\n" * 1000 + b"\r\n",
    "trailers that are long together": CHUNKS[:-2]
    + (b"a: " + b"b" * 7_000 + b"\r\n") * 10
    + b"\r\n",
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_bad_chunks_are_refused_and_end_the_connection(server: TestedServer, body: bytes) -> None:
    assert _send(server, LINE + HOST + CODING + b"\r\n" + body + SECOND) == [400]


def test_others_have_a_turn_between_the_chunks_of_one_client() -> None:
    """All chunks have arrived, so no read waits for the client."""
    num_turns = 0

    def count_turns() -> None:
        nonlocal num_turns
        while True:
            num_turns += 1
            gevent.sleep(0)

    other = gevent.spawn(count_turns)
    body = framing.ChunkedInput(io.BytesIO(_cut(b" " * 100_000, 100)), None)
    assert len(body.read()) == 100_000
    other.kill()
    assert num_turns >= 10


def test_chunks_need_http_1_1(server: TestedServer) -> None:
    line = LINE.replace(b"1.1", b"1.0")
    for keep in (b"", b"Connection: keep-alive\r\n"):
        data = line + HOST + keep + CODING + b"\r\n" + CHUNKS + SECOND
        assert _send(server, data, is_all=False) == [400]


@pytest.mark.parametrize("line", [b"GET /healthz HTTP/1.1\r\n", b"DELETE /get_reward HTTP/1.1\r\n"])
@pytest.mark.parametrize("headers", [LENGTH, CODING])
def test_a_body_that_nobody_reads_is_no_second_request(
    server: TestedServer, line: bytes, headers: bytes
) -> None:
    hidden = SECOND.ljust(len(ONE))
    body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(hidden), hidden) if headers == CODING else hidden
    statuses = _send(server, line + HOST + headers + b"\r\n" + body, is_all=False)
    assert statuses in ([200], [405])


@pytest.mark.parametrize(
    "end", range(1, len(LINE + HOST + LENGTH) + 2, 7), ids=lambda end: f"after {end} bytes"
)
def test_a_head_that_was_cut_off_is_no_request(server: TestedServer, end: int) -> None:
    get = b"GET /healthz HTTP/1.1\r\n" + HOST + b"X: " + b"y" * 60 + b"\r\n\r\n"
    assert _send(server, get[:end]) == [400]


GOOD = {
    "a length": LENGTH + b"\r\n" + ONE,
    "a length with leading zeros": b"Content-Length: 000" + SIZE + b"\r\n\r\n" + ONE,
    "tabs and spaces around a value": b"Content-Length:\t " + SIZE + b" \t\r\n\r\n" + ONE,
    "no space before a value": b"Content-Length:" + SIZE + b"\r\n\r\n" + ONE,
    "a value that is not ASCII": b"X: \xff\tz\r\n" + LENGTH + b"\r\n" + ONE,
    "many long headers": (b"X: " + b"y" * 500 + b"\r\n") * 90 + LENGTH + b"\r\n" + ONE,
    "an empty value": b"X:\r\n" + LENGTH + b"\r\n" + ONE,
    "chunks": CODING + b"\r\n" + CHUNKS,
    "chunks in capitals": b"TRANSFER-ENCODING: Chunked \r\n\r\n"
    + CHUNKS.upper().replace(ONE.upper(), ONE),
    "small chunks": CODING
    + b"\r\n"
    + b"".join(b"1\r\n%c\r\n" % byte for byte in ONE)
    + b"000\r\n\r\n",
    "many small chunks": CODING + b"\r\n" + _cut(ONE.ljust(100_000), 16),
    "as many tiny chunks as allowed": CODING + b"\r\n" + _cut(ONE.ljust(4_096), 1),
    "extensions": CODING + b"\r\n" + CHUNKS.replace(b"\r\n", b' ;a="b;c";d\r\n', 1),
    "trailers": CODING + b"\r\n" + CHUNKS[:-2] + b"a: b\r\nc:\r\n\r\n",
    "100-continue": b"Expect: 100-continue\r\n" + LENGTH + b"\r\n" + ONE,
    "100-continue and chunks": b"Expect: 100-continue\r\n" + CODING + b"\r\n" + CHUNKS,
}


@pytest.mark.parametrize("rest", GOOD.values(), ids=GOOD)
def test_good_requests_are_answered_and_so_is_the_next(server: TestedServer, rest: bytes) -> None:
    statuses = _send(server, LINE + HOST + rest + SECOND, is_all=False)
    assert statuses == ([100, 200, 404] if b"Expect" in rest else [200, 404])
