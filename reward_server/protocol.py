"""OpenRLHF's wire format: what a request must look like, and what is answered.

Request:  `{"query": [q, ...], "prompts": [p, ...], "labels": [l, ...]}`, lists of one length.
Response: `{"rewards": [...], "scores": [...], "extra_logs": {name: [...], ...}}`, likewise.
Source: OpenRLHF 0.11.2, openrlhf/utils/agent.py, SingleTurnAgentExecutor.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reward_server.errors import InvalidRequest, TooLarge
from sar.grading.label import Label, LabelError, parse_label
from sar.grading.verdict import Reason
from sar.reward import Reward

_FIELDS = ("query", "prompts", "labels")


@dataclass(frozen=True)
class Sample:
    """One rollout as it came over the wire."""

    query: str
    prompt: str
    label: Label
    label_as_sent: str | dict[str, Any]


@dataclass(frozen=True)
class ScoredSample:
    """A rollout's reward, and whether its prompt had another frame than ppl_a's."""

    reward: Reward
    template_mismatch: bool
    policy_version: int
    policy_age_s: float
    """Seconds since the weights that scored it were loaded."""


@dataclass(frozen=True)
class RequestLimits:
    """How much one request may hold."""

    max_samples: int = 8192
    max_text_chars: int = 1_000_000


DEFAULT_LIMITS = RequestLimits()


def parse_request(body: bytes, limits: RequestLimits = DEFAULT_LIMITS) -> list[Sample]:
    """The samples of a request.

    Raises:
        InvalidRequest: naming the field at fault, such as `labels[3].grader`.
        TooLarge: naming the field and the limit.
    """
    payload = _object(body, _FIELDS)
    lists = [_list_of(payload, name) for name in _FIELDS]
    lengths = [len(values) for values in lists]
    if len(set(lengths)) > 1:
        counted = ", ".join(f"{n} {name}" for n, name in zip(lengths, _FIELDS, strict=True))
        raise InvalidRequest(f"lists of different lengths: {counted}")
    if lengths[0] > limits.max_samples:
        raise TooLarge(
            f"{lengths[0]} rollouts in a request: --max-samples-per-request is {limits.max_samples}"
        )

    def text(value: Any, field: str) -> str:
        _check_length(value, field, limits)
        return _text(value, field)

    def label(value: Any, index: int) -> Label:
        # Before it is read: a label may be JSON.
        _check_length(value, f"labels[{index}]", limits)
        parsed = _label(value, index)
        for one in (parsed.answer, *parsed.choices):
            _check_length(one, f"labels[{index}]", limits)
        return parsed

    return [
        Sample(
            text(query, f"query[{i}]"),
            text(prompt, f"prompts[{i}]"),
            label(ground_truth, i),
            ground_truth,
        )
        for i, (query, prompt, ground_truth) in enumerate(zip(*lists, strict=True))
    ]


def parse_update(body: bytes) -> Path:
    """The folder of a request for other weights: `{"path": folder}`.

    Raises:
        InvalidRequest: there is none.
    """
    path = Path(_text(_object(body, ("path",)).get("path"), "path"))
    if not path.is_dir():
        raise InvalidRequest(f"there is no folder {str(path)!r} on this machine", "path")
    return path


def format_response(scored: Sequence[ScoredSample]) -> dict[str, Any]:
    """The response body; numbers only, as OpenRLHF makes tensors of all of them."""
    return {
        "rewards": [s.reward.value for s in scored],
        "scores": [s.reward.correctness for s in scored],
        "extra_logs": {
            "correctness": [s.reward.correctness for s in scored],
            "sar": [s.reward.likelihood.sar for s in scored],
            "ppl_qa": [s.reward.likelihood.ppl_qa for s in scored],
            "ppl_a": [s.reward.likelihood.ppl_a for s in scored],
            "response_tokens": [s.reward.likelihood.num_response_tokens for s in scored],
            "truncated": [int(s.reward.likelihood.truncated) for s in scored],
            "no_answer": [_is(s, Reason.NO_ANSWER) for s in scored],
            "grader_timeout": [_is(s, Reason.TIMEOUT) for s in scored],
            "grader_crashed": [_is(s, Reason.CRASHED) for s in scored],
            "label_unreadable": [int(s.reward.verdict.label_unreadable) for s in scored],
            "template_mismatch": [int(s.template_mismatch) for s in scored],
            "policy_version": [s.policy_version for s in scored],
            "policy_age_s": [s.policy_age_s for s in scored],
        },
    }


def _object(body: bytes, fields: Sequence[str]) -> dict[str, Any]:
    try:
        payload = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"the body is not JSON: {error}") from error
    if not isinstance(payload, dict):
        raise InvalidRequest(f"the body must be a JSON object with {', '.join(fields)}")
    return payload


def _is(scored: ScoredSample, reason: Reason) -> int:
    return int(scored.reward.verdict.reason is reason)


def _list_of(payload: dict[str, Any], name: str) -> list[Any]:
    values = payload.get(name)
    if values is None:
        raise InvalidRequest(f"{name} is missing", name)
    if not isinstance(values, list):
        raise InvalidRequest(f"{name} must be a list, not {type(values).__name__}", name)
    return values


def _text(value: Any, field: str) -> str:
    if not isinstance(value, str):
        raise InvalidRequest(f"{field} must be a string, not {type(value).__name__}", field)
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest(f"{field} is not Unicode text: {error.reason}", field) from error
    return value


def _check_length(value: Any, field: str, limits: RequestLimits) -> None:
    if isinstance(value, str) and len(value) > limits.max_text_chars:
        raise TooLarge(
            f"{field} has {len(value)} characters: --max-text-chars is {limits.max_text_chars}",
            field,
        )


def _label(value: Any, index: int) -> Label:
    field = f"labels[{index}]"
    if isinstance(value, str):
        _text(value, field)
    try:
        label = parse_label(value)
    except LabelError as error:
        where = f"{field}.{error.field}" if error.field else field
        raise InvalidRequest(f"{field}: {error}", where) from error
    _text(label.answer, field)
    for choice in label.choices:
        _text(choice, f"{field}.choices")
    return label
