"""What the trainers send: which requests are accepted, and how the others are refused."""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reward_server.errors import InvalidRequest, RewardServerError, TooLarge
from reward_server.http.request_schema import (
    RequestLimits,
    parse_get_reward,
    parse_update_weights,
)
from reward_server.pipeline.rollout import SubmittedRollout
from sar.grading.label import Label

if TYPE_CHECKING:
    from tests.reward_server.http.conftest import Values

LIMITS = RequestLimits(max_samples=8192, max_text_chars=1_000_000, max_body_bytes=2**28)


def parse(body: bytes) -> list[SubmittedRollout]:
    return parse_get_reward(body, LIMITS)


def refuse(body: bytes, limits: RequestLimits) -> tuple[str, str | None]:
    """The error's message and field; an empty message if there is none."""
    try:
        parse_get_reward(body, limits)
    except RewardServerError as error:
        return str(error), error.field
    return "", None


def request(**changes: Any) -> bytes:
    payload = {"query": ["Q: 2+2? 4"], "prompts": ["Q: 2+2?"], "labels": ["4"]} | changes
    return json.dumps({k: v for k, v in payload.items() if v is not ...}).encode()


def test_what_openrlhf_sends() -> None:
    assert parse(request()) == [SubmittedRollout("Q: 2+2? 4", "Q: 2+2?", Label("4", "math"), "4")]


def test_a_whole_batch_in_order() -> None:
    body = request(query=["a1", "b2"], prompts=["a", "b"], labels=["1", {"answer": "B"}])
    assert parse(body) == [
        SubmittedRollout("a1", "a", Label("1", "math"), "1"),
        SubmittedRollout("b2", "b", Label("B", "choice"), {"answer": "B"}),
    ]


def test_empty_lists_are_a_request() -> None:
    assert parse(request(query=[], prompts=[], labels=[])) == []


def test_unknown_fields_are_no_matter() -> None:
    assert parse(request(images=[None], extra=1)) == parse(request())


@pytest.mark.parametrize("is_ascii", [True, False])
def test_texts_are_read_as_utf_8(is_ascii: bool) -> None:
    query = "Q: 2+2? \u0664\u00e9\U0001f389"
    payload = {"query": [query], "prompts": ["Q"], "labels": ["4"]}
    (sample,) = parse(json.dumps(payload, ensure_ascii=is_ascii).encode())
    assert sample.query == query


def test_the_number_of_values_is_bounded() -> None:
    limits = RequestLimits(max_samples=2, max_text_chars=9000, max_body_bytes=2**20)
    label = {"answer": "A", "choices": ["x"] * 26}
    body = json.dumps({"query": ["ab"] * 2, "prompts": ["a"] * 2, "labels": [label] * 2}).encode()
    assert len(parse_get_reward(body, limits)) == 2
    commas = body.replace(b'"ab"', b'"a' + b"," * 1000 + b'"')
    assert len(parse_get_reward(commas, limits)) == 2
    for hostile in (b"[],", b'"",', b"1,", b'{"a":1},'):
        with pytest.raises(TooLarge, match="more than 128 JSON values"):
            parse_get_reward(b'{"query":[' + hostile * 200 + b"1]}", limits)


NESTED = b"[" * 200_000
BAD_BODIES = [
    (b"", None, "not JSON"),
    (b"hello", None, "not JSON"),
    (b"{", None, "not JSON"),
    (b"\xff\xfe\xfa", None, "not JSON"),
    ('{"query": []}'.encode("utf-16"), None, "not JSON"),
    (b'{"query": ["\xff"]}', None, "not JSON"),
    (NESTED, None, "not JSON"),
    (b'{"query": ' * 100_000, None, "not JSON"),
    (b'{"query": ' + b"9" * 10_000 + b"}", None, "not JSON"),
    (b"[]", None, "JSON object"),
    (b"null", None, "JSON object"),
    (b'"query"', None, "JSON object"),
    (b"3", None, "JSON object"),
    (b"NaN", None, "JSON object"),
    (b"{}", "query", "missing"),
    (request(query=...), "query", "missing"),
    (request(prompts=...), "prompts", "missing"),
    (request(labels=...), "labels", "missing"),
    (request(labels=None), "labels", "missing"),
    (request(query="Q: 2+2? 4"), "query", "a list"),
    (request(prompts={"0": "Q"}), "prompts", "a list"),
    (request(labels="4"), "labels", "a list"),
    (request(query=7), "query", "a list"),
    (request(query=[]), None, "0 query, 1 prompts, 1 labels"),
    (request(labels=["4", "5"]), None, "1 query, 1 prompts, 2 labels"),
    (request(query=[None]), "query[0]", "a string"),
    (request(query=[["Q"]]), "query[0]", "a string"),
    (request(prompts=[3.5]), "prompts[0]", "a string"),
    (request(labels=[None]), "labels[0]", "null"),
    (request(labels=[4]), "labels[0]", "a number"),
    (request(labels=[math.nan]), "labels[0]", "a number"),
    (request(labels=[True]), "labels[0]", "a boolean"),
    (request(labels=[["4"]]), "labels[0]", "a list"),
    (request(labels=[""]), "labels[0].answer", "empty"),
    (request(labels=[{}]), "labels[0].answer", "missing"),
    (request(labels=['{"answer": 4}']), "labels[0].answer", "a number"),
    (request(labels=[{"answer": "4", "grader": "x"}]), "labels[0].grader", "'x'"),
    (request(labels=[{"answer": "4", "mode": "x"}]), "labels[0].mode", "'x'"),
    (request(labels=[{"answer": "4", "choices": 1}]), "labels[0].choices", "list of strings"),
    (request(labels=[{"answer": "4", "weight": 1}]), "labels[0]", "'weight'"),
]


@pytest.mark.parametrize(("body", "field", "message"), BAD_BODIES)
def test_a_bad_request_is_refused_by_field(body: bytes, field: str | None, message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(body)
    assert caught.value.field == field
    assert message in str(caught.value)
    assert len(str(caught.value)) < 500


def test_the_index_of_the_bad_one_is_named() -> None:
    body = request(query=["a"] * 3, prompts=["a"] * 3, labels=["1", "2", {"answer": 3}])
    with pytest.raises(InvalidRequest, match=r"labels\[2\]") as caught:
        parse(body)
    assert caught.value.field == "labels[2].answer"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"query": [1], "labels": ...}, "labels"),
        ({"query": [1], "prompts": "Q"}, "prompts"),
        ({"query": ["a", 1], "prompts": [1, "a"], "labels": ["1", "2"]}, "prompts[0]"),
        ({"query": ["a", 1], "prompts": ["a", "a"], "labels": [{}, "2"]}, "labels[0].answer"),
        ({"query": [1], "prompts": [1], "labels": [1]}, "query[0]"),
    ],
)
def test_of_several_faults_a_list_is_named_before_an_item_and_the_first_rollout_before_others(
    changes: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(request(**changes))
    assert caught.value.field == field


LONE = "\ud800"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"query": ["Q: 2+2? " + LONE]}, "query[0]"),
        ({"prompts": [LONE]}, "prompts[0]"),
        ({"labels": [LONE]}, "labels[0]"),
        ({"labels": [{"answer": "x" + LONE}]}, "labels[0]"),
        ({"labels": [json.dumps({"answer": LONE})]}, "labels[0]"),
        ({"labels": [{"answer": "A", "choices": ["x", LONE]}]}, "labels[0].choices"),
        ({"labels": [{"answer": "A", LONE: 1}]}, "labels[0]"),
        ({"labels": [{"answer": "A", "grader": LONE}]}, "labels[0].grader"),
    ],
)
def test_half_a_character_is_refused_with_a_message_that_can_be_sent(
    changes: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(request(**changes))
    assert caught.value.field == field
    str(caught.value).encode()
    str(caught.value.field).encode()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)


@given(st.binary(max_size=60) | st.builds(lambda v: json.dumps(v).encode(), json_values))
def test_any_body_is_samples_or_an_invalid_request(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        parse(body)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            name: json_values | st.lists(json_values, max_size=2)
            for name in ("query", "prompts", "labels")
        },
    )
)
def test_any_object_is_samples_or_an_invalid_request(payload: dict[str, Any]) -> None:
    try:
        samples = parse(json.dumps(payload).encode())
    except InvalidRequest:
        return
    assert len(samples) == len(payload["query"])


def test_too_many_rollouts_are_refused_before_they_are_read() -> None:
    limits = RequestLimits(max_samples=2, max_text_chars=9, max_body_bytes=2**20)
    body = request(query=[None] * 3, prompts=[None] * 3, labels=[None] * 3)
    with pytest.raises(TooLarge, match="3 rollouts in a request: --max-samples-per-request is 2"):
        parse_get_reward(body, limits)


@pytest.mark.parametrize("name", ["query", "prompts", "labels"])
def test_a_text_that_is_too_long_is_named(name: str) -> None:
    limits = RequestLimits(max_samples=9, max_text_chars=20, max_body_bytes=2**20)
    texts = {"query": ["a"] * 2, "prompts": ["a"] * 2, "labels": ["1"] * 2}
    parse_get_reward(request(**texts), limits)
    with pytest.raises(TooLarge, match=rf"{name}\[1\] has 21 characters: --max-text-chars is 20"):
        parse_get_reward(request(**texts | {name: [texts[name][0], "x" * 21]}), limits)


MEGABYTE = "x" * 10**6
HUGE: list[dict[str, Any]] = [
    {MEGABYTE: 1},
    {"answer": "4", MEGABYTE: 1},
    {"answer": MEGABYTE},
    {"answer": [MEGABYTE]},
    {"answer": {MEGABYTE: MEGABYTE}},
    {"answer": "4", "grader": MEGABYTE},
    {"answer": "4", "grader": [MEGABYTE]},
    {"answer": "4", "mode": {MEGABYTE: 1}},
    {"answer": "4", "choices": MEGABYTE},
    {"answer": "4", "choices": [[MEGABYTE]]},
    {"answer": "A", "choices": [MEGABYTE]},
    {"answer": "4", "choices": ["x"] * 10**6},
    {"answer": "4", "choices": {str(n): n for n in range(10**5)}},
    {str(n): n for n in range(10**5)},
    {"answer": "4", "weight": [[]] * 10**5},
]


@pytest.mark.parametrize("label", HUGE, ids=range(len(HUGE)))
def test_the_whole_label_object_counts_against_the_limit(label: dict[str, Any]) -> None:
    limits = RequestLimits(max_samples=10**6, max_text_chars=1000, max_body_bytes=2**28)
    for sent in (label, json.dumps(label)):
        with pytest.raises(TooLarge, match=r"^labels\[0\] has ") as caught:
            parse_get_reward(request(labels=[sent]), limits)
        assert caught.value.field == "labels[0]"
        assert len(str(caught.value)) < 100


def test_a_label_object_counts_as_the_text_that_it_holds() -> None:
    label = {"answer": "B", "choices": ["red", "blue"], "grader": "choice"}
    num_chars = len("answerBchoicesredbluegraderchoice")
    for limit, fits in ((num_chars - 1, False), (2 * num_chars, True)):
        limits = RequestLimits(max_samples=9, max_text_chars=limit, max_body_bytes=2**28)
        body = request(query=["a"], prompts=["a"], labels=[label])
        if fits:
            assert parse_get_reward(body, limits)[0].label_as_sent == label
            continue
        with pytest.raises(TooLarge, match=f"--max-text-chars is {limit}"):
            parse_get_reward(body, limits)


@pytest.mark.parametrize("label", HUGE, ids=range(len(HUGE)))
def test_a_huge_label_within_the_limit_is_not_echoed(label: dict[str, Any]) -> None:
    limits = RequestLimits(max_samples=9, max_text_chars=2**30, max_body_bytes=2**28)
    for sent in (label, json.dumps(label)):
        message, field = refuse(request(labels=[sent]), limits)
        assert len(message) < 300
        assert field in {None, "labels[0]", *(f"labels[0].{name}" for name in label)}


@given(st.data())
def test_no_error_echoes_more_than_a_short_line(hostile_values: Values, data: Any) -> None:
    payload = data.draw(
        st.fixed_dictionaries(
            {}, optional=dict.fromkeys(("query", "prompts", "labels"), hostile_values)
        )
        | st.fixed_dictionaries(
            {"query": st.just(["Q: 4"]), "prompts": st.just(["Q:"])}
            | {"labels": st.lists(hostile_values, min_size=1, max_size=1)}
        )
    )
    message, field = refuse(json.dumps(payload).encode(), LIMITS)
    assert message.isprintable()
    assert len(message) <= 600
    assert field is None or re.fullmatch(r"[a-z\[\]0-9.]{1,30}", field)


@pytest.mark.parametrize(
    "path", ["/" + MEGABYTE, "/no/such\n\x1b[2J\ud800", "/\0", "", MEGABYTE], ids=range(5)
)
def test_a_folder_that_cannot_be_is_an_invalid_request(path: str) -> None:
    with pytest.raises(InvalidRequest, match="there is no folder '") as caught:
        parse_update_weights(json.dumps({"path": path}).encode())
    assert caught.value.field == "path"
    assert len(str(caught.value)) < 300
    assert str(caught.value).isprintable()


def test_an_error_bounds_its_own_message_and_field() -> None:
    error = InvalidRequest("line\r\n" + MEGABYTE, "labels\n[" + MEGABYTE)
    assert str(error).isprintable()
    assert len(str(error)) < 600
    assert str(error.field).isprintable()
    assert len(str(error.field)) < 300
