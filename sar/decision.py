"""The record of one rollout's reward and everything it was computed from: one line of a reward log.

It is enough to compute the reward again without the model, as `sar.rescore` does.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from typing import Any, get_args

from sar.grading.label import GraderName, Label, Mode
from sar.grading.rules.answers import opened_thinking
from sar.grading.verdict import Reason, Verdict
from sar.reward import Likelihood, Reward, combine

SCHEMA = 1


@dataclass(frozen=True)
class Decision:
    """One rollout's reward and what it was computed from. The JSON object has the same fields."""

    time: str
    """When the reward was computed: ISO 8601, UTC."""
    request_id: str
    prompt: str
    response: str
    """The text that was scored, special tokens included."""
    special_tokens: tuple[str, ...]
    """Special tokens of the response that were removed before grading."""
    label: str | dict[str, Any]
    """As the client sent it; `sar.grading.label.parse_label` parses it."""
    grader: GraderName
    mode: Mode
    reason: Reason
    answer: str | None
    """The answer that the grader extracted from the response."""
    correctness: float
    label_unreadable: bool
    nll_qa: float
    """Mean negative log-likelihood of the response after its prompt, in nats."""
    nll_a: float
    """Mean negative log-likelihood after the empty-question prompt, in nats."""
    ppl_qa: float
    ppl_a: float
    sar: float
    sar_weight: float
    reward: float
    num_response_tokens: int
    truncated: bool
    template_mismatch: bool
    policy_version: str | int | None
    model: str
    server_version: str
    schema: int = SCHEMA

    @classmethod
    def from_reward(
        cls,
        reward: Reward,
        *,
        request_id: str,
        prompt: str,
        response: str,
        special_tokens: Sequence[str],
        label_as_sent: str | dict[str, Any],
        label: Label,
        sar_weight: float,
        template_mismatch: bool,
        model: str,
        server_version: str,
        policy_version: str | int | None = None,
    ) -> Decision:
        """The record of a reward that was just computed.

        Args:
            prompt, response: from `RolloutTokenizer.split`, special tokens included.
            special_tokens: from `RolloutTokenizer.find_special_tokens`.
            label_as_sent: the label before it was parsed.
        """
        return cls(
            time=datetime.now(UTC).isoformat(timespec="milliseconds"),
            request_id=request_id,
            prompt=prompt,
            response=response,
            special_tokens=tuple(special_tokens),
            label=label_as_sent,
            template_mismatch=template_mismatch,
            policy_version=policy_version,
            model=model,
            server_version=server_version,
            **_reward_fields(reward, label.grader, label.mode, sar_weight),
        )

    def decide_again(
        self, verdict: Verdict, grader: GraderName, mode: Mode, sar_weight: float
    ) -> Decision:
        """The same rollout with a reward from another verdict, mode or SAR weight."""
        reward = combine(verdict, self.likelihood, sar_weight=sar_weight, mode=mode)
        return replace(self, **_reward_fields(reward, grader, mode, sar_weight))

    @property
    def graded_text(self) -> str:
        """The text that was graded: the response without special tokens, after a `<think>` tag if
        the prompt ends with one."""
        tokens = sorted(filter(None, self.special_tokens), key=len, reverse=True)
        visible = re.sub("|".join(map(re.escape, tokens)) or r"(?!)", "", self.response)
        return opened_thinking(self.prompt) + visible

    @property
    def verdict(self) -> Verdict:
        return Verdict(self.reason, self.answer, self.label_unreadable)

    @property
    def likelihood(self) -> Likelihood:
        return Likelihood(self.nll_qa, self.nll_a, self.num_response_tokens, self.truncated)

    def to_json(self) -> str:
        """One line of JSON, without a line break at its end.

        Raises:
            ValueError: a number is not finite. Numbers from `sar.reward` always are.
        """
        # Text that is not ASCII stays readable, as it is not escaped.
        return json.dumps(asdict(self), ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_json(cls, line: str) -> Decision:
        """Reads a line that `to_json` wrote. Unknown fields are ignored.

        Raises:
            ValueError: the line is not JSON, has another schema, or lacks a field, or a field has a
                wrong type or value.
        """
        try:
            record = json.loads(line)
        except RecursionError as error:
            raise ValueError("nested too deeply") from error
        if not isinstance(record, dict):
            raise ValueError("not a JSON object")
        if record.get("schema") != SCHEMA:
            raise ValueError(f"schema {record.get('schema')!r}; this version reads {SCHEMA}")
        return cls(
            **{field.name: _read_field(record, field.name, field.type) for field in fields(cls)}
        )


def _reward_fields(
    reward: Reward, grader: GraderName, mode: Mode, sar_weight: float
) -> dict[str, Any]:
    """The fields of a decision that change when the reward is computed again."""
    verdict, likelihood = reward.verdict, reward.likelihood
    return {
        "grader": grader,
        "mode": mode,
        "reason": verdict.reason,
        "answer": verdict.answer,
        "correctness": verdict.correctness,
        "label_unreadable": verdict.label_unreadable,
        "nll_qa": likelihood.nll_qa,
        "nll_a": likelihood.nll_a,
        "ppl_qa": likelihood.ppl_qa,
        "ppl_a": likelihood.ppl_a,
        "sar": likelihood.sar,
        "sar_weight": sar_weight,
        "reward": reward.value,
        "num_response_tokens": likelihood.num_response_tokens,
        "truncated": likelihood.truncated,
    }


def _read_field(record: dict[str, Any], name: str, annotation: Any) -> Any:
    if name not in record:
        raise ValueError(f"{name} is missing")
    try:
        return _READERS[annotation](record[name])
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{name} is {str(record[name])[:80]!r}: {error}") from error


def _read_type(*kinds: type) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        if type(value) not in kinds:  # isinstance would accept True as a number
            raise ValueError(f"of a wrong type, {type(value).__name__}")
        return value

    return read


def _read_number(value: Any) -> float:
    number = float(_read_type(float, int)(value))
    if not math.isfinite(number):
        raise ValueError("not a finite number")
    return number


def _read_texts(value: Any) -> tuple[str, ...]:
    return tuple(map(_read_type(str), _read_type(list)(value)))


def _read_choice(allowed: Sequence[str]) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if value not in allowed:
            raise ValueError(f"not one of {', '.join(allowed)}")
        return str(value)

    return read


# The keys are strings because `from __future__ import annotations` keeps annotations as strings.
_READERS: dict[Any, Callable[[Any], Any]] = {
    "str": _read_type(str),
    "str | None": _read_type(str, type(None)),
    "str | int | None": _read_type(str, int, type(None)),
    "str | dict[str, Any]": _read_type(str, dict),
    "tuple[str, ...]": _read_texts,
    "int": _read_type(int),
    "float": _read_number,
    "bool": _read_type(bool),
    "Reason": Reason,
    "GraderName": _read_choice(get_args(GraderName)),
    "Mode": _read_choice(get_args(Mode)),
}
