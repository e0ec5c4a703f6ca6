"""The OpenAPI document of the server, at /openapi.json; made from the code that it describes."""

from __future__ import annotations

import inspect
from typing import Any, get_args

from reward_server.http.schema import format_response
from reward_server.http.statuses import STATUSES
from sar import __version__
from sar.grading.label import GraderName, Mode

_JSON = "application/json"
_TEXT = {"type": "string"}
_STRINGS = {"type": "array", "items": {"type": "string"}}
_NUMBERS = {"type": "array", "items": {"type": "number"}}

_LABEL: dict[str, Any] = {
    "description": "The ground truth: a string, or an object (or its JSON text) that says more.",
    "oneOf": [
        {"type": "string", "minLength": 1},
        {
            "type": "object",
            "required": ["answer"],
            "additionalProperties": False,
            "properties": {
                "answer": {"type": "string", "minLength": 1},
                "grader": {"enum": [*get_args(GraderName), None]},
                "mode": {"enum": [*get_args(Mode), None]},
                "choices": {**_STRINGS, "type": ["array", "null"], "maxItems": 26},
            },
        },
    ],
}
_REQUEST = {
    "description": "Rollouts, in three lists of one length.",
    "type": "object",
    "required": ["query", "prompts", "labels"],
    "properties": {
        "query": {**_STRINGS, "description": "prompt and response in one text, special tokens too"},
        "prompts": {**_STRINGS, "description": "what the policy was given"},
        "labels": {"type": "array", "items": {"$ref": "#/components/schemas/Label"}},
    },
    "example": {"query": ["Q: 2+3?\nA: 5"], "prompts": ["Q: 2+3?\nA:"], "labels": ["5"]},
}
_ROLLOUT = {
    "description": "One rollout, as slime and miles send it.",
    "type": "object",
    "required": ["prompt", "response", "label"],
    "properties": {
        "prompt": {**_TEXT, "minLength": 1, "description": "what the policy was given"},
        "response": {**_TEXT, "description": "what it wrote, special tokens too"},
        "label": {"$ref": "#/components/schemas/Label"},
    },
    "example": {"prompt": "Q: 2+3?\nA:", "response": " 5", "label": "5"},
}
_COUNTS = (
    "rollouts",
    "in_flight",
    "queued_rollouts",
    "queued_tokens",
    "oldest_queued_s",
    "unreadable_labels",
    "batches",
    "sequences",
    "tokens",
    "abandoned",
    "busy_s",
    "busy_share",
    "grader_restarts",
    "checkpoints_refused",
    "decisions_not_logged",
    "policy_version",
    "policy_age_s",
)
_HEALTH = {
    "type": "object",
    "required": ["status", "model", "sar_weight", "ready", *_COUNTS],
    "additionalProperties": False,
    "properties": {
        "status": {"const": "ok"},
        "model": {"type": "string"},
        "sar_weight": {"type": "number"},
        "ready": {"type": "boolean"},
        **{name: {"type": "number", "minimum": 0} for name in _COUNTS},
    },
}
_ERROR = {
    "type": "object",
    "required": ["error"],
    "additionalProperties": False,
    "properties": {
        "error": {
            "type": "object",
            "required": ["type", "message", "field"],
            "additionalProperties": False,
            "properties": {
                "type": {"type": "string"},
                "message": {"type": "string"},
                "field": {"type": ["string", "null"], "description": "the field at fault"},
            },
        }
    },
}


def describe(*, needs_key: bool) -> dict[str, Any]:
    """The document; with `needs_key`, that rewards need one."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "SAR reward server",
            "description": "Correctness + Self-Aligned Reward (arXiv:2509.05489) for RL trainers.",
            "version": __version__,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": {
            "/get_reward": {
                "post": _scored("Rewards of rollouts.", "Request", "Rewards", needs_key)
            },
            "/rm": {"post": _scored("Reward of one rollout.", "Rollout", "Reward", needs_key)},
            "/update_weights": {"post": _update_weights()},
            "/healthz": {"get": _page("Alive, with counters.", {"200": _ref("Health")})},
            "/readyz": {
                "get": _page(
                    "Whether rewards are given.", {"200": _ref("State"), "503": _ref("State")}
                )
            },
            "/metrics": {"get": _page("For Prometheus.", {"200": _TEXT}, "text/plain")},
            "/openapi.json": {"get": _page("This document.", {"200": {"type": "object"}})},
            "/": {"get": _page("For people.", {"200": _TEXT}, "text/html")},
        },
        "components": {
            "schemas": {
                "Request": _REQUEST,
                "Rewards": _rewards(),
                "Rollout": _ROLLOUT,
                "Reward": _reward(),
                "Label": _LABEL,
                "Error": _ERROR,
                "Health": _HEALTH,
                "State": {
                    "type": "object",
                    "required": ["status"],
                    "additionalProperties": False,
                    "properties": {"status": {"enum": ["loading", "ready", "failing"]}},
                },
            },
            "responses": {
                "Refused": _error(
                    "What is refused before it gets to a route: 404 another path, 405 another "
                    "method, and 400, 408 or 414 what is not HTTP, too slow or too long."
                )
            },
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "basic": {
                    "type": "http",
                    "scheme": "basic",
                    "description": "any user, the key as password",
                },
            },
        },
    }


def _rewards() -> dict[str, Any]:
    empty = format_response([])
    logs = _exactly(dict.fromkeys(empty["extra_logs"], _NUMBERS))
    return _exactly({name: logs if name == "extra_logs" else _NUMBERS for name in empty})


def _reward() -> dict[str, Any]:
    number = {"type": "number"}
    return _exactly(dict.fromkeys(["reward", "score", *format_response([])["extra_logs"]], number))


def _exactly(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "required": list(properties),
        "additionalProperties": False,
        "properties": properties,
    }


def _scored(summary: str, request: str, answer: str, needs_key: bool) -> dict[str, Any]:
    operation = {
        "summary": summary,
        "requestBody": {"required": True, "content": {_JSON: {"schema": _ref(request)}}},
        "responses": {
            "200": {
                "description": "Of all rollouts, in the order of the request.",
                "content": {_JSON: {"schema": _ref(answer)}},
            },
            "408": _error("The request took too long to come in."),
            **_declared_errors(),
            "default": _ref_refused(),
        },
    }
    return {**operation, "security": [{"bearer": []}, {"basic": []}]} if needs_key else operation


def _update_weights() -> dict[str, Any]:
    folder = {"type": "object", "required": ["path"], "properties": {"path": _TEXT}}
    version = {
        "type": "object",
        "required": ["policy_version"],
        "additionalProperties": False,
        "properties": {"policy_version": {"type": "integer"}},
    }
    return {
        "summary": "Score with another checkpoint of the model, from a folder of the server's.",
        "requestBody": {"required": True, "content": {_JSON: {"schema": folder}}},
        "responses": {
            "200": {"description": "In service.", "content": {_JSON: {"schema": version}}},
            "408": _error("The request took too long to come in."),
            **_declared_errors(),
            "default": _ref_refused(),
        },
        "security": [{"bearer": []}, {"basic": []}],
    }


def _declared_errors() -> dict[str, Any]:
    """One response for each status that an error has; several errors may share one."""
    texts: dict[str, list[str]] = {}
    for error, (status, kind) in STATUSES.items():
        text = " ".join((inspect.getdoc(error) or "").split())
        texts.setdefault(str(int(status)), []).append(f"`{kind}`: {text}")
    return {status: _error("\n\n".join(lines)) for status, lines in sorted(texts.items())}


def _error(text: str) -> dict[str, Any]:
    return {"description": text, "content": {_JSON: {"schema": _ref("Error")}}}


def _page(text: str, schemas: dict[str, Any], mimetype: str = _JSON) -> dict[str, Any]:
    return {
        "summary": text,
        "responses": {
            **{
                status: {"description": text, "content": {mimetype: {"schema": schema}}}
                for status, schema in schemas.items()
            },
            "default": _ref_refused(),
        },
    }


def _ref_refused() -> dict[str, str]:
    return {"$ref": "#/components/responses/Refused"}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}
