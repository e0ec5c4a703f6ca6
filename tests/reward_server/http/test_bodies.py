"""Reading request bodies within a bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
from flask import Flask, Request, request
from werkzeug.test import EnvironBuilder

import reward_server.http.bodies
from reward_server.errors import Overloaded, TooLarge
from reward_server.http.bodies import Bodies

_SMALL, _LIMIT = 100, 1000


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reward_server.http.bodies, "_SMALL_BYTES", _SMALL)
    monkeypatch.setattr(reward_server.http.bodies, "_PIECE_BYTES", 64)


@contextmanager
def _sent(body: bytes, *, is_chunked: bool = False) -> Iterator[Request]:
    environ = EnvironBuilder(method="POST", data=body).get_environ()
    if is_chunked:
        environ.pop("CONTENT_LENGTH", None)
        environ["wsgi.input_terminated"] = True
    with Flask("test").request_context(environ):
        yield request


@pytest.mark.parametrize("is_chunked", [False, True])
@pytest.mark.parametrize("size", [0, 1, 64, _SMALL, _SMALL + 1, _LIMIT])
def test_a_body_is_read_whole(size: int, is_chunked: bool) -> None:
    bodies, body = Bodies(_LIMIT), bytes(range(256)) * 4
    with _sent(body[:size], is_chunked=is_chunked) as sent, bodies.receive(sent) as received:
        assert received == body[:size]


@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_body_over_the_limit_is_refused(is_chunked: bool) -> None:
    with (
        _sent(b"x" * (_LIMIT + 1), is_chunked=is_chunked) as sent,
        pytest.raises(TooLarge, match=f"--max-body-bytes, {_LIMIT}"),
        Bodies(_LIMIT).receive(sent),
    ):
        pass


def test_large_bodies_share_memory_and_give_it_back() -> None:
    bodies = Bodies(_LIMIT)
    for _ in range(3):
        with ExitStack() as held:
            for _ in range(4):
                sent = held.enter_context(_sent(b"x" * _LIMIT))
                held.enter_context(bodies.receive(sent))
            with _sent(b"x" * (_SMALL + 1)) as sent, pytest.raises(Overloaded):
                held.enter_context(bodies.receive(sent))
            with _sent(b"x" * _SMALL) as sent, bodies.receive(sent) as received:
                assert len(received) == _SMALL  # a trainer's request is not kept out
