"""The wire protocol of a live server: whole batches, errors, and the other pages."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from sar.models.problems import generate
from sar.prompts import DEFAULT_SYSTEM_PROMPT, render_prompt

if TYPE_CHECKING:
    from tests.conftest import TestedServer

Row = tuple[str, str, str]
PAD = "<|endoftext|>"


@pytest.fixture(scope="module")
def rollouts(bundled_tokenizer: Any) -> list[Row]:
    """Prompt, response and label; correct and incorrect responses alternate."""
    rows = []
    for index, problem in enumerate(islice(generate(seed=4, held_out=True), 24)):
        response = problem.wrong_end if index % 2 else problem.concise
        prompt = render_prompt(bundled_tokenizer, problem.question, DEFAULT_SYSTEM_PROMPT)
        rows.append((prompt, response + "<|im_end|>", str(problem.answer)))
    return rows


def _make_payload(rows: list[Row], *, left: str = "", right: str = "") -> Any:
    """A batch as OpenRLHF before 0.8 sends it: decoded tensors, padding included."""
    return {
        "query": [
            left * (index % 4) + prompt + response + right * (index % 3)
            for index, (prompt, response, _) in enumerate(rows)
        ],
        "prompts": [prompt for prompt, *_ in rows],
        "labels": [label for *_, label in rows],
    }


@pytest.fixture(scope="module")
def alone(server: TestedServer, rollouts: list[Row]) -> list[dict[str, Any]]:
    """The answer to each rollout in a request of its own."""
    return [server.request("/get_reward", _make_payload([row]))[1] for row in rollouts]


@pytest.mark.parametrize(("left", "right"), [("", ""), (PAD, ""), ("", PAD), (PAD, PAD)])
def test_a_whole_batch_in_one_request_is_answered_in_order(
    server: TestedServer,
    rollouts: list[Row],
    alone: list[dict[str, Any]],
    left: str,
    right: str,
) -> None:
    status, body = server.request("/get_reward", _make_payload(rollouts, left=left, right=right))
    assert status == 200
    assert body["scores"] == [1.0, 0.0] * 12
    assert body["rewards"] == pytest.approx([a["rewards"][0] for a in alone], abs=1e-4)
    assert len({round(reward, 5) for reward in body["rewards"]}) == len(rollouts)
    del body["extra_logs"]["policy_age_s"]
    for name, values in body["extra_logs"].items():
        expected = [a["extra_logs"][name][0] for a in alone]
        assert values == pytest.approx(expected, rel=1e-4, abs=1e-4), name


def test_a_batch_reversed_is_answered_reversed(
    server: TestedServer, rollouts: list[Row], alone: list[dict[str, Any]]
) -> None:
    status, body = server.request("/get_reward", _make_payload(rollouts[::-1]))
    assert status == 200
    assert body["rewards"] == pytest.approx([a["rewards"][0] for a in alone][::-1], abs=1e-4)


def test_empty_lists_get_empty_lists(server: TestedServer) -> None:
    status, body = server.request("/get_reward", {"query": [], "prompts": [], "labels": []})
    assert (status, body["rewards"], body["scores"]) == (200, [], [])
    assert body["extra_logs"]
    assert not any(body["extra_logs"].values())


ONE: dict[str, Any] = {"query": ["Q: 2+3?\nA: 5"], "prompts": ["Q: 2+3?\nA:"], "labels": ["5"]}
MALFORMED: list[tuple[Any, str | None]] = [
    (b"", None),
    (b"query=a&prompts=b", None),
    (b"{'query': []}", None),
    (b"\xff\xfe\x00", None),
    (b"[" * 200_000, None),
    (b'{"query": ["a"], "prompts": ["a"]', None),
    (b"1" * 10_000, None),
    (b"null", None),
    (b"[]", None),
    (b'"query"', None),
    ({}, "query"),
    ({**ONE, "query": None}, "query"),
    ({**ONE, "query": ONE["query"][0]}, "query"),
    ({**ONE, "query": {"0": "a"}}, "query"),
    ({"query": ONE["query"], "prompts": ONE["prompts"]}, "labels"),
    ({**ONE, "labels": "5"}, "labels"),
    ({**ONE, "prompts": []}, None),
    ({**ONE, "labels": ["5", "6"]}, None),
    ({**ONE, "query": [], "prompts": []}, None),
    ({**ONE, "query": [5]}, "query[0]"),
    ({**ONE, "query": [None]}, "query[0]"),
    ({**ONE, "query": [[ONE["query"][0]]]}, "query[0]"),
    ({**ONE, "query": ["Q: 2+3?\nA: \ud800"]}, "query[0]"),
    ({**ONE, "prompts": [7]}, "prompts[0]"),
    ({**ONE, "labels": [5]}, "labels[0]"),
    ({**ONE, "labels": [None]}, "labels[0]"),
    ({**ONE, "labels": [["5"]]}, "labels[0]"),
    ({**ONE, "labels": [True]}, "labels[0]"),
    ({**ONE, "labels": [" "]}, "labels[0].answer"),
    ({**ONE, "labels": ["\ud800"]}, "labels[0]"),
    ({**ONE, "labels": ['{"answer": "5", "grader": "regex"}']}, "labels[0].grader"),
    ({**ONE, "labels": [{"answer": "5", "grader": "maths"}]}, "labels[0].grader"),
    ({**ONE, "labels": [{"answer": "5", "mode": "test"}]}, "labels[0].mode"),
    ({**ONE, "labels": [{"answer": 5}]}, "labels[0].answer"),
    ({**ONE, "labels": [{"grader": "math"}]}, "labels[0].answer"),
    ({**ONE, "labels": [{"answer": "5", "weight": 2}]}, None),
    ({**ONE, "labels": [{"answer": "Q", "choices": ["x", "y"]}]}, "labels[0].answer"),
    ({**ONE, "labels": [{"answer": "A", "choices": "xy"}]}, "labels[0].choices"),
    ({**ONE, "labels": [{"answer": "maybe", "grader": "boolean"}]}, "labels[0].answer"),
    ({**ONE, "query": ["Something else entirely"]}, "query[0]"),
    ({**ONE, "query": [""]}, "query[0]"),
    ({**ONE, "prompts": [""]}, "query[0]"),
]


@pytest.fixture(autouse=True)
def _the_server_still_rewards(server: TestedServer) -> Iterator[None]:
    yield
    health = server.request("/healthz")[1]
    assert health["in_flight"] == 0
    assert server.request("/get_reward", ONE)[1]["scores"] == [1.0]


def _assert_error(answer: tuple[int, Any], expected_status: int) -> dict[str, Any]:
    status, body = answer
    assert status == expected_status, body
    assert set(body) == {"error"}
    assert set(body["error"]) == {"type", "message", "field"}
    assert isinstance(body["error"]["type"], str)
    assert isinstance(body["error"]["message"], str)
    assert len(body["error"]["message"]) > 5
    error: dict[str, Any] = body["error"]
    return error


@pytest.mark.parametrize(("body", "field"), MALFORMED, ids=lambda value: ascii(value)[:60])
def test_a_malformed_request_is_refused_with_the_reason(
    server: TestedServer, body: Any, field: str | None
) -> None:
    before = server.request("/healthz")[1]["rollouts"]
    error = _assert_error(server.request("/get_reward", body, method="POST"), 400)
    assert error["type"] == "invalid_request"
    if field:
        assert error["field"] == field
    assert len(error["message"]) < 1000
    assert server.request("/healthz")[1]["rollouts"] == before


def test_an_error_names_the_rollout_of_a_batch(server: TestedServer, rollouts: list[Row]) -> None:
    payload = _make_payload(rollouts)
    payload["query"][17] = "no prompt here"
    error = _assert_error(server.request("/get_reward", payload), 400)
    assert error["field"] == "query[17]"
    payload = _make_payload(rollouts)
    payload["labels"][5] = json.dumps({"answer": "5", "grader": "none such"})
    error = _assert_error(server.request("/get_reward", payload), 400)
    assert error["field"] == "labels[5].grader"
    assert "none such" in error["message"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/get_reward", 405),
        ("PUT", "/get_reward", 405),
        ("DELETE", "/get_reward", 405),
        ("POST", "/healthz", 405),
        ("POST", "/", 405),
        ("GET", "/reward", 404),
        ("POST", "/get_reward/", 404),
        ("GET", "/static/x", 404),
        ("GET", "/%00%ff", 404),
    ],
)
def test_wrong_methods_and_paths(server: TestedServer, method: str, path: str, status: int) -> None:
    body = b"{}" if method != "GET" else None
    _assert_error(server.request(path, body, method=method), status)


def test_the_other_pages(server: TestedServer) -> None:
    status, page = server.request("/")
    assert status == 200
    assert f"{server.url}/get_reward" in page
    assert server.request("/readyz") == (200, {"status": "ready"})
    status, health = server.request("/healthz")
    assert (status, health["status"], health["ready"]) == (200, "ok", True)
    assert all(isinstance(health[n], int) for n in ("rollouts", "batches", "sequences"))


def test_unreadable_labels_are_counted_and_not_refused(server: TestedServer) -> None:
    before = server.request("/healthz")[1]["unreadable_labels"]
    payload = {**ONE, "labels": [r"\frac{1}{"]}
    status, body = server.request("/get_reward", payload)
    assert (status, body["scores"], body["extra_logs"]["label_unreadable"]) == (200, [0.0], [1])
    assert server.request("/healthz")[1]["unreadable_labels"] == before + 1


@pytest.mark.slow
def test_a_rollout_whose_client_has_gone_is_not_scored(
    start_server: Callable[..., TestedServer], rollouts: list[Row]
) -> None:
    # Each rollout is a batch of its own, so that there is a queue.
    slow = start_server("--max-batch-tokens", "16")
    slow.wait_until_ready()
    address = urlsplit(slow.url)
    with ThreadPoolExecutor(1) as background:
        busy = background.submit(slow.request, "/get_reward", _make_payload(rollouts * 8))
        while slow.request("/healthz")[1]["batches"] < 5:
            time.sleep(0.01)
        body = json.dumps(_make_payload(rollouts[:1])).encode()
        head = f"POST /get_reward HTTP/1.1\r\nHost: here\r\nContent-Length: {len(body)}\r\n\r\n"
        with socket.create_connection((address.hostname, address.port)) as leaving:
            leaving.sendall(head.encode() + body)
            while slow.request("/healthz")[1]["in_flight"] <= len(rollouts) * 8:
                time.sleep(0.01)
        status, answer = busy.result()
    assert (status, answer["scores"]) == (200, [1.0, 0.0] * 12 * 8)
    counters = slow.request("/healthz")[1]
    assert counters["abandoned"] == 1
    assert counters["rollouts"] == len(rollouts) * 8
    assert counters["in_flight"] == 0
    assert slow.stop() == 0


def test_an_error_that_ends_a_connection_is_logged(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """gevent would write it to standard error, in many lines and as the client sent it."""
    from gevent.pywsgi import WSGIHandler

    from reward_server.http.listener import Listener, _Handler

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_Handler, "_wait_for_client", lambda self: 1 // 0)
        listener = Listener(WSGIHandler, host="127.0.0.1", port=0)
        with socket.create_connection(listener.addresses[0], 60) as client:
            assert client.recv(1) == b""
        while "a connection ended" not in caplog.text:  # the log's line follows the hang-up
            time.sleep(0.01)
        listener.stop_listening()
    (record,) = (r for r in caplog.records if "a connection ended" in r.getMessage())
    assert record.exc_info
    assert record.exc_info[0] is ZeroDivisionError
    assert "ZeroDivisionError" not in capfd.readouterr().err.replace(caplog.text, "")
