"""A real HTTP server that fails: each fault is a recorded rejection, and the search goes on. If it
does not answer at all, the search ends, and the same command continues it."""

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

from eval.errors import UserError
from recipes.reward_search import __main__ as command
from recipes.reward_search.candidates import Checked, Proposal
from recipes.reward_search.generators import endpoint as endpoint_module
from recipes.reward_search.generators.base import GeneratorError, Slot
from recipes.reward_search.generators.choose import make_generator
from recipes.reward_search.generators.endpoint import KEY_VARIABLE, EndpointGenerator
from recipes.reward_search.generators.grammar import GrammarGenerator
from recipes.reward_search.loop import rank_candidates
from recipes.reward_search.settings import SearchSettings
from recipes.reward_search.state import load_search
from sar.terms.remote import client

DEAD_URL = "http://127.0.0.1:9/v1"
KEY = "sk-a-secret-that-nobody-may-see"
GOOD = "def reward(sample):\n    return float(sample['correct'])  # {}\n"

Answer = Callable[[BaseHTTPRequestHandler, int], None]


class Endpoint:
    """A server on a free port. `answer` writes each response; it gets the request's number."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.answer: Answer = lambda handler, number: send_text(handler, GOOD.format(number))
        self.status = 200
        self.listed = b"{}"
        """Status and body of the list of models."""
        self.checks: list[tuple[str, str | None]] = []
        """Path and key of each question for it."""
        lock = threading.Lock()
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                endpoint.checks.append((self.path, self.headers.get("authorization")))
                send(self, endpoint.listed, endpoint.status)

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
    # vLLM refuses a limit that does not fit into the model's context beside the prompt.
    assert not any("max_tokens" in one for one in endpoint.requests)
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


LOST = {"a dropped connection": _drop, "half an answer": _send_half}


@pytest.mark.parametrize("fault", LOST)
@pytest.mark.parametrize("is_first", [True, False])
def test_one_lost_connection_is_a_proposal_without_code(
    endpoint: Endpoint, fault: str, is_first: bool
) -> None:
    """Whether it fails before or after another slot has its answer."""
    num_tries = client.MAX_RETRIES + 1
    is_over = {True: threading.Event(), False: threading.Event()}  # by whether the slot is lost

    def answer(handler: BaseHTTPRequestHandler, number: int) -> None:
        texts = [one["messages"][0]["content"] for one in endpoint.requests]
        is_lost = "Write candidate 1 of" in texts[number - 1]
        if is_lost is not is_first:
            is_over[is_first].wait(600)
        if is_lost:
            if sum("Write candidate 1 of" in one for one in texts) == num_tries:
                is_over[True].set()
            LOST[fault](handler, number)
        else:
            send_text(handler, GOOD)
            is_over[False].set()

    endpoint.answer = answer
    lost, good = ask(endpoint, 2)
    assert good.source == GOOD
    assert "gave no answer" in (lost.failure or "")


@pytest.mark.parametrize("fault", LOST)
def test_nothing_is_proposed_if_no_request_is_answered(endpoint: Endpoint, fault: str) -> None:
    endpoint.answer = LOST[fault]
    with pytest.raises(GeneratorError, match=r"none of 3 requests got an answer.*continues") as got:
        ask(endpoint, 3)
    assert "\n" not in str(got.value)
    assert KEY not in str(got.value)


def wait(release: threading.Event) -> None:
    release.wait(600)


def test_the_end_of_the_time_is_no_dead_endpoint(endpoint: Endpoint) -> None:
    release = threading.Event()
    endpoint.answer = lambda handler, number: wait(release)
    (found,) = ask(endpoint, timeout_s=1.0)
    release.set()
    assert "no answer within 1 s" in (found.failure or "")


def test_an_endpoint_that_never_answers_is_dead(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The search has time left; the requests have not."""
    monkeypatch.setattr(endpoint_module, "_TIMEOUT_S", 1.0)
    release = threading.Event()
    endpoint.answer = lambda handler, number: wait(release)
    with pytest.raises(GeneratorError, match="no answer within 1 s"):
        ask(endpoint, 2, timeout_s=1e6)
    release.set()


@pytest.mark.parametrize("status", [200, 404, 500])
def test_any_answer_shows_that_the_endpoint_lives(endpoint: Endpoint, status: int) -> None:
    endpoint.status = status
    make_endpoint_generator(f"{endpoint.url}/chat/completions").check()
    assert endpoint.checks == [("/v1/models", f"Bearer {KEY}")]
    assert not endpoint.requests


def test_a_model_that_the_endpoint_does_not_list_is_said(
    endpoint: Endpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    for names, warning in (
        (["other", "second"], f"--model 'writer': {endpoint.url} lists 'other, second'\n"),
        (["other", "writer"], ""),
        ([], ""),
    ):
        endpoint.listed = json.dumps({"data": [{"id": name} for name in names]}).encode()
        make_endpoint_generator(endpoint.url).check()
        assert capsys.readouterr().err == (warning and f"warning: {warning}")


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_is_named_before_the_search(endpoint: Endpoint, status: int) -> None:
    endpoint.status = status
    with pytest.raises(UserError, match=f"status {status}; set {KEY_VARIABLE}") as caught:
        make_endpoint_generator(endpoint.url).check()
    assert KEY not in str(caught.value)


def make_endpoint_generator(url: str) -> EndpointGenerator:
    return EndpointGenerator(url, "writer", KEY, per_round=1, rank_by="aes")


def test_a_search_does_not_begin_with_a_dead_endpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    argv = ["run", "--generator", DEAD_URL, "--model", "m", "--output", str(output)]
    assert command.main(argv) == 2
    error = capsys.readouterr().err
    assert re.search(f"--generator {DEAD_URL}: no answer .*; start the server first\n$", error)
    assert error.count("\n") == 1
    assert not output.exists()


def test_a_search_whose_endpoint_dies_goes_on_later(
    endpoint: Endpoint, standin: Any, tmp_path: Path
) -> None:
    settings = SearchSettings(
        endpoint.url, model="writer", rounds=2, per_round=3, eval_problems=40, num_seeds=1
    )
    alive = endpoint.answer
    endpoint.answer = lambda handler, number: (alive if number <= 3 else _drop)(handler, number)
    with pytest.raises(GeneratorError):
        standin.run_search(tmp_path, standin.StandInScreener(tmp_path, settings))
    search = load_search(tmp_path)
    assert [(one.round, one.status) for one in search.candidates] == 3 * [(1, "screened")]
    assert not search.is_finished
    endpoint.answer = alive
    search = standin.run_search(tmp_path, standin.StandInScreener(tmp_path, settings))
    assert [one.status for one in search.candidates] == 6 * ["screened"]


def test_a_dead_endpoint_is_asked_only_for_what_is_missing(
    standin: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A search without a candidate left to ask for ends, and one with too few stops at once."""
    settings = SearchSettings(DEAD_URL, model="m", rounds=1, per_round=2, eval_problems=40)
    standin.run_search(
        tmp_path,
        standin.StandInScreener(tmp_path, settings),
        generator=GrammarGenerator(0),
        validate=lambda source: Checked("not this one"),
    )
    argv = ["run", "--generator", DEAD_URL, "--model", "m", "--rounds", "1", "--per-round", "2"]
    argv += ["--eval-problems", "40", "--output", str(tmp_path)]
    assert command.main(argv) == 0
    capsys.readouterr()
    file = tmp_path / "search.json"
    values = json.loads(file.read_text())
    del values["candidates"][1]
    file.write_text(json.dumps(values))
    assert command.main(argv) == 2
    assert "start the server first" in capsys.readouterr().err
    assert command.main([*argv, "--budget-minutes", "0.1"]) == 0  # no time to ask for more


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
