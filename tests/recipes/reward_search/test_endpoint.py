"""A real HTTP server that fails: each fault is a recorded rejection, and the search goes on."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from recipes.reward_search.candidates import Proposal
from recipes.reward_search.generators.base import Slot
from recipes.reward_search.generators.choose import make_generator
from recipes.reward_search.generators.endpoint import KEY_VARIABLE, EndpointGenerator
from recipes.reward_search.loop import rank_candidates
from recipes.reward_search.settings import SearchSettings
from sar.terms.remote import client

KEY = "sk-a-secret-that-nobody-may-see"
GOOD = "def reward(sample):\n    return float(sample['correct'])  # {}\n"

Answer = Callable[[BaseHTTPRequestHandler, int], None]


class Endpoint:
    """A server on a free port. `answer` writes each response; it gets the request's number."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.answer: Answer = lambda handler, number: send_text(handler, GOOD.format(number))
        lock = threading.Lock()
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                with lock:
                    endpoint.requests.append({"path": self.path, **json.loads(body)})
                    endpoint.keys.append(self.headers.get("authorization"))
                    number = len(endpoint.requests)
                endpoint.answer(self, number)

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"


def send(handler: BaseHTTPRequestHandler, content: bytes, status: int = 200) -> None:
    handler.send_response(status)
    handler.send_header("content-length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content)


def send_text(handler: BaseHTTPRequestHandler, text: str) -> None:
    message = {"role": "assistant", "content": f"```python\n{text}```"}
    send(handler, json.dumps({"choices": [{"message": message}]}).encode())


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    monkeypatch.setattr(client, "_FIRST_PAUSE_S", 0.01)
    found = Endpoint()
    yield found
    found.http.shutdown()
    found.http.server_close()


def ask(endpoint: Endpoint, num: int = 1, timeout_s: float = 30.0) -> list[Proposal]:
    generator = EndpointGenerator(endpoint.url, "writer", KEY, per_round=num, rank_by="aes")
    slots = [Slot(f"r1c{place:02}", 1, place) for place in range(1, num + 1)]
    found = dict(generator.propose(slots, [], set(), timeout_s))
    return [found[slot] for slot in slots]


def test_each_candidate_is_asked_for(endpoint: Endpoint) -> None:
    found = ask(endpoint, 5)
    assert {one.source for one in found} == {GOOD.format(number) for number in range(1, 6)}
    assert {one["path"] for one in endpoint.requests} == {"/v1/chat/completions"}
    assert {one["model"] for one in endpoint.requests} == {"writer"}
    assert set(endpoint.keys) == {f"Bearer {KEY}"}
    prompts = [one["messages"][0]["content"] for one in endpoint.requests]
    assert len(set(prompts)) == 5  # each says which one it is


def _drop(handler: BaseHTTPRequestHandler, number: int) -> None:
    handler.connection.close()


def _send_half(handler: BaseHTTPRequestHandler, number: int) -> None:
    handler.send_response(200)
    handler.send_header("content-length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"choices"')
    handler.wfile.flush()
    handler.connection.close()


def _redirect(handler: BaseHTTPRequestHandler, number: int) -> None:
    handler.send_response(302)
    handler.send_header("location", "http://127.0.0.1:1/elsewhere")
    handler.send_header("content-length", "0")
    handler.end_headers()


FAULTS: dict[str, tuple[Answer, str]] = {
    "a status": (lambda h, n: send(h, b"no such model", 404), "status 404"),
    "always busy": (lambda h, n: send(h, b"busy", 503), "status 503 .*after"),
    "a dropped connection": (_drop, "gave no answer"),
    "half an answer": (_send_half, "gave no answer"),
    "a redirect": (_redirect, "redirects"),
    "no JSON": (lambda h, n: send(h, b"<html>hello</html>"), "no chat completion"),
    "another JSON": (lambda h, n: send(h, b'{"choices": []}'), "no chat completion"),
    "a number": (lambda h, n: send(h, b"17"), "no chat completion"),
    "bytes": (lambda h, n: send(h, bytes(range(256))), "no chat completion"),
    "no content": (
        lambda h, n: send(h, b'{"choices": [{"message": {"content": null}}]}'), "no code block"
    ),
    "prose": (
        lambda h, n: send(h, b'{"choices": [{"message": {"content": "I will not."}}]}'),
        "no code block .*I will not",
    ),
    "megabytes": (lambda h, n: send(h, b" " * (3 << 20)), "over 1,048,576 bytes"),
    "the key": (lambda h, n: send(h, f"wrong key {KEY}".encode(), 401), r"wrong key \*\*\*"),
    "the key as text": (lambda h, n: send_text(h, f"KEY = '{KEY}'\n"), "no code block"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_a_proposal_without_code(endpoint: Endpoint, fault: str) -> None:
    endpoint.answer, message = FAULTS[fault]
    (found,) = ask(endpoint)
    assert found.failure is not None
    assert re.search(message, found.failure)
    assert "\n" not in found.failure
    assert KEY not in found.failure + found.source


def test_a_busy_server_is_asked_again(endpoint: Endpoint) -> None:
    def answer(handler: BaseHTTPRequestHandler, number: int) -> None:
        if number < 4:
            send(handler, b"busy", 429)
        else:
            send_text(handler, GOOD)

    endpoint.answer = answer
    (found,) = ask(endpoint)
    assert found.source == GOOD
    assert len(endpoint.requests) == 4


def test_a_slow_server_ends_with_the_time(endpoint: Endpoint) -> None:
    """One slot gets no answer; the others do, and are not kept waiting for the reader."""
    release, has_answered = threading.Event(), threading.Event()

    def answer(handler: BaseHTTPRequestHandler, number: int) -> None:
        if number == 2:
            release.wait(600)
            has_answered.set()
        send_text(handler, GOOD.format(number))

    endpoint.answer = answer
    found = ask(endpoint, 3, timeout_s=2.0)
    assert not has_answered.is_set()
    release.set()
    assert sum(one.failure is None for one in found) == 2
    (late,) = [one for one in found if one.failure]
    assert "no answer within 2 s" in (late.failure or "")


def test_nobody_answers() -> None:
    generator = EndpointGenerator("http://127.0.0.1:9/v1", "m", None, per_round=1, rank_by="aes")
    ((_, found),) = generator.propose([Slot("r1c01", 1, 1)], [], set(), 1.0)
    assert "gave no answer" in (found.failure or "")


def test_a_search_with_a_bad_endpoint_goes_on(
    endpoint: Endpoint, standin: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each third request fails; the search ends with the others, and writes no key anywhere."""
    monkeypatch.setenv(KEY_VARIABLE, KEY)

    def answer(handler: BaseHTTPRequestHandler, number: int) -> None:
        if number % 3 == 0:
            send(handler, f"nonsense about {KEY}".encode())
        else:
            send_text(handler, GOOD.format(f"{number} {KEY}"))

    endpoint.answer = answer
    settings = SearchSettings(
        endpoint.url, model="writer", rounds=2, per_round=6, eval_problems=40, num_seeds=1
    )
    screener = standin.StandInScreener(tmp_path, settings)
    search = standin.run_search(tmp_path, screener, generator=make_generator(settings))
    assert len(search.candidates) == 12
    assert len(rank_candidates(search)) == 8
    assert set(endpoint.keys) == {f"Bearer {KEY}"}
    second = [one["messages"][0]["content"] for one in endpoint.requests[6:]]
    assert all("Rank 1" in text and "no chat completion" in text for text in second)
    for file in tmp_path.rglob("*"):
        if file.is_file():
            assert KEY.encode() not in file.read_bytes(), file
    blind = replace(settings, feedback="none")
    endpoint.requests.clear()
    standin.run_search(
        tmp_path / "blind",
        standin.StandInScreener(tmp_path / "blind", blind),
        generator=make_generator(blind),
    )
    assert not any("Rank 1" in one["messages"][0]["content"] for one in endpoint.requests)
