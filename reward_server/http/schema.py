"""The trainers' wire formats: what a request must look like, and what is answered.

OpenRLHF, in lists of one length:
Request:  `{"query": [q, ...], "prompts": [p, ...], "labels": [l, ...]}`
Response: `{"rewards": [...], "scores": [...], "extra_logs": {name: [...], ...}}`
Source: OpenRLHF 0.11.2, openrlhf/utils/agent.py, SingleTurnAgentExecutor.

slime and miles, one rollout:
Request:  `{"prompt": p, "response": r, "label": l}`
Response: `{"reward": x, "score": x, name: x, ...}`: all of it becomes the sample's reward, of which
`--reward-key` names the part to train on and `--eval-reward-key` the part to evaluate by.
Source: slime at 624b824, slime/rollout/rm_hub/__init__.py, remote_rm; miles at 31f1ca9, likewise.
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
_ROLLOUT_FIELDS = ("prompt", "response", "label")


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

    return [
        Sample(
            _checked_text(query, f"query[{i}]", limits),
            _checked_text(prompt, f"prompts[{i}]", limits),
            _label(ground_truth, f"labels[{i}]", limits),
            ground_truth,
        )
        for i, (query, prompt, ground_truth) in enumerate(zip(*lists, strict=True))
    ]


def parse_rollout(body: bytes, limits: RequestLimits = DEFAULT_LIMITS) -> Sample:
    """The one rollout of a request of slime or miles.

    Raises:
        InvalidRequest: naming the field at fault, such as `label.grader`.
        TooLarge: naming the field and the limit.
    """
    payload = _object(body, _ROLLOUT_FIELDS)
    for name in _ROLLOUT_FIELDS:
        if payload.get(name) is None:
            raise InvalidRequest(f"{name} is missing", name)
    if isinstance(payload["prompt"], list):
        raise InvalidRequest(
            "prompt must be a string, not messages: the text that the policy was given, which the "
            "trainer makes of them with --apply-chat-template",
            "prompt",
        )
    prompt, response = (_checked_text(payload[name], name, limits) for name in _ROLLOUT_FIELDS[:2])
    if not prompt:
        raise InvalidRequest("prompt is empty", "prompt")
    query = prompt + response
    _check_length(query, "prompt + response", limits)
    return Sample(query, prompt, _label(payload["label"], "label", limits), payload["label"])


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


def format_rollout(scored: Sequence[ScoredSample]) -> dict[str, Any]:
    """The response body for one rollout: the numbers of `format_response`, side by side."""
    lists = format_response(scored)
    named = {"reward": lists["rewards"], "score": lists["scores"], **lists["extra_logs"]}
    return {name: number for name, (number,) in named.items()}


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


def _checked_text(value: Any, field: str, limits: RequestLimits) -> str:
    _check_length(value, field, limits)
    return _text(value, field)


def _label(value: Any, field: str, limits: RequestLimits) -> Label:
    # Before it is read: a label may be JSON.
    _check_length(value, field, limits)
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
    for text in (label.answer, *label.choices):
        _check_length(text, field, limits)
    return label
