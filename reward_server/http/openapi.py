"""The OpenAPI document of the server, at /openapi.json, made from the schemas and the errors."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from reward_server.http.answer_schema import (
    ErrorAnswer,
    HealthAnswer,
    ReadyAnswer,
    ScorersAnswer,
    UpdateWeightsAnswer,
    make_answers,
)
from reward_server.http.explain_answer import ExplainAnswer
from reward_server.http.request_schema import (
    GetRewardRequest,
    RmRequest,
    ScorersRequest,
    UpdateWeightsRequest,
)
from reward_server.http.statuses import STATUSES
from reward_server.pipeline.explaining import MAX_ROLLOUTS
from sar import __version__
from sar.terms.composition import Composition

_JSON = "application/json"
_SCHEMAS = "#/components/schemas/"
_REFUSED = {"default": {"$ref": "#/components/responses/Refused"}}
_NEEDS_KEY: list[dict[str, list[str]]] = [{"bearer": []}, {"basic": []}]


@dataclass(frozen=True)
class _Post:
    """A route that takes JSON."""

    summary: str
    request: type[BaseModel]
    answer: type[BaseModel]
    always_needs_key: bool = False


_PAGES = {
    "/metrics": ("The counters in Prometheus' format.", "text/plain", {"type": "string"}),
    "/openapi.json": ("This document.", _JSON, {"type": "object"}),
    "/": ("A page for people.", "text/html", {"type": "string"}),
}


def describe(*, needs_key: bool, composition: Composition | None = None) -> dict[str, Any]:
    """The document.

    Args:
        needs_key: whether the server asks for an API key.
        composition: the reward of a reward file, if there is one.
    """
    posts = _list_posts(composition)
    requests = list(dict.fromkeys(post.request for post in posts.values()))
    answers = [post.answer for post in posts.values()]
    answers += [HealthAnswer, ReadyAnswer, ErrorAnswer]
    _, schemas = models_json_schema(
        [*((m, "validation") for m in requests), *((m, "serialization") for m in answers)],
        ref_template=_SCHEMAS + "{model}",
    )
    ready = "200: rewards are given. 503: the model is loading, or the scorer fails or is lost."
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "SAR reward server",
            "description": "Correctness + Self-Aligned Reward (arXiv:2509.05489) for RL trainers."
            if composition is None
            else f"{composition.formula}, for RL trainers.",
            "version": __version__,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": {
            **{path: {"post": _describe_post(post, needs_key)} for path, post in posts.items()},
            "/healthz": {"get": _describe_get("Alive, with counters.", {200: _ref(HealthAnswer)})},
            "/readyz": {"get": _describe_get(ready, dict.fromkeys((200, 503), _ref(ReadyAnswer)))},
            **{
                path: {"get": _describe_get(summary, {200: schema}, mimetype)}
                for path, (summary, mimetype, schema) in _PAGES.items()
            },
        },
        "components": {
            "schemas": schemas["$defs"],
            "responses": {
                "Refused": _answer(
                    "Refused before it reached a route: 403 a Host or Origin that is not this "
                    "server's, 404 unknown path, 405 wrong method, 503 too many open connections, "
                    "400, 408 or 414 not HTTP, too slow or too long.",
                    _ref(ErrorAnswer),
                )
            },
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "basic": {
                    "type": "http",
                    "scheme": "basic",
                    "description": "any user name, the key as password",
                },
            },
        },
    }


def _list_posts(composition: Composition | None) -> dict[str, _Post]:
    answers = make_answers(composition)
    return {
        "/get_reward": _Post("Rewards of rollouts.", GetRewardRequest, answers.get_reward),
        "/explain": _Post(
            f"Rewards of up to {MAX_ROLLOUTS} rollouts, token by token, behind all other rewards.",
            GetRewardRequest,
            ExplainAnswer,
        ),
        "/rm": _Post("Reward of one rollout.", RmRequest, answers.rm),
        "/update_weights": _Post(
            "Score with another checkpoint of the model, from a folder on the server's machine.",
            UpdateWeightsRequest,
            UpdateWeightsAnswer,
            always_needs_key=True,
        ),
        "/scorers": _Post(
            "Start or end scorers on Ray, of a server started with --scorers or --ray-address.",
            ScorersRequest,
            ScorersAnswer,
            always_needs_key=True,
        ),
    }


def _describe_post(post: _Post, needs_key: bool) -> dict[str, Any]:
    operation = {
        "summary": post.summary,
        "requestBody": {"required": True, "content": {_JSON: {"schema": _ref(post.request)}}},
        "responses": {
            "200": _answer(inspect.getdoc(post.answer) or "", _ref(post.answer)),
            "408": _answer("The request took too long to come in.", _ref(ErrorAnswer)),
            **_describe_errors(),
            **_REFUSED,
        },
    }
    is_protected = needs_key or post.always_needs_key
    return {**operation, "security": _NEEDS_KEY} if is_protected else operation


def _describe_get(
    summary: str, schemas: dict[int, dict[str, Any]], mimetype: str = _JSON
) -> dict[str, Any]:
    answers = {str(s): _answer(summary, schema, mimetype) for s, schema in schemas.items()}
    return {"summary": summary, "responses": {**answers, **_REFUSED}}


def _describe_errors() -> dict[str, Any]:
    """One answer for each status; several errors may share one."""
    texts: dict[int, list[str]] = {}
    for error, (status, kind) in STATUSES.items():
        text = " ".join((inspect.getdoc(error) or "").split())
        texts.setdefault(int(status), []).append(f"`{kind}`: {text}")
    return {
        str(status): _answer("\n\n".join(lines), _ref(ErrorAnswer))
        for status, lines in sorted(texts.items())
    }


def _answer(text: str, schema: dict[str, Any], mimetype: str = _JSON) -> dict[str, Any]:
    return {"description": text, "content": {mimetype: {"schema": schema}}}


def _ref(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": _SCHEMAS + model.__name__}
