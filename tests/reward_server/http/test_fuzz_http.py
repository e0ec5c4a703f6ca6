"""Malformed and odd HTTP sent to a live server: changed bytes, heads and bodies, pipelining.
`make fuzz` runs more cases.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

if TYPE_CHECKING:
    from tests.reward_server.http.conftest import Fuzzed

FUZZ = settings(
    max_examples=600 if settings.get_current_profile_name() == "fuzz" else 40,
    suppress_health_check=[HealthCheck.too_slow],
)
ONE = json.dumps({"query": ["Q: 2+3?\nA: 5"], "prompts": ["Q: 2+3?\nA:"], "labels": ["5"]}).encode()
# The server waits long for a request that is incomplete. So the client closes its side after
# sending, which tells the server that nothing more will come.
POST = b"POST /get_reward HTTP/1.1\r\nHost: here\r\nContent-Type: application/json\r\n"
WHOLE = POST + b"Content-Length: %d\r\n\r\n" % len(ONE) + ONE
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(ONE), ONE)
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: here\r\n\r\n"


@pytest.fixture(autouse=True, scope="module")
def _the_server_still_gives_the_same_rewards(fuzzed: Fuzzed) -> Iterator[None]:
    yield
    fuzzed.assert_is_as_right_as_before()


def _statuses(answers: list[tuple[int, Any]]) -> list[int]:
    return [status for status, _ in answers]


@given(
    st.sampled_from([WHOLE, CHUNKED, HEALTH]),
    st.integers(0, 400),
    st.integers(0, 3),
    st.binary(max_size=3) | st.sampled_from([b"\r\n", b"\n", b"\x00", b" ", b":", b"\xff", b"0"]),
)
@example(CHUNKED, len(POST) + 30, 1, b"g")
@example(WHOLE, len(POST) + 17, 0, b"9")
@FUZZ
def test_some_bytes_changed(fuzzed: Fuzzed, data: bytes, place: int, cut: int, put: bytes) -> None:
    place %= len(data)
    answers = fuzzed.send_raw(data[:place] + put + data[place + cut :])
    assert len(answers) <= 2


@given(st.sampled_from([WHOLE, CHUNKED]), st.integers(0, 400))
@FUZZ
def test_a_request_that_was_cut_off_is_not_rewarded(
    fuzzed: Fuzzed, data: bytes, place: int
) -> None:
    answers = fuzzed.send_raw(data[: place % len(data)])
    assert set(_statuses(answers)) <= {400, 499}


LINES = [
    b"GET /healthz HTTP/1.0",
    b"GET /healthz",
    b"get /healthz HTTP/1.1",
    b"GET  /healthz  HTTP/1.1",
    b"GET /healthz HTTP/1",
    b"GET /healthz HTTP/1.x",
    b"GET /healthz HTTP/9.9",
    b"GET /healthz HTTP/-1.-1",
    b"GET /healthz ICY/1.1",
    b"POST /healthz",
    b"/healthz",
    b"",
    b" ",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"PRI * HTTP/2.0",
    b"GET /" + b"x" * 9000 + b" HTTP/1.1",
    b"GET /\xff\xfe HTTP/1.1",
    b"GET /%ff%00?%zz HTTP/1.1",
    b"GET http://[::1 HTTP/1.1",
    b"GET /healthz#?\\ HTTP/1.1",
    b"CONNECT here:443 HTTP/1.1",
    b"OPTIONS * HTTP/1.1",
]
HEADERS = [
    b"Host: ",
    b"Host: \xff\xfe",
    b"Host: a b<script>",
    b"Host: [::1",
    b"Host: here:99999999",
    b"Host: a\r\nHost: b",
    b"no colon",
    b": no name",
    b"X-\xff: \x00",
    b"X_Y: z",
    b"X: a\r\n  folded",
    b" leading",
    b"X: " + b"y" * 66_000,
    b"\r\n".join([b"X-%d: y" % n for n in range(150)]),
    b"Content-Length: x",
    b"Content-Length: -1",
    b"Content-Length: 1e3",
    b"Content-Length: +5",
    b"Content-Length: 1_0",
    b"Content-Length: " + b"9" * 30,
    b"Content-Length: " + b"9" * 5000,
    b"Content-Length: 5\r\nContent-Length: 6",
    b"Content-Length: 0\r\nTransfer-Encoding: chunked",
    b"Transfer-Encoding: gzip, chunked",
    b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: identity",
    b"Connection: upgrade\r\nUpgrade: websocket",
    b"Connection: \xff",
    b"Expect: 100-continue",
    b"Expect: the worst",
    b"Cookie: a=\xff; ;;=",
    b"Authorization: Basic \xff",
    b"Authorization: Bearer",
    b"Range: bytes=9-1,x",
    b"Accept: */*;q=x",
    b"If-None-Match: \x00",
    b"X-Forwarded-For: \xff",
]


@given(
    st.sampled_from(LINES) | st.just(b"POST /get_reward HTTP/1.1") | st.just(b"GET / HTTP/1.1"),
    st.lists(st.sampled_from(HEADERS), max_size=3),
    st.sampled_from([b"", b"x" * 40, ONE, b"5\r\n12345\r\n0\r\n\r\n", gzip.compress(ONE)]),
)
@FUZZ
def test_odd_heads(fuzzed: Fuzzed, line: bytes, headers: list[bytes], body: bytes) -> None:
    fuzzed.send_raw(b"\r\n".join([line, *headers, b"", b""]) + body)


FRAMING = [
    b"Content-Length: %d" % len(ONE),
    b"Content-Length: 0",
    b"Content-Length: 5, 5",
    b"Content-Length : 5",
    b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: chunked, chunked",
    b"Transfer-Encoding: x",
    b"Transfer-Encoding:\x0bchunked",
    b"X: y\rTransfer-Encoding: chunked",
    b"X: y\nContent-Length: 5",
    b" chunked",
]


@given(
    st.lists(st.sampled_from(FRAMING), min_size=1, max_size=4),
    st.sampled_from([ONE, b"%x\r\n%b\r\n0\r\n\r\n" % (len(ONE), ONE), b"0\r\n\r\n", b""]),
    st.sampled_from([b"HTTP/1.0", b"HTTP/1.1"]),
)
@FUZZ
def test_nothing_after_a_refused_request_is_answered(
    fuzzed: Fuzzed, framing: list[bytes], body: bytes, version: bytes
) -> None:
    head = b"\r\n".join([b"POST /get_reward " + version, *framing, b"", b""])
    statuses = _statuses(fuzzed.send_raw(head + body + HEALTH))
    is_clear = len(framing) == 1 and framing[0] in (FRAMING[0], FRAMING[1], FRAMING[4])
    assert is_clear or statuses == [400]


@pytest.mark.parametrize("header", HEADERS, ids=lambda header: ascii(header)[:40])
@pytest.mark.parametrize("line", [b"GET / HTTP/1.1", b"POST /get_reward HTTP/1.1"])
def test_each_odd_header_is_answered(fuzzed: Fuzzed, line: bytes, header: bytes) -> None:
    answers = fuzzed.send_raw(line + b"\r\n" + header + b"\r\n\r\n")
    assert answers
    # 499: `send_raw` has closed its side before the body was parsed.
    assert set(_statuses(answers)) <= {200, 400, 403, 413, 499}


@pytest.mark.parametrize("line", LINES, ids=lambda line: ascii(line)[:40])
def test_each_odd_line_is_answered(fuzzed: Fuzzed, line: bytes) -> None:
    answers = fuzzed.send_raw(line + b"\r\nHost: here\r\n\r\n")
    assert answers or not line
    assert set(_statuses(answers)) <= {200, 400, 404, 405, 414}


CHUNKS = [
    b"",
    b"0\r\n\r\n",
    b"0\r\nTrailer: x\r\n\r\n",
    b"0\r\n\xff\r\n\r\n",
    b"0",
    b"g\r\n",
    b"-1\r\n",
    b"5\r\n12345",
    b"5\r\n12345XX",
    b"5;a=b\r\n12345\r\n0\r\n\r\n",
    b"5;" + b"a" * 9000,
    b"f" * 16 + b"\r\nx",
    b"f" * 17,
    b"7fffffffffffffff\r\nx",
    b"2\r\n{}\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n",
]


@pytest.mark.parametrize("body", CHUNKS, ids=lambda body: ascii(body)[:40])
def test_odd_chunks(fuzzed: Fuzzed, body: bytes) -> None:
    answers = fuzzed.send_raw(POST + b"Transfer-Encoding: chunked\r\n\r\n" + body)
    assert _statuses(answers)[:1] in ([400], [499])


@given(st.lists(st.sampled_from([HEALTH, b"GET /x HTTP/1.1\r\n\r\n"]), min_size=2, max_size=6))
@FUZZ
def test_pipelined_requests_are_answered_in_order(fuzzed: Fuzzed, requests: list[bytes]) -> None:
    answers = fuzzed.send_raw(b"".join(requests))
    assert _statuses(answers) == [200 if request == HEALTH else 404 for request in requests]


def test_pipelined_rollouts_are_rewarded(fuzzed: Fuzzed) -> None:
    before = fuzzed.server.request("/healthz")[1]["rollouts"]
    last = WHOLE.replace(b"Host: here", b"Connection: close")
    answers = fuzzed.send_raw(WHOLE + CHUNKED + HEALTH + last, is_all=False)
    assert _statuses(answers) == [200] * 4
    assert fuzzed.server.request("/healthz")[1]["rollouts"] == before + 3


def test_old_clients_are_answered(fuzzed: Fuzzed) -> None:
    keep = HEALTH.replace(b"1.1", b"1.0").replace(b"Host: here", b"Connection: keep-alive")
    assert _statuses(fuzzed.send_raw(keep + keep)) == [200, 200]
    assert _statuses(fuzzed.send_raw(HEALTH.replace(b"1.1", b"1.0") * 2)) == [200]
    assert _statuses(fuzzed.send_raw(b"HEAD / HTTP/1.0\r\n\r\n", "HEAD")) == [200]
