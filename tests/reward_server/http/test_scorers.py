"""`POST /scorers`, and what the health pages and metrics show of several scorers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from reward_server.http.app import AppConfig, create_app
from reward_server.http.auth import ApiKeys
from reward_server.http.request_schema import RequestLimits
from reward_server.observe.status import ScorerStatus
from reward_server.pipeline.batcher import Batcher
from reward_server.pipeline.engine import Engine
from reward_server.pipeline.service import RewardService, ServiceLimits
from sar.prompts import DEFAULT_SYSTEM_PROMPT
from sar.tokenization import RolloutTokenizer

KEY = "a-key-of-the-tests"
LIMITS = RequestLimits(max_samples=64, max_text_chars=10_000, max_body_bytes=2**20)
BODY = {"query": ["Q: 2+3?\nA: 5"], "prompts": ["Q: 2+3?\nA:"], "labels": ["5"]}


class Scorers:
    """Scorers on Ray, as far as the routes see them."""

    num_not_loaded = 3

    def __init__(self) -> None:
        self.num = 2

    def set_num(self, num: int) -> int:
        self.num = num
        return 2

    def describe(self, version: int) -> list[ScorerStatus]:
        up = ScorerStatus(id=0, node="10.0.0.1", state="up", busy_share=0.5, tokens=70,
                          policy_version=version, restarts=1)  # fmt: skip
        new = ScorerStatus(id=7, node="", state="starting", busy_share=0, tokens=0,
                           policy_version=0, restarts=0)  # fmt: skip
        return [up, new]


@pytest.fixture
def make_client(bundled_tokenizer: Any) -> Callable[..., Any]:
    """A server without a scorer that is up."""

    def make(
        *, keys: tuple[str, ...] = (KEY,), has_scorers: bool = True, timeout_s: float = 60.0
    ) -> Any:
        scorers: Any = Scorers() if has_scorers else None
        graders: Any = _Graders()
        service = RewardService(
            graders, sar_weight=0.2, limits=ServiceLimits(timeout_s, 2**31), scorers=scorers
        )
        tokenizer = RolloutTokenizer(bundled_tokenizer, system_prompt=DEFAULT_SYSTEM_PROMPT)
        service.engines.start(Engine(tokenizer, Batcher(None, 1000), version=12))
        config = AppConfig("m", 0.2, LIMITS, ApiKeys(keys))
        client: Any = create_app(service, config, scorers=scorers).test_client()
        client.scorers = scorers
        return client

    return make


class _Graders:
    num_restarts = 0

    def submit(self, *_: Any) -> Any:
        from concurrent.futures import Future

        return Future()


def post(client: Any, num: Any, key: str = KEY) -> Any:
    return client.post("/scorers", json={"num": num}, headers={"Authorization": f"Bearer {key}"})


def test_the_number_of_scorers_is_set(make_client: Callable[..., Any]) -> None:
    client = make_client()
    answer = post(client, 6)
    assert (answer.status_code, answer.json) == (200, {"num": 6, "up": 2})
    assert client.scorers.num == 6


@pytest.mark.parametrize("num", [0, -1, 4097, 1.5, "6", True, None, [], 10**30])
def test_a_wrong_number_is_refused(num: Any, make_client: Callable[..., Any]) -> None:
    client = make_client()
    answer = post(client, num)
    assert answer.status_code == 400
    assert answer.json["error"]["field"] == "num"
    assert client.scorers.num == 2


def test_a_key_is_needed(make_client: Callable[..., Any]) -> None:
    assert post(make_client(), 6, "another-key").status_code == 401
    without_keys = post(make_client(keys=()), 6)
    assert without_keys.status_code == 403
    assert "--api-key-file" in without_keys.json["error"]["message"]


def test_a_server_without_ray_says_how_to_start_it(make_client: Callable[..., Any]) -> None:
    answer = post(make_client(has_scorers=False), 6)
    assert answer.status_code == 403
    assert "--scorers 2 or more" in answer.json["error"]["message"]


def test_health_and_metrics_show_each_scorer(make_client: Callable[..., Any]) -> None:
    client = make_client()
    health = client.get("/healthz").json
    assert health["scorer_load_failures"] == 3
    assert [scorer["state"] for scorer in health["scorers"]] == ["up", "starting"]
    found = {
        (sample.name.removeprefix("reward_server_"), sample.labels.get("scorer")): sample.value
        for family in text_string_to_metric_families(client.get("/metrics").text)
        for sample in family.samples
    }
    expected = {
        "scorer_up": (1, 0),
        "scorer_busy_share": (0.5, 0),
        "scorer_tokens_total": (70, 0),
        "scorer_restarts_total": (1, 0),
        "scorer_policy_version": (12, 0),
    }
    for name, values in expected.items():
        assert (found[name, "0"], found[name, "7"]) == values


def test_without_several_scorers_there_are_no_such_series(make_client: Callable[..., Any]) -> None:
    client = make_client(has_scorers=False)
    assert client.get("/healthz").json["scorers"] == []
    assert "reward_server_scorer_up" not in client.get("/metrics").text


def test_requests_wait_for_a_scorer_and_then_get_503(make_client: Callable[..., Any]) -> None:
    client = make_client(keys=(), timeout_s=0.2)
    ready = client.get("/readyz")
    assert (ready.status_code, ready.json) == (503, {"status": "no scorer is up"})
    answer = client.post("/get_reward", json=BODY)
    assert answer.status_code == 503
    assert answer.json["error"]["type"] == "not_ready"
    assert answer.json["error"]["message"] == "no scorer is up"
