"""/openapi.json is valid, and says what the code does: routes, statuses, answers."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import openapi_spec_validator
import pytest

from reward_server.http.app import AppConfig, create_app
from reward_server.http.openapi import describe
from reward_server.http.request_schema import RequestLimits, parse_get_reward, parse_rm
from reward_server.http.statuses import STATUSES
from reward_server.pipeline.service import RewardService, ServiceLimits
from sar.grading.label import LabelError, parse_label

LIMITS = RequestLimits(max_samples=8, max_text_chars=1000, max_body_bytes=2**20)
ONE = {"query": ["Q: 2+3?\nA: 5"], "prompts": ["Q: 2+3?\nA:"], "labels": ["5"]}


@pytest.mark.parametrize("needs_key", [False, True])
def test_it_is_valid_openapi_3_1(needs_key: bool) -> None:
    document = describe(needs_key=needs_key)
    assert document["openapi"].startswith("3.1.")
    openapi_spec_validator.OpenAPIV31SpecValidator(document).validate()
    for path in ("/get_reward", "/explain", "/rm"):
        assert ("security" in document["paths"][path]["post"]) == needs_key


def test_its_schemas_are_those_of_requests_and_answers_and_no_others() -> None:
    document = describe(needs_key=False)
    text = json.dumps(document)
    for name in document["components"]["schemas"]:
        assert f'"#/components/schemas/{name}"' in text, name


def test_every_field_of_an_answer_is_always_there() -> None:
    schemas = describe(needs_key=False)["components"]["schemas"]
    for name in schemas.keys() - {"GetRewardRequest", "RmRequest", "UpdateWeightsRequest"}:
        assert set(schemas[name]["required"]) == set(schemas[name]["properties"]), name


def test_it_names_the_routes_of_the_application_and_no_other() -> None:
    graders: Any = None
    service = RewardService(graders, sar_weight=0.2, limits=ServiceLimits(60, 2**31))
    app = create_app(service, AppConfig("m", 0.2, LIMITS))
    # HEAD comes with every GET.
    routes = {
        (r.rule, m.lower())
        for r in app.url_map.iter_rules()
        for m in (r.methods or set()) - {"HEAD"}
    }
    described = {
        (path, method)
        for path, operations in describe(needs_key=False)["paths"].items()
        for method in operations
    }
    assert routes == described


@pytest.mark.parametrize("path", ["/get_reward", "/explain", "/rm"])
def test_every_error_has_its_status_there(path: str) -> None:
    responses = describe(needs_key=False)["paths"][path]["post"]["responses"]
    statuses = {"200", "400", "401", "403", "408", "409", "413", "499", "500", "503", "504"} | {
        "default"
    }
    assert set(responses) == statuses
    for status, kind in STATUSES.values():
        assert f"`{kind}`" in responses[str(int(status))]["description"], kind


@pytest.mark.parametrize(
    ("method", "path", "body", "expected"),
    [
        ("GET", "/", None, 200),
        ("GET", "/healthz", None, 200),
        ("GET", "/readyz", None, 200),
        ("GET", "/metrics", None, 200),
        ("GET", "/openapi.json", None, 200),
        ("POST", "/get_reward", ONE, 200),
        ("POST", "/get_reward", {"query": [], "prompts": [], "labels": []}, 200),
        ("POST", "/get_reward", {}, 400),
        ("POST", "/explain", ONE, 200),
        ("POST", "/explain", {"query": [], "prompts": [], "labels": []}, 200),
        ("POST", "/explain", {}, 400),
        ("GET", "/explain", None, 405),
        ("POST", "/rm", {"prompt": "Q: 2+3?\nA:", "response": " 5", "label": "5"}, 200),
        ("POST", "/rm", {"prompt": "Q", "response": "", "label": {"answer": "5"}}, 200),
        ("POST", "/rm", {"prompt": [{"role": "user"}], "response": " 5", "label": "5"}, 400),
        ("POST", "/rm", ONE, 400),
        ("GET", "/rm", None, 405),
        ("GET", "/get_reward", None, 405),
        ("OPTIONS", "/get_reward", None, 405),
        ("GET", "/favicon.ico", None, 404),
        ("GET", "/healthz//", None, 404),
    ],
)
def test_answers_of_a_live_server_are_as_it_says(
    fuzzed: Any, contract: Any, method: str, path: str, body: Any, expected: int
) -> None:
    data = b"" if body is None else json.dumps(body).encode()
    status, value = fuzzed.send(data, method=method, path=path)
    assert status == expected
    if path == "/openapi.json":
        assert value == contract.document


def test_a_wrong_method_is_told_the_right_one(fuzzed: Any) -> None:
    fuzzed.send(b"{}", method="PUT")
    assert fuzzed.headers["Allow"] == "POST"


LABELS: list[Any] = [
    "5",
    "true",
    {"answer": "5"},
    {"answer": "B", "grader": "choice", "choices": ["x", "y"], "mode": "eval"},
    {"answer": "5", "grader": None, "mode": None, "choices": None},
    {"answer": "A", "choices": [str(n) for n in range(26)]},
    "",
    5,
    None,
    [],
    {},
    {"answer": ""},
    {"answer": 5},
    {"answer": "5", "grader": "regex"},
    {"answer": "5", "mode": "test"},
    {"answer": "5", "weight": 1},
    {"answer": "5", "choices": "xy"},
    {"answer": "5", "choices": ""},
    {"answer": "5", "choices": 0},
    {"answer": "5", "choices": False},
    {"answer": "5", "choices": {}},
    {"answer": "A", "choices": [1]},
    {"answer": "A", "choices": ["x"] * 27},
]


@pytest.mark.parametrize("label", LABELS, ids=ascii)
def test_its_labels_are_those_that_the_code_takes(contract: Any, label: Any) -> None:
    """Where only form matters; that an answer fits its grader is beyond a schema."""
    components = contract.document["components"]
    validator = jsonschema.Draft202012Validator(
        {"$ref": "#/components/schemas/RmRequest/properties/label", "components": components}
    )
    try:
        parse_label(label)
        is_taken = True
    except LabelError:
        is_taken = False
    assert validator.is_valid(label) == is_taken


def test_its_examples_are_requests(contract: Any) -> None:
    schemas = contract.document["components"]["schemas"]
    examples = [
        json.dumps(schemas[name]["example"]).encode() for name in ("GetRewardRequest", "RmRequest")
    ]
    (rollout,) = parse_get_reward(examples[0], LIMITS)
    assert parse_rm(examples[1], LIMITS) == rollout
    assert rollout.query.startswith(rollout.prompt)
