"""The routes in one process, over a model and graders that fail on purpose."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest

from reward_server.http.app import AppConfig, create_app
from reward_server.http.request_schema import RequestLimits
from reward_server.pipeline.batcher import Batcher
from reward_server.pipeline.engine import Engine
from reward_server.pipeline.service import RewardService, ServiceLimits
from sar.grading.verdict import Reason, Verdict
from sar.prompts import DEFAULT_SYSTEM_PROMPT
from sar.scoring import TokenSequence
from sar.tokenization import RolloutTokenizer

LIMITS = RequestLimits(max_samples=8, max_text_chars=1000, max_body_bytes=2**20)
ONE = {"query": ["Q: 2+3?\nA: 5"], "prompts": ["Q: 2+3?\nA:"], "labels": ["5"]}


class Scorer:
    """A `LogprobScorer` that does as it is told, and then gives every token -1 nat."""

    max_context_tokens = None

    def __init__(self, *behaviours: Callable[[Sequence[TokenSequence]], Any]) -> None:
        self._behaviours = list(behaviours)

    def response_logprobs(self, sequences: Sequence[TokenSequence]) -> list[Any]:
        behave = self._behaviours.pop(0) if self._behaviours else _filled(-1.0)
        logprobs: list[Any] = behave(sequences)
        return logprobs


class Graders:
    """A grader pool whose verdicts are given, or raised."""

    def __init__(self, *outcomes: Verdict | Exception) -> None:
        self._outcomes = list(outcomes)

    num_restarts = 0

    def submit(self, response: str, label: Any) -> Future[Verdict]:
        outcome = self._outcomes.pop(0) if self._outcomes else Verdict(Reason.CORRECT, "5")
        future: Future[Verdict] = Future()
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
        return future


def _filled(value: float) -> Callable[[Sequence[TokenSequence]], Any]:
    return lambda sequences: [np.full(len(s.response_ids), value, np.float32) for s in sequences]


def _raises(error: BaseException) -> Callable[[Sequence[TokenSequence]], Any]:
    def scorer(sequences: Sequence[TokenSequence]) -> Any:
        raise error

    return scorer


def _client(tokenizer: Any, scorer: Scorer, graders: Graders) -> Any:
    pool: Any = graders
    service = RewardService(pool, sar_weight=0.2, limits=ServiceLimits(60, 2**31))
    rollout_tokenizer = RolloutTokenizer(tokenizer, system_prompt=DEFAULT_SYSTEM_PROMPT)
    service.engines.start(Engine(rollout_tokenizer, Batcher(scorer, 1000)))
    return create_app(service, AppConfig("<b>name</b>", 0.2, LIMITS)).test_client()


def _post(client: Any, body: Any = ONE) -> Any:
    """A response; a request that is never answered fails the test instead of stopping the suite."""
    answers: list[Any] = []
    thread = threading.Thread(
        target=lambda: answers.append(client.post("/get_reward", json=body)), daemon=True
    )
    thread.start()
    thread.join(10)
    assert answers, "the request is never answered"
    return answers[0]


@pytest.mark.parametrize(
    "behaviour",
    [
        _raises(RuntimeError("CUDA error: device-side assert triggered")),
        _raises(MemoryError()),
        _raises(KeyError("x")),
        _filled(float("nan")),
        _filled(float("-inf")),
        _filled(float("inf")),
        lambda sequences: _filled(-1.0)(sequences)[:1],
        lambda sequences: [],
        lambda sequences: [np.empty(0, np.float32) for _ in sequences],
        lambda sequences: None,
    ],
)
def test_a_failing_scorer_is_an_error_and_no_reward(bundled_tokenizer: Any, behaviour: Any) -> None:
    client = _client(bundled_tokenizer, Scorer(behaviour, behaviour), Graders())
    failed = _post(client)
    assert failed.status_code == 500
    assert set(failed.json) == {"error"}
    assert set(failed.json["error"]) == {"type", "message", "field"}
    following = _post(client)
    assert (following.status_code, following.json["rewards"]) == (200, [1.0])
    assert client.get("/healthz").json["in_flight"] == 0


def test_a_failing_grader_is_an_error_and_no_wrong_answer(bundled_tokenizer: Any) -> None:
    graders = Graders(ValueError("a bug in a grader"), Verdict(Reason.WRONG, "6"))
    client = _client(bundled_tokenizer, Scorer(), graders)
    failed = _post(client)
    assert failed.status_code == 500
    assert failed.json["error"]["type"] == "scoring_failed"
    assert "rewards" not in failed.json
    following = _post(client)
    assert (following.status_code, following.json["scores"]) == (200, [0.0])


@pytest.mark.parametrize(
    ("path", "status"),
    [("", 200), ("//", 200), ("//healthz", 200), ("/healthz//", 404), ("/healthz/", 404)],
)
def test_no_path_is_answered_with_a_redirect(
    bundled_tokenizer: Any, path: str, status: int
) -> None:
    client = _client(bundled_tokenizer, Scorer(), Graders())
    assert client.get(environ_overrides={"PATH_INFO": path}).status_code == status


def test_timeouts_and_crashes_are_counted_apart(bundled_tokenizer: Any) -> None:
    verdicts = [Verdict(r) for r in (Reason.TIMEOUT, Reason.CRASHED, Reason.NO_ANSWER)]
    client = _client(bundled_tokenizer, Scorer(), Graders(*verdicts))
    body = _post(client, {name: values * 4 for name, values in ONE.items()}).json
    assert body["scores"] == [0.0, 0.0, 0.0, 1.0]
    assert body["extra_logs"]["grader_timeout"] == [1, 0, 0, 0]
    assert body["extra_logs"]["grader_crashed"] == [0, 1, 0, 0]
    assert body["extra_logs"]["no_answer"] == [0, 0, 1, 0]


def test_one_failing_batch_leaves_the_requests_behind_it_alone(bundled_tokenizer: Any) -> None:
    """The first batch fails while others queue: only it is refused."""
    entered, leave = threading.Event(), threading.Event()

    def fail_late(sequences: Sequence[TokenSequence]) -> Any:
        entered.set()
        leave.wait(10)
        raise RuntimeError("out of memory")

    client = _client(bundled_tokenizer, Scorer(fail_late, fail_late), Graders())
    statuses: list[int] = []

    def post() -> None:
        statuses.append(_post(client.application.test_client()).status_code)

    first = threading.Thread(target=post)
    first.start()
    assert entered.wait(10)
    others = [threading.Thread(target=post) for _ in range(8)]
    for thread in others:
        thread.start()
    leave.set()
    for thread in (first, *others):
        thread.join(10)
    assert sorted(statuses) == [200] * 8 + [500]


@pytest.mark.parametrize("id_", ["r", "batch 7, try=2", "~" * 128])
def test_a_request_keeps_the_id_it_brings(bundled_tokenizer: Any, id_: str) -> None:
    client = _client(bundled_tokenizer, Scorer(), Graders())
    assert client.get("/healthz", headers={"X-Request-Id": id_}).headers["X-Request-Id"] == id_


@pytest.mark.parametrize("id_", ["", "x" * 129, "a\tb", "a\x7f", "a\x1b[2J", "caf\xe9", "a\xa0b"])
def test_what_is_no_id_is_replaced_by_a_new_one(bundled_tokenizer: Any, id_: str) -> None:
    """It goes into the log and the answer's head, whoever sent it."""
    client = _client(bundled_tokenizer, Scorer(), Graders())
    headers = {"X-Request-Id": id_}
    made = [client.get("/healthz", headers=headers).headers["X-Request-Id"] for _ in range(2)]
    assert all(re.fullmatch("[0-9a-f]{32}", one) for one in made)
    assert made[0] != made[1]


def test_the_page_escapes_the_models_name(bundled_tokenizer: Any) -> None:
    page = _client(bundled_tokenizer, Scorer(), Graders()).get("/").text
    assert "&lt;b&gt;name" in page
    assert "<b>name" not in page
