"""The preflight with servers that are not ready, no reward servers, or wrong in their rewards."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from recipes.preflight_policy import RIGHT

if TYPE_CHECKING:
    from tests.recipes.conftest import Preflight


HEALTH = {
    "model": "demo", "reward": "correctness + 0.2 sar", "sar_weight": 0.2, "policy_version": 3,
}  # fmt: skip


class Canned:
    """A server with canned answers: for each path a status and a body."""

    def __init__(self) -> None:
        logs = {"sar": [0.5], "template_mismatch": [0], "response_tokens": [1]}
        self.answers: dict[str, tuple[int, Any]] = {
            "/readyz": (200, {"status": "ready"}),
            "/healthz": (200, HEALTH),
            "/get_reward": (200, {"rewards": [1.1], "scores": [1], "extra_logs": logs}),
        }
        canned = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                status, body = canned.answers[self.path]
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def do_POST(self) -> None:
                self.do_GET()

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/get_reward"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()


@pytest.fixture
def canned() -> Iterator[Canned]:
    server = Canned()
    yield server
    server.http.shutdown()
    server.http.server_close()


@pytest.mark.parametrize(
    ("path", "answer", "part"),
    [
        ("/readyz", (503, {"status": "loading"}), "not ready (loading); wait until /readyz"),
        ("/readyz", (404, {}), "not ready (HTTP 404)"),
        ("/readyz", (200, b"<html>"), "answers HTTP 200 without JSON: another server?"),
        ("/healthz", (200, {"sar_weight": 0.2}), "/healthz has no 'model'"),
        ("/get_reward", (503, {"error": {"message": "too much"}}), "HTTP 503: too much"),
        ("/get_reward", (500, {}), "no reward, HTTP 500: no message"),
        ("/get_reward", (200, {"rewards": []}), "not that of a reward server"),
        (
            "/get_reward",
            (200, {"rewards": [0], "scores": [0], "extra_logs": {}}),
            "a right answer has the score 0",
        ),
    ],
)
def test_servers_with_something_wrong(
    preflight: Preflight, canned: Canned, path: str, answer: tuple[int, Any], part: str
) -> None:
    canned.answers[path] = answer
    preflight(canned.url).assert_one_line(canned.url, part)


def test_weights_of_a_later_step_than_the_runs(preflight: Preflight, canned: Canned) -> None:
    """As of a server that followed a run whose OUTPUT was deleted."""
    options = {"server_model": "demo"}
    later = "it scores with weights of step 3, and the run starts from step 2; restart it"
    preflight(canned.url, step="2", **options).assert_one_line(canned.url, later)
    for step in ("3", "4"):
        assert "weights of step" not in preflight(canned.url, step=step, **options).said


def test_servers_with_weights_of_different_steps(
    preflight: Preflight, canned: Canned, server: Any
) -> None:
    url = f"{server.url}/get_reward"
    said = f"{url} scores with weights of step 0, and {canned.url} with those of step 3; wait"
    preflight(url, canned.url, server_model="elsewhere/demo").assert_one_line(said)


@pytest.mark.parametrize(
    ("reward", "more_tokens", "mismatch", "part"),
    [
        (1.1, 0, 0, "a wrong answer has the score 1"),  # the first rollout passes
        (1.0, 0, 0, "the reward is 1, and correctness + 0.2 x SAR is 1.1"),
        (1.1, 1, 0, "there: it has another tokenizer"),
        (1.1, 0, 1, "another system prompt or chat template"),
    ],
)
def test_rewards_with_something_wrong(
    preflight: Preflight, canned: Canned, bundled_tokenizer: Any,
    reward: float, more_tokens: int, mismatch: int, part: str,
) -> None:  # fmt: skip
    tokens = len(bundled_tokenizer.encode(RIGHT)) + 1 + more_tokens
    logs = {"sar": [0.5], "template_mismatch": [mismatch], "response_tokens": [tokens]}
    answer = {"rewards": [reward], "scores": [1], "extra_logs": logs}
    canned.answers["/get_reward"] = (200, answer)
    preflight(canned.url).assert_one_line(canned.url, part)


@pytest.mark.parametrize(
    ("reward", "terms", "part"),
    [
        (1.1, {"term_correctness": [1], "term_sar": [0.5]}, "a wrong answer has the score 1"),
        (1.2, {"term_correctness": [1], "term_sar": [0.5]}, "the reward is 1.2, and "),
        (1.1, {"term_correctness": [1]}, "it has no term 'sar'; start it with --reward "),
        (1.1, {"term_correctness": [1], "term_sar": [0.5], "term_tone": [0]},
         "the file has no term 'tone'; start it with --reward "),
    ],
)  # fmt: skip
def test_composed_rewards_with_something_wrong(
    preflight: Preflight, canned: Canned, bundled_tokenizer: Any, tmp_path: Path,
    reward: float, terms: dict[str, list[float]], part: str,
) -> None:  # fmt: skip
    file = tmp_path / "reward.toml"
    file.write_text('[[terms]]\nterm = "correctness"\n[[terms]]\nterm = "sar"\nweight = 0.2\n')
    tokens = len(bundled_tokenizer.encode(RIGHT)) + 1
    logs = {"sar": [0.5], "template_mismatch": [0], "response_tokens": [tokens], **terms}
    answer = {"rewards": [reward], "scores": [1], "extra_logs": logs}
    canned.answers["/get_reward"] = (200, answer)
    preflight(canned.url, reward=str(file)).assert_one_line(canned.url, part)
