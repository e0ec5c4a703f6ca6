"""The record of one decision: what was rewarded, how, and why. One JSON line of a reward log.

It has what is needed to decide again without the model: `sar.rescore` does.
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
    """One rollout's reward with all it came from. The fields are those of the JSON object."""

    time: str
    """When the reward was there: ISO 8601, UTC."""
    request_id: str
    prompt: str
    response: str
    """As it was scored, special tokens included."""
    special_tokens: tuple[str, ...]
    """Those in the response that its grader was not shown."""
    label: str | dict[str, Any]
    """As it was sent; `sar.grading.label.parse_label` reads it."""
    grader: GraderName
    mode: Mode
    reason: Reason
    answer: str | None
    """What was taken for the response's answer."""
    correctness: float
    label_unreadable: bool
    nll_qa: float
    """Mean NLL of the response after its prompt, nats."""
    nll_a: float
    """The same after the empty-question prompt."""
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
            prompt, response: as the query was split, special tokens included.
            special_tokens: see `RolloutTokenizer.find_special_tokens`.
            label_as_sent: the label before it was read.
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
            **_of_reward(reward, label.grader, label.mode, sar_weight),
        )

    def decide_again(
        self, verdict: Verdict, grader: GraderName, mode: Mode, sar_weight: float
    ) -> Decision:
        """The same rollout with the reward that another verdict or weight gives it."""
        reward = combine(verdict, self.likelihood, sar_weight=sar_weight, mode=mode)
        return replace(self, **_of_reward(reward, grader, mode, sar_weight))

    @property
    def graded_text(self) -> str:
        """What the grader was given: no special tokens, and the thinking that the prompt opened."""
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
        """One line of JSON, without its line end.

        Raises:
            ValueError: a number is not finite; none that comes from `sar.reward` is.
        """
        # Formulas stay legible; only control characters are escaped.
        return json.dumps(asdict(self), ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_json(cls, line: str) -> Decision:
        """Reads what `to_json` wrote. Fields that are not known are passed over.

        Raises:
            ValueError: the line is not JSON, has another schema, or a field is missing or wrong.
        """
        try:
            record = json.loads(line)
        except RecursionError as error:
            raise ValueError("nested too deeply") from error
        if not isinstance(record, dict):
            raise ValueError("not a JSON object")
        if record.get("schema") != SCHEMA:
            raise ValueError(f"schema {record.get('schema')!r}; this version reads {SCHEMA}")
        return cls(**{field.name: _read(record, field.name, field.type) for field in fields(cls)})


def _of_reward(reward: Reward, grader: GraderName, mode: Mode, sar_weight: float) -> dict[str, Any]:
    """The fields that a reward and what it was computed with fill."""
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


def _read(record: dict[str, Any], name: str, annotation: Any) -> Any:
    if name not in record:
        raise ValueError(f"{name} is missing")
    try:
        return _READERS[annotation](record[name])
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{name} is {str(record[name])[:80]!r}: {error}") from error


def _one_of(*kinds: type) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        if type(value) not in kinds:  # isinstance would take true for a number
            raise ValueError(f"of a wrong type, {type(value).__name__}")
        return value

    return read


def _number(value: Any) -> float:
    number = float(_one_of(float, int)(value))
    if not math.isfinite(number):
        raise ValueError("not a finite number")
    return number


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(map(_one_of(str), _one_of(list)(value)))


def _name(allowed: Sequence[str]) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if value not in allowed:
            raise ValueError(f"not one of {', '.join(allowed)}")
        return str(value)

    return read


# Annotations are texts here, as in every module that postpones their evaluation.
_READERS: dict[Any, Callable[[Any], Any]] = {
    "str": _one_of(str),
    "str | None": _one_of(str, type(None)),
    "str | int | None": _one_of(str, int, type(None)),
    "str | dict[str, Any]": _one_of(str, dict),
    "tuple[str, ...]": _texts,
    "int": _one_of(int),
    "float": _number,
    "bool": _one_of(bool),
    "Reason": Reason,
    "GraderName": _name(get_args(GraderName)),
    "Mode": _name(get_args(Mode)),
}
