"""Bad JSON sent to a live server: requests within and outside the schema, almost valid requests,
and bytes that are not JSON. `make fuzz` runs more cases.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    unsupported_method,
)

from reward_server.http.openapi import describe

if TYPE_CHECKING:
    from tests.conftest import Contract
    from tests.reward_server.http.conftest import Fuzzed, Texts, Values

IS_LONG = settings.get_current_profile_name() == "fuzz"
FUZZ = settings(
    max_examples=1000 if IS_LONG else 40,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
# For tests whose requests are all scored, which takes longer.
SCORED = settings(FUZZ, max_examples=300 if IS_LONG else 20)
MAX_MESSAGE_CHARS = 600

schema = schemathesis.openapi.from_dict(describe(needs_key=False))


@pytest.fixture(autouse=True, scope="module")
def _the_server_still_gives_the_same_rewards(fuzzed: Fuzzed) -> Iterator[None]:
    yield
    fuzzed.assert_is_as_right_as_before()


@schema.parametrize()
@FUZZ
def test_requests_within_and_outside_the_schema(
    case: Any, fuzzed: Fuzzed, contract: Contract
) -> None:
    fuzzed.num_cases += 1
    answer = case.call(base_url=fuzzed.server.url)
    case.validate_response(
        answer,
        checks=(
            not_a_server_error,
            content_type_conformance,
            response_schema_conformance,
            negative_data_rejection,
            unsupported_method,
        ),
    )
    contract.check(
        case.method,
        case.path,
        answer.status_code,
        answer.headers["content-type"][0],
        answer.content,
    )


# Text without digits, which therefore states no number. A response goes on after each.
WORDS = ["<|im_start|>", "<think>", "</think>", "Answer:", "####"]
WORDS += ["the answer is ", "\\boxed{", "{", "}", "\\frac", "<answer>", "\x00", "\u202e", "\\", "$"]
LETTERS = st.characters(exclude_categories=["N", "Cs"], max_codepoint=0x2FFF)
NO_NUMBER = st.lists(st.sampled_from(WORDS) | st.text(LETTERS, max_size=8), max_size=12)
NUMBER = st.integers(10, 10**6).map(str)


@st.composite
def labels(draw: st.DrawFn, answer: str) -> Any:
    """A label in any of its forms."""
    label: Any = {"answer": answer}
    for field, values in (("grader", ["math", None]), ("mode", ["train", "eval", None])):
        if draw(st.booleans()):
            label[field] = draw(st.sampled_from(values))
    return draw(st.sampled_from([answer, label, json.dumps(label)]))


@given(st.data())
@SCORED
def test_only_a_response_that_ends_with_the_answer_scores_1(fuzzed: Fuzzed, data: Any) -> None:
    """Random text changes no score: 0 without the number, 1 with the number as the last answer."""
    answer = data.draw(NUMBER)
    noise = "".join(data.draw(NO_NUMBER))
    start = data.draw(st.sampled_from(["Q: ", "<|im_start|>user\nQ: ", "\u05d0"]))
    prompt = start + "how many?\nA:"
    responses = [noise, "<think>", "</think>\n\n" + noise + f"\n</think>\nAnswer: {answer}"]
    body = {
        "query": [prompt + response for response in responses],
        "prompts": [prompt] * 3,
        "labels": [data.draw(labels(answer)) for _ in responses],
    }
    status, value = fuzzed.send(json.dumps(body).encode())
    assert (status, value["scores"]) == (200, [0.0, 0.0, 1.0])
    assert all(-1 <= sar <= 1 for sar in value["extra_logs"]["sar"])
    assert value["rewards"][0] < 0.21


ODD_NUMBERS = [0, -0.0, 5, 10**400, -(10**30), 1e308, 5e-324, float("nan"), float("-inf")]
ODD = st.recursive(
    st.none() | st.booleans() | st.sampled_from(ODD_NUMBERS) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=3) | st.just("answer"), inner, max_size=3)
    ),
    max_leaves=6,
)
ALMOST_A_LABEL = ODD | st.fixed_dictionaries(
    {"answer": ODD | st.sampled_from(["5", "A", "true", "\\frac{1}", "\ud800"])},
    optional={
        "grader": ODD | st.sampled_from(["math", "choice", "boolean", "exact"]),
        "mode": ODD | st.sampled_from(["train", "eval"]),
        "choices": ODD | st.lists(st.text(max_size=3), max_size=30),
        "weight": ODD,
    },
)


@st.composite
def almost_requests(draw: st.DrawFn) -> str:
    """The JSON text of a request with possible mistakes, such as repeated keys."""
    prompts = draw(st.lists(st.sampled_from(["Q: 2+3?\nA:", "\n", "\x00", "é"]), max_size=3))
    fields: dict[str, Any] = {
        "query": [prompt + draw(st.text(max_size=10)) for prompt in prompts],
        "prompts": prompts,
        "labels": [draw(ALMOST_A_LABEL | ALMOST_A_LABEL.map(json.dumps)) for _ in prompts],
    }
    pairs = list(fields.items())
    for _ in range(draw(st.integers(0, 2))):
        name = draw(st.sampled_from(["query", "prompts", "labels", "", "Query", "__proto__"]))
        values = draw(ODD | st.lists(ODD, max_size=3))
        pairs.insert(draw(st.integers(0, len(pairs))), (name, values))
    escape = draw(st.booleans())
    members = (f"{json.dumps(k)}: {json.dumps(v, ensure_ascii=escape)}" for k, v in pairs)
    return "{" + ", ".join(members) + "}"


@given(almost_requests())
@FUZZ
def test_almost_valid_requests(fuzzed: Fuzzed, text: str) -> None:
    status, value = fuzzed.send(text.encode(errors="surrogatepass"))
    assert status in (200, 400)
    if status == 400:
        assert value["error"]["type"] == "invalid_request"
        assert 5 < len(value["error"]["message"]) < MAX_MESSAGE_CHARS
    else:
        assert set(value["scores"]) <= {0.0, 1.0}


REQUEST_FIELDS = st.sampled_from(["query", "prompts", "labels", "prompt", "response", "label"])


@st.composite
def hostile_requests(draw: st.DrawFn, texts: Texts, values: Values) -> bytes:
    """The JSON text of a request with huge, deeply nested or unprintable values."""
    label = draw(values)
    for _ in range(draw(st.sampled_from([0, 0, 5, 150]))):
        label = [label]
    text = draw(texts)
    ordinary = [
        {"query": ["Q: 5"], "prompts": ["Q:"], "labels": [label]},
        {"query": [text], "prompts": ["Q:"], "labels": ["5"]},
        {"query": ["Q: 5"], "prompts": [text], "labels": ["5"]},
        {"prompt": "Q:", "response": "5", "label": draw(st.sampled_from([label, text]))},
    ]
    body = draw(st.sampled_from(ordinary) | st.dictionaries(REQUEST_FIELDS, values))
    return json.dumps(body, ensure_ascii=draw(st.booleans())).encode(errors="surrogatepass")


@given(st.data(), st.sampled_from(["/get_reward", "/explain", "/rm"]))
@FUZZ
def test_an_error_is_one_short_line_in_the_answer_and_in_the_log(
    fuzzed: Fuzzed, hostile_texts: Texts, hostile_values: Values, data: Any, path: str
) -> None:
    """`Fuzzed` checks the log's lines at the end."""
    body = data.draw(hostile_requests(hostile_texts, hostile_values))
    status, value = fuzzed.send(body, path=path)
    assert status in (200, 400, 413)
    if status != 200:
        error = value["error"]
        assert error["message"].isprintable()
        assert len(error["message"]) <= MAX_MESSAGE_CHARS
        assert error["field"] is None or len(error["field"]) < 30


ENCODINGS = ["utf-8-sig", "utf-16", "utf-16-be", "utf-32", "latin-1", "utf-7", "cp037"]
TYPES = ["application/json", "text/plain", "application/x-www-form-urlencoded", "", "\\", "a/b; =;"]
TYPES += ["multipart/form-data", "multipart/form-data; boundary=", "application/json; charset=x"]
CORRUPTIONS = ["encoding", "gzip", "cut", "inserted", "after", "nested", "noise"]


@st.composite
def corrupted(draw: st.DrawFn) -> bytes:
    """The bytes of a request that were changed on their way."""
    text = draw(almost_requests())
    match draw(st.sampled_from(CORRUPTIONS)):
        case "encoding":
            return text.encode(draw(st.sampled_from(ENCODINGS)), "replace")
        case "gzip":
            return gzip.compress(text.encode(errors="replace"))
        case "cut":
            return text.encode(errors="replace")[: draw(st.integers(0, len(text)))]
        case "inserted":
            where = draw(st.integers(0, len(text)))
            between = draw(st.binary(min_size=1, max_size=3))
            return (
                text[:where].encode(errors="replace")
                + between
                + text[where:].encode("utf-16", "replace")
            )
        case "after":
            return text.encode(errors="replace") + draw(st.binary(min_size=1, max_size=4))
        case "nested":
            opening = draw(st.sampled_from(["[", '{"query":', '{"a":[', '{"labels": [{"answer":']))
            return (opening * draw(st.integers(1, 100_000))).encode()
    return draw(st.binary(max_size=200))


@given(
    corrupted(),
    st.sampled_from(TYPES),
    st.sampled_from([None, "gzip", "deflate", "br", "identity", "x"]),
)
@FUZZ
def test_corrupted_requests(
    fuzzed: Fuzzed, body: bytes, content_type: str, encoding: str | None
) -> None:
    headers = {"Content-Type": content_type}
    if encoding:
        headers["Content-Encoding"] = encoding
    status, value = fuzzed.send(body, headers=headers)
    assert status in (200, 400)
    if status == 400:
        assert 5 < len(value["error"]["message"]) < MAX_MESSAGE_CHARS


METHODS = st.sampled_from(["GET", "POST", "PUT", "HEAD", "DELETE", "OPTIONS", "TRACE", "PATCH"])
PATHS = st.sampled_from(
    ["", "get_reward", "explain", "rm", "healthz", "readyz", "metrics", "openapi.json", "x"]
)
ENDS = st.sampled_from(["", "/", "//", "/..", "%2e", "%00", "%ff", "?", "?a=%ff&a", ";x", "%2f"])
STARTS = st.sampled_from(["/", "/", "/", "//", "/./", "/../", "/%2f", "*", "http://other/", ""])


@given(METHODS, STARTS, PATHS, ENDS, st.binary(max_size=50))
@FUZZ
def test_odd_paths_and_methods(
    fuzzed: Fuzzed, method: str, start: str, path: str, end: str, body: bytes
) -> None:
    if method == "HEAD":
        body = b""
    fuzzed.send(body, method=method, path=(start + path + end) or "/")
