"""Reading request bodies within a bounded memory."""

from __future__ import annotations

import io
from contextlib import AbstractContextManager, ExitStack

import pytest
from werkzeug.exceptions import BadRequest

import reward_server.http.bodies
from reward_server.errors import Overloaded, TooLarge
from reward_server.http.bodies import Bodies

_SMALL, _LIMIT = 100, 1000


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reward_server.http.bodies, "_SMALL_BYTES", _SMALL)
    monkeypatch.setattr(reward_server.http.bodies, "_PIECE_BYTES", 64)


def _receive(
    bodies: Bodies, body: bytes, *, is_chunked: bool = False
) -> AbstractContextManager[bytearray]:
    return bodies.receive(io.BytesIO(body), None if is_chunked else len(body))


@pytest.mark.parametrize("is_chunked", [False, True])
@pytest.mark.parametrize("size", [0, 1, 64, _SMALL, _SMALL + 1, _LIMIT])
def test_a_body_is_read_whole(size: int, is_chunked: bool) -> None:
    bodies, body = Bodies(_LIMIT), bytes(range(256)) * 4
    with _receive(bodies, body[:size], is_chunked=is_chunked) as received:
        assert received == body[:size]


@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_body_over_the_limit_is_refused(is_chunked: bool) -> None:
    with (
        pytest.raises(TooLarge, match=f"--max-body-bytes, {_LIMIT}"),
        _receive(Bodies(_LIMIT), b"x" * (_LIMIT + 1), is_chunked=is_chunked),
    ):
        pass


def test_large_bodies_share_memory_and_give_it_back() -> None:
    bodies = Bodies(_LIMIT)
    for _ in range(3):
        with ExitStack() as held:
            for _ in range(4):
                held.enter_context(_receive(bodies, b"x" * _LIMIT))
            with pytest.raises(Overloaded):
                held.enter_context(_receive(bodies, b"x" * (_SMALL + 1)))
            with _receive(bodies, b"x" * _SMALL) as received:
                assert len(received) == _SMALL  # a trainer's request is not kept out


def test_small_bodies_share_memory_of_their_own() -> None:
    bodies = Bodies(_LIMIT)
    with ExitStack() as held:
        for _ in range(16 * _LIMIT // _SMALL):
            held.enter_context(_receive(bodies, b"x" * _SMALL))
        with pytest.raises(Overloaded):
            held.enter_context(_receive(bodies, b"x"))
        held.enter_context(_receive(Bodies(_LIMIT), b"x" * _LIMIT))
    with _receive(bodies, b"x"):
        pass


def test_a_body_that_is_cut_off_is_an_error_of_the_client() -> None:
    class _Cut(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise OSError("unexpected end of file while reading chunked data")

    with pytest.raises(BadRequest, match="cut off"), Bodies(_LIMIT).receive(_Cut(), None):
        pass
