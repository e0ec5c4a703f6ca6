"""Faults of the server elsewhere: retried, or an error that names the server and not the key."""

from __future__ import annotations

import logging
import time
import traceback
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any

import pytest

from sar.terms.base import Sample, TermError
from sar.terms.composition import Composition, WeightedTerm
from sar.terms.remote import answers, client
from sar.terms.remote.classify import Classify
from sar.terms.remote.client import MAX_RETRIES, RemoteError

KEY = 'sk-a"b\\c-0123456789'
NUM_TRIES = MAX_RETRIES + 1
PATIENCE_S = 120.0


def score_of(number: float) -> Any:
    return {"data": [{"probs": [number]}]}


def make_term(server: Any, **options: Any) -> Classify:
    own: dict[str, Any] = {"url": server.url, "api": "vllm", "template": "{response}"}
    return Classify(**own | options)


def test_the_key_is_sent(
    fake_server: Any, reply: Any, make_sample: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_server.reply = lambda _: reply(score_of(1.0))
    monkeypatch.setenv("RM_KEY", KEY)
    term = make_term(fake_server, key_env="RM_KEY")
    assert KEY not in repr(term)
    term.score(make_sample("one"))
    make_term(fake_server).score(make_sample("two"))
    with_key, without = (got.headers for got in fake_server.received)
    assert with_key["Authorization"] == f"Bearer {KEY}"
    assert "Authorization" not in without


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_an_overloaded_server_is_asked_again(
    status: int, fake_server: Any, reply: Any, make_sample: Any
) -> None:
    statuses = iter([status] * MAX_RETRIES)
    fake_server.reply = lambda _: reply(score_of(2.0), status=next(statuses, 200))
    assert make_term(fake_server).score(make_sample()) == 2.0
    assert len(fake_server.received) == NUM_TRIES


@pytest.mark.parametrize("status", [429, 503])
def test_a_server_that_stays_overloaded_is_an_error(
    status: int, fake_server: Any, reply: Any, make_sample: Any
) -> None:
    fake_server.reply = lambda _: reply({"error": "overloaded"}, status=status)
    with pytest.raises(RemoteError, match=rf"status {status} from .*overloaded.*, after 6 tries"):
        make_term(fake_server).score(make_sample())
    assert len(fake_server.received) == NUM_TRIES


@pytest.mark.parametrize("status", [204, 400, 401, 403, 404, 408, 413, 422, 424])
def test_other_statuses_are_errors_at_once(
    status: int, fake_server: Any, reply: Any, make_sample: Any
) -> None:
    body = b"" if status == 204 else b'{"error": "no"}'
    fake_server.reply = lambda _: reply(raw=body, status=status)
    with pytest.raises(RemoteError, match=rf"status {status} from {fake_server.url}/classify"):
        make_term(fake_server).score(make_sample())
    assert len(fake_server.received) == 1


def test_the_servers_own_pause_is_kept(fake_server: Any, reply: Any, make_sample: Any) -> None:
    statuses = iter([429])
    pause = {"Retry-After": "1"}
    fake_server.reply = lambda _: reply(score_of(1.0), status=next(statuses, 200), headers=pause)
    started_s = time.monotonic()
    assert make_term(fake_server).score(make_sample()) == 1.0
    assert time.monotonic() - started_s >= 1.0


@pytest.mark.parametrize("pause", ["3600", "999999"])
def test_a_pause_beyond_the_deadline_is_an_error_at_once(
    pause: str, fake_server: Any, reply: Any, make_sample: Any
) -> None:
    fake_server.reply = lambda _: reply({}, status=429, headers={"Retry-After": pause})
    with pytest.raises(RemoteError, match=r"status 429 from .*, after 1 try"):
        make_term(fake_server, timeout_s=60).score(make_sample())
    assert len(fake_server.received) == 1


@pytest.mark.parametrize("pause", ["0", "-1", "soon", "Wed, 21 Oct 2026 07:28:00 GMT", "9" * 400])
def test_other_pauses_are_our_own(
    pause: str, fake_server: Any, reply: Any, make_sample: Any
) -> None:
    statuses = iter([429])
    headers = {"Retry-After": pause}
    fake_server.reply = lambda _: reply(score_of(1.0), status=next(statuses, 200), headers=headers)
    assert make_term(fake_server).score(make_sample()) == 1.0


@pytest.mark.parametrize(
    "fault", [{"closes": True}, {"raw": b'{"data": [', "promised_bytes": 1000}], ids=str
)
def test_a_connection_that_ends_is_tried_again(
    fault: Any, fake_server: Any, reply: Any, make_sample: Any
) -> None:
    faults = iter([fault, fault])
    fake_server.reply = lambda _: reply(**next(faults, {"body": score_of(3.0)}))
    assert make_term(fake_server).score(make_sample()) == 3.0
    assert len(fake_server.received) == 3


def test_no_server_is_an_error(fake_server: Any, make_sample: Any) -> None:
    fake_server.close()
    with pytest.raises(RemoteError, match=rf"from {fake_server.url}/classify, after 6 tries"):
        make_term(fake_server).score(make_sample())


def test_a_server_that_hangs_is_an_error(fake_server: Any, reply: Any, make_sample: Any) -> None:
    wake = Event()

    def hang(_: Any) -> Any:
        wake.wait(PATIENCE_S)
        return reply()

    fake_server.reply = hang
    term = make_term(fake_server, timeout_s=0.5)
    started_s = time.monotonic()
    with pytest.raises(RemoteError, match=rf"no answer within 0\.5 s from {fake_server.url}"):
        term.score(make_sample())
    wake.set()
    assert time.monotonic() - started_s < PATIENCE_S / 2


def test_a_server_that_drips_is_an_error(fake_server: Any, make_sample: Any) -> None:
    """Each byte comes in time; all together do not."""

    def drip(handler: Any) -> None:
        handler.rfile.read(int(handler.headers["Content-Length"]))
        for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n" + b"X-Slow: 1\r\n" * 1000:
            try:
                handler.wfile.write(bytes([byte]))
            except OSError:
                break
            time.sleep(0.05)
        handler.close_connection = True

    fake_server.handle = drip
    with pytest.raises(RemoteError, match="no answer within 1 s"):
        make_term(fake_server, timeout_s=1).score(make_sample())


def test_waiting_for_a_place_counts_too(fake_server: Any, reply: Any, make_sample: Any) -> None:
    def answer_late(_: Any) -> Any:
        time.sleep(0.8)
        return reply(score_of(1.0))

    fake_server.reply = answer_late
    term = make_term(fake_server, timeout_s=2, max_concurrency=1)

    def ask(number: int) -> str:
        try:
            return str(term.score(make_sample(str(number))))
        except RemoteError as error:
            return str(error)

    started_s = time.monotonic()
    with ThreadPoolExecutor(8) as threads:
        messages = list(threads.map(ask, range(8)))
    assert time.monotonic() - started_s < PATIENCE_S / 2
    assert any(message.startswith("no turn among 1 requests within 2 s") for message in messages)
    assert len(fake_server.received) <= 4


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(
    status: int, fake_server: Any, other_server: Any, reply: Any, make_sample: Any
) -> None:
    target = f"{other_server.url}/classify"
    fake_server.reply = lambda _: reply({}, status=status, headers={"Location": target})
    with pytest.raises(RemoteError, match=rf"redirects to '{target}'; redirects are not followed"):
        make_term(fake_server).score(make_sample())
    assert (len(fake_server.received), other_server.received) == (1, [])


@pytest.mark.parametrize("status", [200, 400, 503])
def test_a_huge_answer_is_refused(
    status: int, fake_server: Any, reply: Any, make_sample: Any
) -> None:
    fake_server.reply = lambda _: reply(raw=b" " * (8 << 20), status=status)
    with pytest.raises(RemoteError) as error:
        make_term(fake_server).score(make_sample())
    expected = "over 1,048,576 bytes" if status == 200 else f"status {status}"
    assert expected in str(error.value)
    assert len(str(error.value)) < 300


def test_a_compressed_answer_is_not_unpacked(
    fake_server: Any, reply: Any, make_sample: Any
) -> None:
    headers = {"Content-Encoding": "gzip"}
    fake_server.reply = lambda _: reply(raw=b"\x1f\x8b\x08 bomb", headers=headers)
    with pytest.raises(RemoteError, match="not of vllm's form"):
        make_term(fake_server).score(make_sample())
    assert fake_server.received[0].headers["Accept-Encoding"] == "identity"


@pytest.mark.parametrize(
    "make_reply",
    [
        lambda got, reply: reply({"error": got.headers["Authorization"]}, status=401),
        lambda got, reply: reply({"error": got.headers["Authorization"]}, status=500),
        lambda got, reply: reply(raw=got.headers["Authorization"].encode()),
        lambda got, reply: reply(raw=b"x" * 70 + got.headers["Authorization"].encode()),
        lambda got, reply: reply([got.headers["Authorization"]] * 9, status=400),
        lambda got, reply: reply(
            {}, status=307, headers={"Location": f"http://{got.headers['Authorization'][7:]}@x/"}
        ),
        lambda _, reply: reply(closes=True),
    ],
)
def test_the_key_is_in_no_message(
    make_reply: Any,
    fake_server: Any,
    reply: Any,
    make_sample: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Even if the server sends it back."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("RM_KEY", KEY)
    fake_server.reply = lambda got: make_reply(got, reply)
    term = make_term(fake_server, key_env="RM_KEY")
    with pytest.raises(TermError) as error:
        Composition((WeightedTerm("classify", term),)).score(make_sample())
    shown = "".join(traceback.format_exception(error.value)) + caplog.text
    assert "sk-a" not in shown
    assert fake_server.url in shown
    assert "term 'classify' failed: RemoteError: " in str(error.value)


@pytest.mark.parametrize("num_before", [0, 20, 30, 40])
def test_a_key_in_a_broken_answer_is_not_even_shown_in_part(
    num_before: int, fake_server: Any, make_sample: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message quotes the line that is no header, and is cut."""
    monkeypatch.setenv("RM_KEY", KEY)

    def send_back(handler: Any) -> None:
        handler.rfile.read(int(handler.headers["Content-Length"]))
        line = "x" * num_before + "\x01 " + handler.headers["Authorization"]
        handler.wfile.write(f"HTTP/1.1 200 OK\r\n{line}\r\n\r\n".encode())
        handler.close_connection = True

    fake_server.handle = send_back
    with pytest.raises(RemoteError, match="illegal header line") as error:
        make_term(fake_server, key_env="RM_KEY").score(make_sample())
    assert "sk-" not in "".join(traceback.format_exception(error.value))


def test_cookies_are_not_kept(fake_server: Any, reply: Any, make_sample: Any) -> None:
    """There could be more of them with each answer."""
    cookie = {"Set-Cookie": "session=1; Path=/"}
    fake_server.reply = lambda _: reply(score_of(1.0), headers=cookie)
    term = make_term(fake_server)
    for number in range(3):
        term.score(make_sample(response=str(number)))
    assert len(fake_server.received) == 3
    assert all("Cookie" not in got.headers for got in fake_server.received)


def test_requests_are_not_logged(
    fake_server: Any, reply: Any, make_sample: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    fake_server.reply = lambda _: reply(score_of(1.0))
    make_term(fake_server).score(make_sample())
    assert caplog.records == []


def ask_all(term: Any, samples: list[Sample]) -> list[float]:
    """Asks for all at the same time, each in a thread of its own."""
    with ThreadPoolExecutor(len(samples)) as threads:
        return list(threads.map(term.score, samples))


def test_the_cap_on_concurrency_is_held_and_used(
    fake_server: Any, reply: Any, make_sample: Any
) -> None:
    def answer(got: Any) -> Any:
        time.sleep(0.05)
        return reply(score_of(float(got.body["input"][0])))

    fake_server.reply = answer
    samples = [make_sample(str(n)) for n in range(48)]
    term = make_term(fake_server, max_concurrency=4)
    assert ask_all(term, samples) == list(map(float, range(48)))
    assert fake_server.num_most == 4


def test_equal_texts_at_the_same_time_are_asked_once(
    fake_server: Any, reply: Any, make_sample: Any
) -> None:
    def answer(got: Any) -> Any:
        time.sleep(0.3)
        return reply(score_of(float(got.body["input"][0])))

    fake_server.reply = answer
    term = make_term(fake_server)
    assert ask_all(term, [make_sample("5")] * 16 + [make_sample("6")] * 16) == [5.0] * 16 + [6] * 16
    assert Counter(got.body["input"][0] for got in fake_server.received) == {"5": 1, "6": 1}


def test_answers_are_remembered_and_failures_are_not(
    fake_server: Any, reply: Any, make_sample: Any
) -> None:
    statuses = iter([400])
    fake_server.reply = lambda _: reply(score_of(0.0), status=next(statuses, 200))
    term = make_term(fake_server)
    with pytest.raises(RemoteError):
        term.score(make_sample())
    assert [term.score(make_sample()) for _ in range(3)] == [0.0] * 3
    assert len(fake_server.received) == 2
    make_term(fake_server).score(make_sample())
    assert len(fake_server.received) == 3, "another term has its own answers"


def test_what_is_remembered_is_bounded() -> None:
    shared = answers.SharedAnswers(max_remembered=3)
    asked = []

    def get(number: int) -> float:
        async def ask() -> float:
            asked.append(number)
            return float(number)

        return shared.get(str(number).encode(), ask)

    assert [get(n) for n in (1, 2, 3, 1, 4, 1, 2)] == [1, 2, 3, 1, 4, 1, 2]
    assert asked == [1, 2, 3, 4, 2]


def test_all_who_wait_get_the_failure(fake_server: Any, reply: Any, make_sample: Any) -> None:
    def answer(_: Any) -> Any:
        time.sleep(0.3)
        return reply({}, status=400)

    fake_server.reply = answer
    term = make_term(fake_server)

    def ask(_: int) -> str:
        with pytest.raises(RemoteError) as error:
            term.score(make_sample())
        return str(error.value)

    with ThreadPoolExecutor(8) as threads:
        (message,) = set(threads.map(ask, range(8)))
    assert "status 400" in message
    assert len(fake_server.received) == 1


def test_a_proxy_of_the_environment_is_used(
    fake_server: Any, other_server: Any, reply: Any, make_sample: Any, monkeypatch: Any
) -> None:
    monkeypatch.setenv("HTTP_PROXY", other_server.url)
    monkeypatch.setenv("NO_PROXY", "127.0.0.2")
    monkeypatch.delenv("no_proxy", raising=False)
    other_server.reply = lambda _: reply(score_of(4.0))
    assert make_term(fake_server).score(make_sample()) == 4.0
    assert other_server.received[0].path == f"{fake_server.url}/classify"
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    fake_server.reply = lambda _: reply(score_of(5.0))
    assert make_term(fake_server).score(make_sample()) == 5.0


def test_pauses_grow(monkeypatch: pytest.MonkeyPatch, fake_server: Any, make_sample: Any) -> None:
    pauses = []

    async def sleep(pause_s: float) -> None:
        pauses.append(pause_s)

    monkeypatch.setattr(client, "_FIRST_PAUSE_S", 0.5)
    monkeypatch.setattr("sar.terms.remote.client.asyncio.sleep", sleep)
    fake_server.close()
    with pytest.raises(RemoteError):
        make_term(fake_server).score(make_sample())
    assert len(pauses) == MAX_RETRIES
    assert all(0.8 * 0.5 * 2**n <= pause_s <= 0.5 * 2**n for n, pause_s in enumerate(pauses))
