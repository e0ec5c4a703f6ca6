"""What the trainers send: parses requests, with errors that name the field, for four routes.

`POST /get_reward`, from OpenRLHF: three lists, with an item for each rollout.
Source: OpenRLHF 0.11.2, openrlhf/utils/agent.py, SingleTurnAgentExecutor. `POST /explain` takes the
same.

`POST /rm`, from slime and miles: one rollout. These trainers keep all numbers of the answer. Their
`--reward-key` names the number to train on, and `--eval-reward-key` the one to evaluate by.
Source: slime at 624b824, slime/rollout/rm_hub/__init__.py, remote_rm; miles at 31f1ca9, likewise.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    FailFast,
    Field,
    PlainValidator,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from reward_server.config import MAX_SCORERS
from reward_server.errors import InvalidRequest, RewardServerError, TooLarge
from reward_server.pipeline.explaining import MAX_ROLLOUTS as MAX_EXPLAINED
from reward_server.pipeline.rollout import SubmittedRollout
from sar.errors import first_line, quote
from sar.grading.label import GraderName, Label, LabelError, Mode, parse_label
from sar.json_values import count_values

_M = TypeVar("_M", bound=BaseModel)

# A query, a prompt, and a label with 26 choices are 34 values.
_MAX_VALUES_PER_SAMPLE = 64
_MAX_DIGITS = 100


@dataclass(frozen=True)
class RequestLimits:
    """How much one request may hold."""

    max_samples: int
    max_text_chars: int
    max_body_bytes: int
    max_samples_reason: str = "--max-samples-per-request is"
    """What says how many rollouts a request may hold, for the message of a request with more."""


class _ParsedLabel(NamedTuple):
    label: Label
    as_sent: str | dict[str, Any]


def _check_text(text: str, info: ValidationInfo[Any], part: str = "") -> str:
    """Refuses a text that is too long or not Unicode. `part` is the field's part, `.choices`."""
    _check_length(len(text), info)
    try:
        text.encode()
    except UnicodeEncodeError as error:  # a lone surrogate, which JSON can contain as an escape
        raise PydanticCustomError("string_unicode", "", {"part": part}) from error
    return text


def _check_length(num_chars: int, info: ValidationInfo[Any]) -> None:
    limits: RequestLimits = info.context
    if num_chars > limits.max_text_chars:
        raise PydanticCustomError(
            "too_large",
            "has {num_chars} characters: --max-text-chars is {limit}",
            {"num_chars": num_chars, "limit": limits.max_text_chars},
        )


def _count_chars(value: Any, limit: int) -> int:
    """Characters of a JSON value: of its keys, texts and numbers, and one for each value.

    Stops soon after `limit`, so that the rest of a larger value costs nothing.
    """
    num_chars = 0
    waiting = [value]
    while waiting and num_chars + len(waiting) <= limit:
        one = waiting.pop()
        num_chars += 1
        if isinstance(one, str):
            num_chars += len(one)
        elif isinstance(one, int):
            num_chars += one.bit_length() // 3  # about as many digits
        elif isinstance(one, dict):
            num_chars += sum(map(len, one))
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one
    return num_chars + len(waiting)


def _read_label(value: Any, info: ValidationInfo[Any]) -> _ParsedLabel:
    # Before it is parsed: a text may be JSON, and an object may hold anything.
    if isinstance(value, str):
        _check_text(value, info)
    else:
        _check_length(_count_chars(value, info.context.max_text_chars), info)
    label = parse_label(value)
    _check_text(label.answer, info)
    for choice in label.choices:
        _check_text(choice, info, ".choices")
    if isinstance(label.group, str):
        _check_text(label.group, info, ".group")
    return _ParsedLabel(label, value)


_LABEL_SCHEMA: dict[str, Any] = {
    "description": "The ground truth: a string, or an object (or its JSON text) with more.",
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
                "choices": {"type": ["array", "null"], "items": {"type": "string"}, "maxItems": 26},
                "group": {"type": ["string", "integer", "null"], "minLength": 1},
                "target_tokens": {"type": ["integer", "null"], "minimum": 1, "maximum": 10**9},
            },
        },
    ],
}
_Text = Annotated[str, AfterValidator(_check_text)]
# A _ParsedLabel; pydantic would publish that class, which is no part of a request.
_Label = Annotated[Any, PlainValidator(_read_label), WithJsonSchema(_LABEL_SCHEMA)]


class GetRewardRequest(BaseModel):
    """Rollouts, in three lists of one length."""

    model_config = ConfigDict(
        strict=True,
        json_schema_extra={
            "example": {"query": ["Q: 2+3?\nA: 5"], "prompts": ["Q: 2+3?\nA:"], "labels": ["5"]}
        },
    )

    query: Annotated[list[_Text], FailFast()] = Field(
        description="prompt and response in one text, special tokens included"
    )
    prompts: Annotated[list[_Text], FailFast()] = Field(description="what the policy was given")
    labels: Annotated[list[_Label], FailFast()] = Field(description="the ground truths")

    @model_validator(mode="before")
    @classmethod
    def _check_lengths(cls, data: Any, info: ValidationInfo[Any]) -> Any:
        """Checks the lists' lengths before their items are parsed, which may take long."""
        lists = [data.get(name) if isinstance(data, dict) else None for name in cls.model_fields]
        lengths = [len(values) for values in lists if isinstance(values, list)]
        if len(lengths) < len(lists):
            return data  # each field's own error says more
        if len(set(lengths)) > 1:
            counts = map("{} {}".format, lengths, cls.model_fields)
            raise InvalidRequest(f"lists of different lengths: {', '.join(counts)}")
        limits: RequestLimits = info.context
        if lengths[0] > limits.max_samples:
            raise TooLarge(
                f"{lengths[0]} rollouts in a request: {limits.max_samples_reason} "
                f"{limits.max_samples}"
            )
        return data

    def to_rollouts(self) -> list[SubmittedRollout]:
        return [
            SubmittedRollout(query, prompt, *label)
            for query, prompt, label in zip(self.query, self.prompts, self.labels, strict=True)
        ]


class RmRequest(BaseModel):
    """One rollout, as slime and miles send it."""

    model_config = ConfigDict(
        strict=True,
        json_schema_extra={"example": {"prompt": "Q: 2+3?\nA:", "response": " 5", "label": "5"}},
    )

    prompt: _Text = Field(min_length=1, description="what the policy was given")
    response: _Text = Field(description="what it wrote, special tokens included")
    label: _Label

    def to_rollout(self, limits: RequestLimits) -> SubmittedRollout:
        query = self.prompt + self.response
        if len(query) > limits.max_text_chars:
            raise TooLarge(
                f"prompt + response has {len(query)} characters: --max-text-chars is "
                f"{limits.max_text_chars}",
                "prompt + response",
            )
        return SubmittedRollout(query, self.prompt, *self.label)


class UpdateWeightsRequest(BaseModel):
    """The checkpoint to score with from now on."""

    model_config = ConfigDict(strict=True)

    path: str = Field(description="its folder, on the server's machine")


class ScorersRequest(BaseModel):
    """How many scorers there are to be."""

    model_config = ConfigDict(strict=True)

    num: int = Field(ge=1, le=MAX_SCORERS, description="scorers, those that start included")


def parse_get_reward(body: bytes | bytearray, limits: RequestLimits) -> list[SubmittedRollout]:
    """The rollouts of OpenRLHF's request.

    Raises:
        InvalidRequest: names the field at fault, such as `labels[3].grader`.
        TooLarge: names the field and the limit.
    """
    return _parse(GetRewardRequest, body, limits).to_rollouts()


def parse_explain(body: bytes | bytearray, limits: RequestLimits) -> list[SubmittedRollout]:
    """The rollouts to explain, in the form of `/get_reward`. Raises as `parse_get_reward` does."""
    if limits.max_samples > MAX_EXPLAINED:
        limits = replace(
            limits, max_samples=MAX_EXPLAINED, max_samples_reason="/explain takes at most"
        )
    return parse_get_reward(body, limits)


def parse_rm(body: bytes | bytearray, limits: RequestLimits) -> SubmittedRollout:
    """The rollout of slime's or miles' request. Raises as `parse_get_reward` does."""
    return _parse(RmRequest, body, limits).to_rollout(limits)


def parse_update_weights(body: bytes | bytearray) -> Path:
    """The checkpoint's folder.

    Raises:
        InvalidRequest: the request names none, or it does not exist here.
    """
    path = _parse(UpdateWeightsRequest, body).path
    if not os.path.isdir(path):
        raise InvalidRequest(f"there is no folder {quote(path)} on this machine", "path")
    return Path(path)


def parse_scorers(body: bytes | bytearray) -> int:
    """The number of scorers.

    Raises:
        InvalidRequest: the request names none, or too many.
    """
    return _parse(ScorersRequest, body).num


def _parse(model: type[_M], body: bytes | bytearray, limits: RequestLimits | None = None) -> _M:
    max_values = _MAX_VALUES_PER_SAMPLE * (limits.max_samples if limits else 1)
    if len(body) > max_values and count_values(body) > max_values:
        raise TooLarge(f"the body holds more than {max_values} JSON values: send fewer rollouts")
    with suppress(ValidationError):  # the common case, and the fastest
        return model.model_validate_json(body, context=limits)
    # The standard library also reads lone surrogates: `_check_text` names their field.
    try:
        payload = json.loads(body.decode("utf-8", "surrogatepass"), parse_int=_read_int)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"the body is not JSON: {first_line(error)}") from error
    try:
        return model.model_validate(payload, context=limits)
    except ValidationError as error:
        raise _convert_error(model, error) from None


def _read_int(digits: str) -> int:
    """Refuses a long number, which takes the square of its length to read. No field takes one."""
    if len(digits) > _MAX_DIGITS:
        raise ValueError(f"a number of {len(digits):,} digits")
    return int(digits)


def _convert_error(model: type[BaseModel], error: ValidationError) -> RewardServerError:
    """The request's first error as an error of this server that names the field.

    A missing or wrong list comes first, and then the first rollout with a wrong item.
    """
    first = min(error.errors(include_url=False), key=lambda one: one["loc"][1:2])
    kind, value, context = first["type"], first["input"], first.get("ctx", {})
    field = "".join(f"[{k}]" if isinstance(k, int) else f".{k}" for k in first["loc"]).lstrip(".")
    if not field:
        names = ", ".join(model.model_fields)
        return InvalidRequest(f"the body must be a JSON object with {names}")
    if kind == "missing" or (value is None and len(first["loc"]) == 1):
        return InvalidRequest(f"{field} is missing", field)
    if kind == "too_large":
        return TooLarge(f"{field} {first['msg']}", field)
    if isinstance(label_error := context.get("error"), LabelError):
        at_fault = f"{field}.{label_error.field}" if label_error.field else field
        return InvalidRequest(f"{field}: {label_error}", at_fault)
    if kind == "string_unicode":
        field += context.get("part", "")
        return InvalidRequest(f"{field} is not Unicode text", field)
    if kind == "string_too_short":
        return InvalidRequest(f"{field} is empty", field)
    if field == "prompt" and isinstance(value, list):
        return InvalidRequest(
            "prompt must be a string, not messages: the text that the policy was given, which the "
            "trainer makes of them with --apply-chat-template",
            field,
        )
    if kind.startswith("int_") or kind in ("greater_than_equal", "less_than_equal"):
        text = f"{field} must be a whole number from 1 to {MAX_SCORERS}"
        return InvalidRequest(text, field)
    wanted = "a list" if kind == "list_type" else "a string"
    return InvalidRequest(f"{field} must be {wanted}, not {type(value).__name__}", field)
