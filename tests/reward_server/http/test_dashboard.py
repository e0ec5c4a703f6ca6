"""/dashboard: it shows the rewards that the server gives, to those who have the key."""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from reward_server.errors import Overloaded
from reward_server.http import dashboard as dashboard_module
from reward_server.http.app import AppConfig, create_app
from reward_server.http.auth import ApiKeys
from reward_server.http.dashboard import DashboardPages
from reward_server.http.request_schema import RequestLimits
from reward_server.observe.watch import Watch
from reward_server.pipeline.batcher import Batcher
from reward_server.pipeline.engine import Engine
from reward_server.pipeline.service import RewardService, ServiceLimits
from reward_server.pipeline.waiting import IN_THREADS
from sar.prompts import DEFAULT_SYSTEM_PROMPT
from sar.tokenization import RolloutTokenizer
from sar.view.dashboard import Dashboard
from sar.view.live import LiveIndex

KEY = "dashboard-key-0123456789"
PATHS = ["", "/", "/app.js", "/style.css", *(f"/data/{n}" for n in ("status", "table", "alarms"))]
LIMITS = RequestLimits(max_samples=64, max_text_chars=10_000, max_body_bytes=2**20)


class Server:
    """A server in this process whose dashboard shows its rewards."""

    def __init__(self, tokenizer: Any, scorer: Any, graders: Any, *keys: str) -> None:
        self.live = LiveIndex(100)
        self.watch = Watch([self.live.add])
        self.service = RewardService(
            graders, sar_weight=0.2, limits=ServiceLimits(60, 2**31), watch=self.watch
        )
        rollout_tokenizer = RolloutTokenizer(tokenizer, system_prompt=DEFAULT_SYSTEM_PROMPT)
        self.service.engines.start(Engine(rollout_tokenizer, Batcher(scorer, 1000), version=7))
        config = AppConfig("m", 0.2, LIMITS, ApiKeys(keys))
        self.client = create_app(
            self.service, config, dashboard=Dashboard(self.live, lambda: [{"name": "a"}])
        ).test_client()

    def ask(self, name: str, **parameters: object) -> Any:
        return self.client.get(f"/dashboard/data/{name}", query_string=parameters).json


class Scorer:
    max_context_tokens = None

    def response_logprobs(self, sequences: Any) -> Any:
        return [np.full(len(one.response_ids), -1.0 / len(one), np.float32) for one in sequences]


@pytest.fixture
def make_server(bundled_tokenizer: Any, make_client: Any) -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []
    graders = make_client().service._parts.graders

    def make(*keys: str) -> Server:
        servers.append(Server(bundled_tokenizer, Scorer(), graders, *keys))
        return servers[-1]

    yield make
    for server in servers:
        server.watch.close()


def test_it_shows_the_rewards_of_requests(make_server: Any) -> None:
    server = make_server()
    responses = ["The answer is 5.", "No idea.", "It is 5, <b>surely</b>."]
    body = {
        "query": [f"Q: 2+3?\nA: {one}" for one in responses],
        "prompts": ["Q: 2+3?\nA:"] * 3,
        "labels": ["5"] * 3,
    }
    answer = server.client.post("/get_reward", json=body).json
    deadline_s = time.monotonic() + 60
    while server.ask("status")["num_train"] < 3:
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
    rows = server.ask("table")["rows"]
    assert [row["reward"] for row in reversed(rows)] == pytest.approx(answer["rewards"])
    assert [row["version"] for row in rows] == ["7"] * 3
    assert [row["snippet"].strip() for row in reversed(rows)] == responses
    shown = server.ask("rollout", id=2)
    assert shown["rollout"]["prompt"] + shown["rollout"]["response"] == body["query"][1]
    assert len(shown["siblings"]) == 3
    (mean,) = server.ask("series", by="rollouts")["means"]["reward"]
    assert mean == pytest.approx(sum(answer["rewards"]) / 3)
    assert server.ask("alarms") == {"alarms": [{"name": "a"}]}
    assert server.client.get("/healthz").json["decisions_not_watched"] == 0


@pytest.mark.parametrize("path", PATHS)
def test_with_a_key_set_nothing_is_shown_without_it(make_server: Any, path: str) -> None:
    server = make_server(KEY)
    answer = server.client.get(f"/dashboard{path}")
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"].startswith("Basic ")
    assert set(answer.json) == {"error"}
    credentials = base64.b64encode(f"me:{KEY}".encode()).decode()
    for header in (f"Bearer {KEY}", f"Basic {credentials}"):
        allowed = server.client.get(f"/dashboard{path}", headers={"Authorization": header})
        assert allowed.status_code == (302 if path == "/" else 200)
        assert KEY not in allowed.text
    wrong = base64.b64encode(f"me:{KEY}x".encode()).decode()
    headers = {"Authorization": f"Basic {wrong}"}
    assert server.client.get(f"/dashboard{path}", headers=headers).status_code == 401


@pytest.mark.parametrize("path", PATHS)
def test_pages_of_strangers_are_refused(make_server: Any, path: str) -> None:
    server = make_server()
    for headers in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}):
        assert server.client.get(f"/dashboard{path}", headers=headers).status_code == 403


def test_files_have_a_security_policy(make_server: Any) -> None:
    client = make_server().client
    for path in ("", "/app.js", "/data/status"):
        headers = client.get(f"/dashboard{path}").headers
        assert headers["Content-Security-Policy"].startswith("default-src 'self';")
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cache-Control"] == "no-store"
    assert client.get("/dashboard/").headers["Location"] == "../dashboard"
    assert b'href="dashboard"' in client.get("/").data


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/dashboard/data/rollout?id=1", 404),
        ("/dashboard/data/nothing", 404),
        ("/dashboard/index.html2", 404),
        ("/dashboard/../app.py", 404),
        ("/dashboard/data/table?kind=x", 400),
    ],
)
def test_what_it_refuses_has_the_error_object(make_server: Any, path: str, status: int) -> None:
    answer = make_server().client.get(path)
    assert answer.status_code == status
    assert set(answer.json["error"]) == {"type", "message", "field"}


def test_other_methods_are_refused(make_server: Any) -> None:
    client = make_server().client
    for path in PATHS:
        assert client.post(f"/dashboard{path}", json={}).status_code == 405


def test_without_a_dashboard_there_is_no_page(make_client: Any) -> None:
    client = make_client()
    assert client.get("/dashboard").status_code == 404
    assert b"dashboard" not in client.get("/").data


def test_too_many_questions_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    may_go = threading.Event()

    class Slow(LiveIndex):
        def describe(self) -> dict[str, Any]:
            may_go.wait(60)
            return super().describe()

    monkeypatch.setattr(dashboard_module, "_MAX_WAITING", 3)
    pages = DashboardPages(Dashboard(Slow(10)), IN_THREADS)
    asking = [threading.Thread(target=pages.answer, args=("status", {})) for _ in range(3)]
    for thread in asking:
        thread.start()
    deadline_s = time.monotonic() + 60
    while pages._num_waiting < 3:
        assert time.monotonic() < deadline_s
    with pytest.raises(Overloaded):
        pages.answer("status", {})
    may_go.set()
    for thread in asking:
        thread.join()
    assert b'"num_train":0' in pages.answer("status", {}).body
