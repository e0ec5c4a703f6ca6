"""The wire format: what is taken, what is refused and how, what is sent."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reward_server.errors import InvalidRequest
from reward_server.http.schema import Sample, ScoredSample, format_response, parse_request
from sar.grading.label import Label
from sar.grading.verdict import Reason, Verdict
from sar.reward import EMPTY_RESPONSE, Likelihood, combine


def request(**changes):
    payload = {"query": ["Q: 2+2? 4"], "prompts": ["Q: 2+2?"], "labels": ["4"]} | changes
    return json.dumps({k: v for k, v in payload.items() if v is not ...}).encode()


def test_what_openrlhf_sends() -> None:
    assert parse_request(request()) == [Sample("Q: 2+2? 4", "Q: 2+2?", Label("4", "math"), "4")]


def test_a_whole_batch_in_order() -> None:
    body = request(query=["a1", "b2"], prompts=["a", "b"], labels=["1", {"answer": "B"}])
    assert parse_request(body) == [
        Sample("a1", "a", Label("1", "math"), "1"),
        Sample("b2", "b", Label("B", "choice"), {"answer": "B"}),
    ]


def test_empty_lists_are_a_request() -> None:
    assert parse_request(request(query=[], prompts=[], labels=[])) == []


def test_unknown_fields_and_other_encodings_are_no_matter() -> None:
    assert parse_request(request(images=[None], extra=1)) == parse_request(request())
    text = request(query=["Q: 2+2? \u0664\u00e9\U0001f389"]).decode()
    for encoding in ("utf-8", "utf-16", "utf-32"):
        (sample,) = parse_request(text.encode(encoding))
        assert sample.query == "Q: 2+2? \u0664\u00e9\U0001f389"


NESTED = b"[" * 200_000
BAD_BODIES = [
    (b"", None, "not JSON"),
    (b"hello", None, "not JSON"),
    (b"{", None, "not JSON"),
    (b"\xff\xfe\xfa", None, "not JSON"),
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
def test_a_bad_request_is_refused_by_field(body, field, message) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_request(body)
    assert caught.value.field == field
    assert message in str(caught.value)
    assert len(str(caught.value)) < 500


def test_the_index_of_the_bad_one_is_named() -> None:
    body = request(query=["a"] * 3, prompts=["a"] * 3, labels=["1", "2", {"answer": 3}])
    with pytest.raises(InvalidRequest, match=r"labels\[2\]") as caught:
        parse_request(body)
    assert caught.value.field == "labels[2].answer"


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
def test_half_a_character_is_refused_with_a_message_that_can_be_sent(changes, field) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_request(request(**changes))
    assert caught.value.field == field
    str(caught.value).encode()
    str(caught.value.field).encode()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)


@given(st.binary(max_size=60) | st.builds(lambda v: json.dumps(v).encode(), json_values))
def test_any_body_is_samples_or_an_invalid_request(body) -> None:
    with pytest.raises(InvalidRequest):
        parse_request(body)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            name: json_values | st.lists(json_values, max_size=2)
            for name in ("query", "prompts", "labels")
        },
    )
)
def test_any_object_is_samples_or_an_invalid_request(payload) -> None:
    try:
        samples = parse_request(json.dumps(payload).encode())
    except InvalidRequest:
        return
    assert len(samples) == len(payload["query"])


def scored(reason, likelihood=EMPTY_RESPONSE, *, unreadable=False, mismatch=False):
    verdict = Verdict(reason, label_unreadable=unreadable)
    reward = combine(verdict, likelihood, sar_weight=0.2, mode="train")
    return ScoredSample(reward, mismatch, policy_version=7, policy_age_s=1.5)


def test_the_response_says_what_a_reward_is_made_of() -> None:
    likelihood = Likelihood(math.log(2), math.log(4), num_response_tokens=9, truncated=True)
    body = format_response(
        [scored(Reason.CORRECT, likelihood, mismatch=True), scored(Reason.NO_ANSWER)]
    )
    assert body["rewards"] == pytest.approx([1.1, 0.0])
    assert body["scores"] == [1.0, 0.0]
    logs = body["extra_logs"]
    assert logs["correctness"] == [1.0, 0.0]
    assert logs["sar"] == pytest.approx([0.5, 0.0])
    assert logs["ppl_qa"] == pytest.approx([2.0, 1.0])
    assert logs["ppl_a"] == pytest.approx([4.0, 1.0])
    assert logs["response_tokens"] == [9, 0]
    assert logs["truncated"] == [1, 0]
    assert logs["no_answer"] == [0, 1]
    assert logs["template_mismatch"] == [1, 0]


@pytest.mark.parametrize(
    ("sample", "name"),
    [
        (scored(Reason.TIMEOUT), "grader_timeout"),
        (scored(Reason.CRASHED), "grader_crashed"),
        (scored(Reason.NO_ANSWER), "no_answer"),
        (scored(Reason.WRONG, unreadable=True), "label_unreadable"),
    ],
)
def test_what_went_wrong_is_counted_apart(sample, name) -> None:
    logs = format_response([sample])["extra_logs"]
    flags = ("grader_timeout", "grader_crashed", "no_answer", "label_unreadable")
    assert {flag: logs[flag] for flag in flags} == {flag: [int(flag == name)] for flag in flags}


def test_nothing_in_nothing_out() -> None:
    body = format_response([])
    assert body["rewards"] == body["scores"] == []
    assert set(map(len, body["extra_logs"].values())) == {0}


@given(
    st.lists(
        st.builds(
            scored,
            st.sampled_from(Reason),
            st.builds(
                Likelihood,
                st.floats(-1e300, 1e300),
                st.floats(-1e300, 1e300),
                st.integers(0, 10**6),
                st.booleans(),
            ),
            unreadable=st.booleans(),
            mismatch=st.booleans(),
        ),
        max_size=4,
    )
)
def test_only_finite_numbers_are_sent(samples) -> None:
    body = json.loads(json.dumps(format_response(samples), allow_nan=False))
    for values in (body["rewards"], body["scores"], *body["extra_logs"].values()):
        assert len(values) == len(samples)
        for value in values:
            assert isinstance(value, (int, float))
            assert not isinstance(value, bool)
            assert math.isfinite(value)
            assert abs(value) < 3.4e38  # a float32 tensor holds it
    assert all(score in (0, 1) for score in body["scores"])
