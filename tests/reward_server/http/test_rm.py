"""POST /rm: one rollout, as slime's and miles' remote_rm send it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reward_server.errors import InvalidRequest, TooLarge
from reward_server.http.request_schema import RequestLimits, parse_rm
from reward_server.pipeline.rollout import SubmittedRollout
from sar.grading.label import Label

PROMPT, RESPONSE = "Q: 2+3?\nA:", " 5"
LIMITS = RequestLimits(max_samples=1, max_text_chars=1_000_000, max_body_bytes=2**20)
ONE = {"prompt": PROMPT, "response": RESPONSE, "label": "5"}


def body(**changes: Any) -> bytes:
    return json.dumps({k: v for k, v in (ONE | changes).items() if v is not ...}).encode()


def test_what_they_send() -> None:
    assert parse_rm(body(), LIMITS) == SubmittedRollout(
        PROMPT + RESPONSE, PROMPT, Label("5", "math"), "5"
    )
    label = {"answer": "B", "mode": "eval"}
    assert parse_rm(body(label=label), LIMITS).label_as_sent == label


@pytest.mark.parametrize(
    ("data", "field", "message"),
    [
        (b"{", None, "not JSON"),
        (b"[]", None, "a JSON object with prompt, response, label"),
        (b'{"query": [], "prompts": [], "labels": []}', "prompt", "missing"),
        (body(prompt=None), "prompt", "missing"),
        (body(prompt=""), "prompt", "empty"),
        (body(prompt=[{"role": "user", "content": "Q"}]), "prompt", "--apply-chat-template"),
        (body(prompt=7), "prompt", "a string, not int"),
        (body(response=...), "response", "missing"),
        (body(response=[" 5"]), "response", "a string, not list"),
        (body(response="\ud800"), "response", "not Unicode"),
        (body(label=None), "label", "missing"),
        (body(label=5), "label", "a number"),
        (body(label=""), "label.answer", "empty"),
        (body(label={"answer": "5", "grader": "x"}), "label.grader", "'x'"),
    ],
)
def test_a_bad_request_is_refused_by_field(data: bytes, field: str | None, message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_rm(data, LIMITS)
    assert caught.value.field == field
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"prompt": "x" * 21}, "prompt"),
        ({"response": "x" * 21}, "response"),
        ({"response": "x" * 15}, "prompt + response"),
        ({"label": "5" * 21}, "label"),
        ({"label": {"answer": "5" * 21}}, "label"),
    ],
)
def test_the_limit_of_texts_holds(changes: dict[str, Any], field: str) -> None:
    limits = RequestLimits(max_samples=1, max_text_chars=20, max_body_bytes=2**20)
    parse_rm(body(), limits)
    with pytest.raises(TooLarge) as caught:
        parse_rm(body(**changes), limits)
    assert caught.value.field == field


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(ONE, json_values)))
def test_any_values_are_a_rollout_or_an_invalid_request(payload: dict[str, Any]) -> None:
    try:
        sample = parse_rm(json.dumps(payload).encode(), LIMITS)
    except InvalidRequest:
        return
    assert sample.query == payload["prompt"] + payload["response"]


@pytest.mark.parametrize("label", ["5", "6", {"answer": "5", "mode": "eval"}])
def test_it_gives_what_get_reward_gives(server: Any, label: Any) -> None:
    status, got = server.request("/rm", ONE | {"label": label})
    assert status == 200
    lists = {"query": [PROMPT + RESPONSE], "prompts": [PROMPT], "labels": [label]}
    _, answer = server.request("/get_reward", lists)
    columns = {"reward": answer["rewards"], "score": answer["scores"], **answer["extra_logs"]}
    assert list(got) == list(columns)
    for name, (number,) in columns.items():
        if name != "policy_age_s":
            assert got[name] == pytest.approx(number, abs=1e-5), name


def test_the_end_of_sequence_counts_where_it_was_sent(server: Any) -> None:
    counts = [
        server.request("/rm", ONE | {"response": response})[1]["response_tokens"]
        for response in (RESPONSE, RESPONSE + "<|im_end|>")
    ]
    assert counts[1] == counts[0] + 1


def test_errors_are_those_of_the_other_route(server: Any) -> None:
    status, answer = server.request("/rm", ONE | {"label": 5})
    assert status == 400
    assert answer["error"]["type"] == "invalid_request"
    assert answer["error"]["field"] == "label"


def test_it_is_asked_as_slime_asks(server: Any) -> None:
    """aiohttp, its own JSON, an error for a status; the answer is the sample's reward as it is."""
    import aiohttp

    async def remote_rm(payload: dict[str, Any]) -> Any:
        async with (
            aiohttp.ClientSession() as session,
            session.post(server.url + "/rm", json=payload) as response,
        ):
            response.raise_for_status()
            return await response.json()

    reward = asyncio.run(remote_rm(ONE))
    assert reward["reward"] > 0.8
    assert all(type(value) in (int, float) for value in reward.values())
    with pytest.raises(aiohttp.ClientResponseError, match="400"):
        asyncio.run(remote_rm(ONE | {"label": None}))


@pytest.mark.slow
def test_keys_log_and_ids_are_as_of_the_other_route(start_server: Any, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("s3cret-key\n")
    log = tmp_path / "rewards"
    server = start_server("--api-key-file", str(keys), "--reward-log", str(log))
    server.wait_until_ready()
    assert server.request("/rm", ONE)[0] == 401

    async def ask() -> Any:
        import aiohttp

        url = server.url.replace("//", "//any:s3cret-key@") + "/rm"
        headers = {"X-Request-Id": "mine"}
        async with (
            aiohttp.ClientSession() as session,
            session.post(url, json=ONE, headers=headers) as response,
        ):
            return response.status, response.headers["X-Request-Id"]

    assert asyncio.run(ask()) == (200, "mine")
    assert server.request("/healthz")[1]["rollouts"] == 1
    metrics = server.request("/metrics")[1]
    assert 'requests_total{status="200"}' in metrics
    assert server.stop() == 0
    (line,) = [one for file in log.iterdir() for one in file.read_text().splitlines()]
    assert json.loads(line)["request_id"] == "mine"
