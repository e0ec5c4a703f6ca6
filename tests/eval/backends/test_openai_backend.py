"""The openai backend: against `transformers serve` with the bundled model, a server that no one
here wrote; and against one that fails on demand.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from eval.backends.base import Completion, Request, Sampling
from eval.backends.openai_backend import OpenAIBackend, parse_completion
from eval.errors import UserError
from eval.records import iter_records
from eval.run.command import main

pytest.importorskip("openai")

GREEDY = Sampling(0.0, 1.0, 60)
START_S = 120.0


def _request(key: int = 0, seed: int | None = None) -> Request:
    return Request(key, "Be brief.", f"question {key}", f"prompt {key}", seed)


# ---- transformers serve


@pytest.fixture(scope="module")
def served(bundled_model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The base URL of `transformers serve` on a free port."""
    from transformers.utils.import_utils import is_serve_available

    command = Path(sys.executable).parent / "transformers"
    if not is_serve_available() or not command.exists():
        pytest.skip("transformers[serving] is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("served") / "log"
    environ = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    arguments = ["serve", str(bundled_model_path), "--host", "127.0.0.1", "--port", str(port)]
    with log.open("wb") as file:
        process = subprocess.Popen(
            [str(command), *arguments, "--device", "cpu"], stdout=file, stderr=file, env=environ
        )
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_until_up(url, process, log)
        yield f"{url}/v1"
    finally:
        process.kill()
        process.wait()


def _wait_until_up(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5):
                return
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.2)
    raise AssertionError(f"the server did not start:\n{log.read_text()[-3000:]}")


def _run(output: Path, *flags: str) -> list[Any]:
    shared = ["--benchmarks", "demo", "--limit", "6", "--max-tokens", "60", *flags]
    assert main(["--output", str(output), *shared]) == 0
    return sorted(iter_records(output / "demo.jsonl"), key=lambda r: r.key)


@pytest.mark.slow
def test_transformers_serve_gives_what_the_transformers_backend_gives(
    served: str, tmp_path: Path, bundled_model_path: Path
) -> None:
    local = _run(tmp_path / "local")
    flags = ["--backend", "openai", "--base-url", served, "--model", str(bundled_model_path)]
    by_chat = _run(tmp_path / "chat", *flags, "--concurrency", "2")
    by_text = _run(tmp_path / "text", *flags, "--endpoint", "completions")
    for record, chat, text in zip(local, by_chat, by_text, strict=True):
        assert text == record
        for name in ("response", "correct", "num_tokens", "finish_reason", "answer", "label"):
            assert getattr(chat, name) == getattr(record, name)
        messages = json.loads(chat.prompt)
        assert [m["role"] for m in messages] == ["system", "user"]
        assert messages[1]["content"].startswith(record.question)
    assert sum(r.correct for r in local) >= 4
    runs = [json.loads((tmp_path / n / "run.json").read_text()) for n in ("local", "chat", "text")]
    assert runs[0]["prompts_fingerprint"] == runs[2]["prompts_fingerprint"]
    assert runs[0]["prompts_fingerprint"] != runs[1]["prompts_fingerprint"]
    assert runs[0]["chat_template"] == runs[2]["chat_template"]
    assert runs[1]["chat_template"] == {"text": None, "sha256": None}


@pytest.mark.slow
def test_transformers_serve_cuts_off(served: str, bundled_model_path: Path) -> None:
    backend = OpenAIBackend(served, str(bundled_model_path), sampling=Sampling(0.0, 1.0, 3))
    request = Request(0, "", "Ann has 3 pens. She buys 4 more. How many pens?", "", None)
    (completion,) = backend.generate([request])
    backend.close()
    assert (completion.num_tokens, completion.finish_reason) == (3, "length")


@pytest.mark.slow
def test_transformers_serve_refuses_another_model(served: str) -> None:
    backend = OpenAIBackend(served, "another-model", sampling=GREEDY, max_retries=0)
    (completion,) = backend.generate([_request()])
    backend.close()
    assert completion.response is None
    assert completion.error


# ---- a server that fails on demand


class Server:
    """Answers chat requests with what `answer` says: a status and a body."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.answer: Callable[[dict[str, Any]], tuple[int, Any]] = lambda _: (200, chat("fine"))
        self.models_status = 200
        self.most_in_flight = 0
        self._in_flight = 0
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._send(outer.models_status, {"object": "list", "data": []})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with outer._lock:
                    outer.requests.append(body)
                    outer.keys.append(self.headers["Authorization"])
                    outer._in_flight += 1
                    outer.most_in_flight = max(outer.most_in_flight, outer._in_flight)
                status, answer = outer.answer(body)
                with outer._lock:
                    outer._in_flight -= 1
                self._send(status, answer)

            def _send(self, status: int, answer: Any) -> None:
                data = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


def chat(content: str | None, finish: str = "stop", **message: Any) -> dict[str, Any]:
    return {
        "id": "x", "object": "chat.completion", "created": 0, "model": "m",
        "choices": [
            {
                "index": 0,
                "finish_reason": finish,
                "message": {"role": "assistant", "content": content, **message},
            }
        ],
        "usage": {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8},
    }  # fmt: skip


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.server.shutdown()
    server.server.server_close()


def _completions(server: Server, requests: list[Request], **settings: Any) -> list[Completion]:
    settings = {"sampling": GREEDY, "max_retries": 2, "concurrency": 4, **settings}
    backend = OpenAIBackend(server.url, "m", **settings)
    try:
        return list(backend.generate(requests))
    finally:
        backend.close()


def test_requests_have_the_settings(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    (completion,) = _completions(server, [_request()])
    assert completion == Completion(_request(), "fine", 5, "stop")
    assert server.keys == ["Bearer secret"]
    assert server.requests == [
        {
            "model": "m", "temperature": 0.0, "max_tokens": 60,
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "question 0"},
            ],
        }
    ]  # fmt: skip
    _completions(server, [_request(1, 77)], sampling=Sampling(0.7, 0.9, 60), enable_thinking=False)
    asked = server.requests[1]
    assert (asked["seed"], asked["top_p"], asked["temperature"]) == (77, 0.9, 0.7)
    assert asked["chat_template_kwargs"] == {"enable_thinking": False}


def test_temporary_failures_are_retried(server: Server) -> None:
    statuses = [500, 429, 200]
    server.answer = lambda _: (statuses.pop(0), chat("fine"))
    started = time.monotonic()
    (completion,) = _completions(server, [_request()])
    assert completion.response == "fine"
    assert len(server.requests) == 3
    assert time.monotonic() - started > 0.5  # it waited before it tried again


def test_lasting_failures_are_errors(server: Server) -> None:
    server.answer = lambda body: (
        (503, {"error": {"message": "overloaded"}})
        if body["messages"][1]["content"] == "question 1"
        else (200, chat("fine"))
    )
    done = _completions(server, [_request(i) for i in range(4)], max_retries=1)
    by_key = {c.request.key: c for c in done}
    assert len(by_key) == 4
    assert by_key[1].response is None
    assert "InternalServerError" in (by_key[1].error or "")
    assert "overloaded" in (by_key[1].error or "")
    assert [by_key[i].response for i in (0, 2, 3)] == ["fine"] * 3
    assert len(server.requests) == 5


def test_invalid_requests_are_not_retried(server: Server) -> None:
    server.answer = lambda _: (400, {"error": {"message": "the prompt is too long"}})
    (completion,) = _completions(server, [_request()])
    assert "the prompt is too long" in (completion.error or "")
    assert len(server.requests) == 1


def wait_and_say(seconds: float, text: str) -> tuple[int, Any]:
    time.sleep(seconds)
    return 200, chat(text)


def test_a_server_that_times_out_is_an_error(server: Server) -> None:
    server.answer = lambda _: wait_and_say(1.0, "late")
    (completion,) = _completions(server, [_request()], timeout_s=0.2, max_retries=0)
    assert "Timeout" in (completion.error or "")


def test_requests_in_flight_are_bounded_and_taken_a_few_ahead(server: Server) -> None:
    three = threading.Barrier(3, timeout=600)  # answers only when three requests are there
    server.answer = lambda _: (three.wait(), (200, chat("fine")))[1]
    taken: list[int] = []

    def requests() -> Iterator[Request]:
        for i in range(60):
            taken.append(i)
            yield _request(i)

    backend = OpenAIBackend(server.url, "m", sampling=GREEDY, concurrency=3)
    keys, ahead = [], []
    for completion in backend.generate(requests()):
        keys.append(completion.request.key)
        ahead.append(len(taken) - len(keys))
    backend.close()
    assert sorted(keys) == list(range(60))
    assert server.most_in_flight == 3
    assert max(ahead) <= 12


def test_no_server() -> None:
    with pytest.raises(UserError, match=r"--base-url http://127.0.0.1:1/v1: no server answers"):
        OpenAIBackend("http://127.0.0.1:1/v1", "m", sampling=GREEDY)


def test_a_rejected_key(server: Server) -> None:
    server.models_status = 401
    with pytest.raises(UserError, match="rejects the key in OPENAI_API_KEY"):
        _completions(server, [_request()])


def test_a_server_without_a_list_of_models(server: Server) -> None:
    server.models_status = 404
    assert _completions(server, [_request()])[0].response == "fine"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (chat("a", "length"), ("a", "length", None)),
        (chat("", "stop"), ("", "stop", None)),
        (chat("2", reasoning_content="so"), ("<think>so</think>2", "stop", None)),
        (chat("2", reasoning="so"), ("<think>so</think>2", "stop", None)),
        (chat(None, "length", reasoning="so"), ("<think>so", "length", None)),
        (chat(None), (None, None, "the server's answer has no text")),
        (chat("a", "content_filter"), (None, None, "the server finished with 'content_filter'")),
        ({**chat("a"), "choices": []}, (None, None, "the server's answer has no choice")),
        ({"detail": "what?"}, (None, None, "the server's answer has no choice")),
    ],
)
def test_answers(server: Server, answer: Any, expected: tuple[str | None, ...]) -> None:
    server.answer = lambda _: (200, answer)
    (completion,) = _completions(server, [_request()])
    assert (completion.response, completion.finish_reason, completion.error) == expected


def test_a_server_that_does_not_report_usage() -> None:
    choice = SimpleNamespace(text="a", finish_reason="stop")
    completion = parse_completion(_request(), SimpleNamespace(choices=[choice], usage=None))
    assert (completion.response, completion.num_tokens) == ("a", None)
