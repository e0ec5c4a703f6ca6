"""The record of one rollout's reward and everything it was computed from: one line of a reward log.

It is enough to compute the reward again without the model, as `sar.rescore` does.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, NamedTuple

from pydantic import AliasChoices, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from sar.errors import MAX_MESSAGE_CHARS, quote, shorten
from sar.grading.graded_text import make_graded_text
from sar.grading.label import GraderName, Label, Mode, parse_label
from sar.grading.verdict import Reason, Verdict
from sar.reward import Likelihood, Reward, combine
from sar.terms.base import Sample
from sar.tokenization import NEEDS

SCHEMA = 1

# JSON has no tuples and enums: pydantic converts these fields. Other types have to match exactly.
_CONVERTED = Field(strict=False)
# Older logs have the second name.
_RENAMED = Field(validation_alias=AliasChoices("over_context", "truncated"))
# A line has these fields only if they are set.
_OPTIONAL = ("terms", "group", "seat", "num_members", *NEEDS)


class GroupPlace(NamedTuple):
    """Which rollouts a reward was compared with. `Decision` has the same fields."""

    group: str = ""
    seat: int | None = None
    num_members: int | None = None


NO_GROUP = GroupPlace()
"""The place of a rollout that was compared with no other."""


@dataclass(frozen=True)
class Decision:
    """One rollout's reward and what it was computed from. The JSON object has the same fields."""

    time: str
    """When the reward was computed: ISO 8601, UTC."""
    request_id: str
    prompt: str
    response: str
    """The text that was scored, special tokens included."""
    special_tokens: Annotated[tuple[str, ...], _CONVERTED]
    """Special tokens in the response. Graders do not see them (`sar.grading.graded_text`)."""
    label: str | dict[str, Any]
    """As the client sent it; `sar.grading.label.parse_label` parses it."""
    grader: GraderName
    mode: Mode
    reason: Annotated[Reason, _CONVERTED]
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
    over_context: Annotated[bool, _RENAMED]
    """True if the prompt or the response was cut to fit the context. `truncated` in older logs."""
    template_mismatch: bool
    policy_version: str | int | None
    model: str
    server_version: str
    schema: int = SCHEMA
    end_tokens: Annotated[tuple[str, ...], _CONVERTED] = ()
    """Special tokens that end a response of this policy. Empty in older logs: there, the
    `COMMON_END_TOKENS` end it."""
    terms: dict[str, float] = field(default_factory=dict)
    """Values of the reward file's terms, before weights and conditions. Without a reward file,
    this is empty and the line has no such field."""
    group: str = ""
    """The same in all rollouts that were compared with each other. Empty if none were; the line
    then has no such field."""
    seat: Annotated[int, Field(ge=0)] | None = None
    """Place in the group, from 0. A rollout that was sent again has its first attempt's."""
    num_members: Annotated[int, Field(ge=1)] | None = None
    """The reward compares the rollouts with seats below this. It is less than the group's size if
    siblings came late or never. A line has these two fields if it has `group`."""
    self_certainty: float | None = None
    reference_gain: float | None = None
    """What `Likelihood` has under these names. A line has them only if a term needed them."""

    __pydantic_config__: ClassVar = ConfigDict(strict=True, allow_inf_nan=False)

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
        end_tokens: Sequence[str] = (),
        place: GroupPlace = NO_GROUP,
    ) -> Decision:
        """The record of a reward that was just computed.

        Args:
            prompt, response: from `RolloutTokenizer.split`, special tokens included.
            special_tokens: from `RolloutTokenizer.find_special_tokens`.
            label_as_sent: the label before it was parsed.
            end_tokens: `RolloutTokenizer.end_tokens`.
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
            end_tokens=tuple(end_tokens),
            **place._asdict(),
            **_reward_fields(reward, label.grader, label.mode, sar_weight),
        )

    def decide_again(
        self, verdict: Verdict, grader: GraderName, mode: Mode, sar_weight: float
    ) -> Decision:
        """The same rollout with a reward from another verdict, mode or SAR weight."""
        reward = combine(verdict, self.likelihood, sar_weight=sar_weight, mode=mode)
        return self.with_reward(reward, grader, mode, sar_weight=sar_weight)

    def with_reward(
        self,
        reward: Reward,
        grader: GraderName,
        mode: Mode,
        *,
        sar_weight: float | None = None,
        place: GroupPlace | None = None,
    ) -> Decision:
        """The same rollout with another reward.

        Args:
            sar_weight, place: None: as they are.
        """
        weight = self.sar_weight if sar_weight is None else sar_weight
        fields = _reward_fields(reward, grader, mode, weight)
        if place is not None:
            fields |= place._asdict()
        return replace(self, **fields)

    def make_sample(self, verdict: Verdict, grader: GraderName) -> Sample:
        """The rollout as terms see it, with another verdict.

        Raises:
            LabelError: the grader cannot grade against the label.
        """
        label = parse_label(self.label, grader)
        return Sample(self.prompt, self.graded_text, label, verdict, self.likelihood)

    @property
    def sample(self) -> Sample:
        """The rollout as terms saw it. Raises LabelError as `make_sample` does."""
        return self.make_sample(self.verdict, self.grader)

    @property
    def graded_text(self) -> str:
        """The text that was graded (see `make_graded_text`)."""
        return make_graded_text(
            self.response,
            prompt=self.prompt,
            special_tokens=self.special_tokens,
            end_tokens=self.end_tokens,
        )

    @property
    def verdict(self) -> Verdict:
        return Verdict(self.reason, self.answer, self.label_unreadable)

    @property
    def likelihood(self) -> Likelihood:
        return Likelihood(
            self.nll_qa,
            self.nll_a,
            self.num_response_tokens,
            self.over_context,
            self.self_certainty,
            self.reference_gain,
        )

    def to_json(self) -> str:
        """One line of JSON, without a line break at its end.

        Raises:
            ValueError: a number is not finite. Numbers from `sar.reward` always are.
        """
        # Text that is not ASCII stays readable, as it is not escaped.
        return json.dumps(self.to_fields(), ensure_ascii=False, allow_nan=False)

    def to_fields(self) -> dict[str, Any]:
        """The JSON object of `to_json`."""
        fields = asdict(self)
        return {
            name: value
            for name, value in fields.items()
            if name not in _OPTIONAL or value not in (None, "", {})
        }

    @classmethod
    def from_json(cls, line: str) -> Decision:
        """Reads a line that `to_json` wrote. Unknown fields are ignored.

        Raises:
            ValueError: the line is not JSON, has another schema, or lacks a field, or a field has a
                wrong type or value.
        """
        try:
            return _DECISION.validate_json(line)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            message = first["msg"].removeprefix("Value error, ")
            if first["type"] == "missing":
                message = f"{first['loc'][0]} is missing"
            elif first["loc"]:
                message = f"{first['loc'][0]} is {quote(first['input'], 80)}: {message}"
            raise ValueError(shorten(message, MAX_MESSAGE_CHARS)) from error


def _reward_fields(
    reward: Reward, grader: GraderName, mode: Mode, sar_weight: float
) -> dict[str, Any]:
    """The fields of a decision that change when the reward is computed again."""
    return {
        "reason": reward.verdict.reason,
        "answer": reward.verdict.answer,
        "label_unreadable": reward.verdict.label_unreadable,
        **vars(reward.likelihood),
        "grader": grader,
        "mode": mode,
        "correctness": reward.correctness,
        "ppl_qa": reward.likelihood.ppl_qa,
        "ppl_a": reward.likelihood.ppl_a,
        "sar": reward.likelihood.sar,
        "sar_weight": sar_weight,
        "reward": reward.value,
        "terms": dict(reward.terms),
    }


def _check_schema(record: object) -> object:
    if not isinstance(record, dict):
        raise ValueError("not a JSON object")
    if record.get("schema") != SCHEMA:
        raise ValueError(f"schema {quote(record.get('schema'))}; this version reads {SCHEMA}")
    return record


_DECISION = TypeAdapter[Decision](Annotated[Decision, BeforeValidator(_check_schema)])
