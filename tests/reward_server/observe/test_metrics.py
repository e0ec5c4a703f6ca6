"""/metrics: all that is promised is there, at every moment, and agrees with what was sent."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from reward_server.http.app import AppConfig, create_app
from reward_server.http.request_schema import RequestLimits
from reward_server.observe.metrics import Metrics
from reward_server.pipeline.batcher import Batcher
from reward_server.pipeline.engine import Engine
from reward_server.pipeline.service import RewardService, ServiceLimits
from sar.grading.label import parse_label
from sar.grading.processes.pool import GraderPool
from sar.grading.verdict import Reason, Verdict
from sar.prompts import DEFAULT_SYSTEM_PROMPT
from sar.tokenization import RolloutTokenizer

if TYPE_CHECKING:
    from tests.conftest import TestedServer

PROMPT = "Q: 2+3?\nA:"
PROMISED = {
    "requests",
    "request_seconds",
    "queued_rollouts",
    "queued_tokens",
    "oldest_queued_s",
    "in_flight_rollouts",
    "batch_sequences",
    "batch_tokens",
    "stage_seconds",
    "verdicts",
    "grader_restarts",
    "reward",
    "sar",
    "response_tokens",
    "unreadable_labels",
    "policy_version",
    "ready",
}


class Graders:
    """A grader pool that finds everything right, at once."""

    num_restarts = 0

    def submit(self, response: str, label: Any) -> Future[Verdict]:
        future: Future[Verdict] = Future()
        future.set_result(Verdict(Reason.CORRECT, "5"))
        return future


class Scorer:
    """Gives every token -1 nat, once it may, unless it fails."""

    max_context_tokens = None

    def __init__(self) -> None:
        self.may_go = threading.Event()
        self.may_go.set()
        self.num_entered = 0
        self.is_broken = False

    def response_logprobs(self, sequences: Sequence[Any]) -> list[Any]:
        self.num_entered += 1
        assert self.may_go.wait(30)
        if self.is_broken:
            raise RuntimeError("broken")
        return [np.full(len(s.response_ids), -1.0, np.float32) for s in sequences]


class InOneProcess:
    """The application, and what its /metrics say."""

    def __init__(self, tokenizer: Any, graders: Any, metrics: Metrics) -> None:
        self.scorer = Scorer()
        self._tokenizer = tokenizer
        self._metrics = metrics
        self.service = RewardService(
            graders, sar_weight=0.2, limits=ServiceLimits(60, 2**31), metrics=metrics
        )
        self.app = create_app(
            self.service, AppConfig("m", 0.2, RequestLimits(8192, 1_000_000, 2**28))
        )
        self.batcher: Batcher | None = None

    def load(self) -> None:
        tokenizer = RolloutTokenizer(self._tokenizer, system_prompt=DEFAULT_SYSTEM_PROMPT)
        self.batcher = Batcher(self.scorer, 1000, self._metrics)
        self.service.engines.start(Engine(tokenizer, self.batcher))

    def post(self, *rollouts: tuple[str, Any]) -> Any:
        """The answer to responses with their labels."""
        body = {
            "query": [PROMPT + response for response, _ in rollouts],
            "prompts": [PROMPT] * len(rollouts),
            "labels": [label for _, label in rollouts],
        }
        return self.app.test_client().post("/get_reward", json=body)

    def get(self, path: str) -> Any:
        return self.app.test_client().get(path)

    def metrics(self) -> dict[tuple[Any, ...], float]:
        """Each sample's value by its name, without the prefix, and its labels."""
        answer = self.get("/metrics")
        assert answer.status_code == 200
        assert answer.content_type.startswith("text/plain; version=0.0.4")
        return {
            (sample.name.removeprefix("reward_server_"), *sample.labels.values()): sample.value
            for family in text_string_to_metric_families(answer.text)
            for sample in family.samples
        }

    def close(self) -> None:
        self.scorer.may_go.set()
        if self.batcher:
            self.batcher.close()


@pytest.fixture(scope="module")
def graders() -> Iterator[tuple[GraderPool, Metrics]]:
    metrics = Metrics()
    pool = GraderPool(1, 5.0, on_graded=lambda seconds: metrics.add_stage("grade", seconds))
    yield pool, metrics
    pool.close()


@pytest.fixture
def one(bundled_tokenizer: Any) -> Iterator[InOneProcess]:
    made = InOneProcess(bundled_tokenizer, Graders(), Metrics())
    yield made
    made.close()


def _wait_until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_all_that_is_promised_agrees_with_what_was_sent(
    bundled_tokenizer: Any, graders: tuple[GraderPool, Metrics]
) -> None:
    pool, metrics = graders
    one = InOneProcess(bundled_tokenizer, pool, metrics)
    one.load()
    sent = one.post((" 5", "5"), (" 6", "5"), (" I do not know.", "5"), (" 5", r"\frac{1}{"))
    assert sent.json["scores"] == [1.0, 0.0, 0.0, 0.0]
    assert one.post((" Answer: B", {"answer": "B", "grader": "choice"})).json["scores"] == [1.0]
    assert one.post(("", "5")).status_code == 200
    assert one.post((" 5", 5)).status_code == 400
    assert one.get("/none").status_code == 404
    assert one.get("/readyz").status_code == 200
    seen = one.metrics()
    one.close()
    text = metrics.render().decode()
    families = {f.name.removeprefix("reward_server_") for f in text_string_to_metric_families(text)}
    assert families >= PROMISED

    assert (seen["requests_total", "200"], seen["requests_total", "400"]) == (4, 1)
    assert seen["requests_total", "404"] == 1
    assert seen["request_seconds_count",] == 6
    verdicts = {key[1:]: value for key, value in seen.items() if key[0] == "verdicts_total"}
    assert verdicts == {
        ("math", "correct"): 1,
        ("math", "wrong"): 2,
        ("math", "no_answer"): 2,
        ("choice", "correct"): 1,
    }
    for name in ("reward", "sar", "response_tokens"):
        assert seen[f"{name}_count",] == 6
    # A uniform scorer gives no SAR, so that rewards are correctness.
    assert (seen["reward_bucket", "0.0"], seen["reward_bucket", "1.0"]) == (4, 6)
    assert (seen["sar_bucket", "-0.1"], seen["sar_bucket", "0.0"]) == (0, 6)
    assert seen["response_tokens_sum",] == sum(
        len(bundled_tokenizer.encode(text, add_special_tokens=False))
        for text in (" 5", " 6", " I do not know.", " 5", " Answer: B")
    )
    assert seen["unreadable_labels_total",] == 1
    assert seen["rollouts_total",] == 6
    stages = {key[1]: value for key, value in seen.items() if key[0] == "stage_seconds_count"}
    # An empty response is not scored.
    assert stages["tokenise"] == 6
    assert stages["reply"] == 3
    assert stages["grade"] >= 5
    assert stages["score"] == seen["batch_sequences_count",] == seen["batch_tokens_count",]
    assert seen["batch_sequences_sum",] == seen["scored_sequences_total",] == 10
    assert seen["batch_tokens_sum",] == seen["scored_tokens_total",] > 10
    assert (seen["grader_restarts_total",], seen["policy_version",]) == (0, 0)


def test_a_grader_that_is_killed_is_counted(
    bundled_tokenizer: Any, graders: tuple[GraderPool, Metrics]
) -> None:
    pool, _ = graders
    one = InOneProcess(bundled_tokenizer, pool, Metrics())
    before = pool.num_restarts
    process = pool._slots[0]._process
    assert process is not None
    process.kill()
    while pool.num_restarts == before:  # until its thread has work, and sees that it is gone
        assert pool.grade("Answer: 5", parse_label("5")).correctness == 1.0
    assert one.metrics()["grader_restarts_total",] == before + 1
    assert one.get("/healthz").json["grader_restarts"] == before + 1


def test_how_the_model_is_scored_is_seen(server: TestedServer) -> None:
    _, health = server.request("/healthz")
    assert health["scoring_path"] == "packed"
    assert health["scoring_path_reason"] == "varlen: only on a GPU"
    _, text = server.request("/metrics")
    wanted = 'scoring_path{path="packed",reason_not_faster="varlen: only on a GPU"} 1.0'
    assert f"reward_server_{wanted}" in text.splitlines()
    assert "scoring path packed (varlen: only on a GPU)" in server.log.read_text()


def test_what_waits_is_seen_while_it_waits(one: InOneProcess) -> None:
    one.load()
    one.scorer.may_go.clear()
    with ThreadPoolExecutor(4) as clients:
        sent = [clients.submit(one.post, (" 5", "5"))]
        _wait_until(lambda: one.scorer.num_entered == 1)
        sent += [clients.submit(one.post, (" 5 5", "5")) for _ in range(3)]
        _wait_until(lambda: one.metrics()["queued_rollouts",] == 3)
        first = one.metrics()
        time.sleep(0.05)
        second = one.metrics()
        one.scorer.may_go.set()
        assert [answer.result().status_code for answer in sent] == [200] * 4
    assert first["in_flight_rollouts",] == 4
    assert first["queued_tokens",] > 3 * 2
    assert first["oldest_queued_s",] + 0.04 < second["oldest_queued_s",]
    after = one.metrics()
    for name in ("queued_rollouts", "queued_tokens", "oldest_queued_s", "in_flight_rollouts"):
        assert after[name,] == 0, name
    assert after["ready",] == 1


def test_ready_follows_the_scorer(one: InOneProcess) -> None:
    assert (one.metrics()["ready",], one.get("/readyz").status_code) == (0, 503)
    one.load()
    assert (one.metrics()["ready",], one.get("/readyz").status_code) == (1, 200)
    one.scorer.is_broken = True
    for _ in range(3):
        assert one.post((" 5", "5")).status_code == 500
    assert (one.metrics()["ready",], one.get("/readyz").json) == (0, {"status": "failing"})
    one.scorer.is_broken = False
    assert one.post((" 5", "5")).status_code == 200
    assert (one.metrics()["ready",], one.get("/readyz").json) == (1, {"status": "ready"})
    assert one.metrics()["requests_total", "500"] == 3


STEPS = st.lists(st.sampled_from(["/metrics", "/healthz", "/readyz", "post", "load"]), max_size=12)


@given(STEPS)
@settings(max_examples=20)
def test_health_and_metrics_never_fail_while_the_model_loads(
    bundled_tokenizer: Any, steps: list[str]
) -> None:
    """Whatever is asked for in whatever order, with others asking all the time."""
    one = InOneProcess(bundled_tokenizer, Graders(), Metrics())
    statuses: set[int] = set()
    is_over = threading.Event()

    def ask() -> None:
        for path in itertools.cycle(["/metrics", "/healthz"]):
            statuses.add(one.get(path).status_code)
            if is_over.wait(0.002):  # and not so fast that nothing else gets on
                return

    with ThreadPoolExecutor(20) as clients:
        asking = clients.submit(ask)
        held = []
        for step in [*steps, *([] if "load" in steps else ["load"])]:
            if step == "post":
                held.append(clients.submit(one.post, (" 5", "5")))
            elif step == "load":
                if one.batcher is None:
                    one.load()
            else:
                is_ready = one.batcher is not None
                expected = 503 if step == "/readyz" and not is_ready else 200
                assert one.get(step).status_code == expected
                assert one.metrics()["ready",] == is_ready
        assert [answer.result(30).status_code for answer in held] == [200] * len(held)
        is_over.set()
        asking.result(30)
    one.close()
    assert statuses == {200}
    assert one.metrics()["rollouts_total",] == len(held)


@pytest.mark.slow
def test_health_and_metrics_never_fail_while_a_server_starts(
    start_server: Callable[..., Any],
) -> None:
    starting = start_server()
    num_before = 0
    is_ready = False
    while not is_ready:
        is_ready = starting.request("/readyz")[0] == 200
        status, health = starting.request("/healthz")
        assert (status, health["status"]) == (200, "ok")
        status, text = starting.request("/metrics")
        assert status == 200
        assert list(text_string_to_metric_families(text))
        num_before += not is_ready
    assert num_before > 1
    assert starting.stop() == 0
