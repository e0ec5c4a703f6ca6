"""What the server answers: rewards, health and errors. /openapi.json comes from here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Self, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, create_model

from reward_server.observe.status import Status
from reward_server.pipeline.rollout import ScoredRollout
from sar.grading.verdict import Reason

_EXACT = ConfigDict(extra="forbid")
_Flag = Literal[0, 1]


class RmAnswer(BaseModel):
    """The reward of one rollout. Numbers only: OpenRLHF makes tensors of all of them."""

    model_config = _EXACT

    reward: FiniteFloat = Field(description="correctness + weight x SAR; trains the policy")
    score: FiniteFloat = Field(description="correctness again, for dynamic filtering")
    correctness: FiniteFloat = Field(description="1 if the answer is right, else 0")
    sar: FiniteFloat = Field(description="Self-Aligned Reward, from -1 to 1")
    ppl_qa: FiniteFloat = Field(description="perplexity of the response given the prompt")
    ppl_a: FiniteFloat = Field(description="perplexity given the empty-question prompt")
    response_tokens: int = Field(description="tokens of the response")
    over_context: _Flag = Field(description="1: longer than the context; its start was scored")
    no_answer: _Flag = Field(description="1: the response gives no answer")
    grader_timeout: _Flag = Field(description="1: grading timed out; correctness is 0")
    grader_crashed: _Flag = Field(description="1: grading crashed graders; correctness is 0")
    label_unreadable: _Flag = Field(description="1: the label is not readable as math")
    template_mismatch: _Flag = Field(description="1: the prompt's template is not the server's")
    policy_version: int = Field(description="training step of the weights; 0: the server's first")
    policy_age_s: FiniteFloat = Field(description="seconds since the weights were loaded")

    @classmethod
    def of(cls, scored: ScoredRollout) -> Self:
        return cls(**_get_numbers(scored))


def _get_numbers(scored: ScoredRollout) -> dict[str, Any]:
    """The fields of `RmAnswer`."""
    reward, likelihood, verdict = scored.reward, scored.reward.likelihood, scored.reward.verdict
    return {
        "reward": reward.value,
        "score": reward.correctness,
        "correctness": reward.correctness,
        "sar": likelihood.sar,
        "ppl_qa": likelihood.ppl_qa,
        "ppl_a": likelihood.ppl_a,
        "response_tokens": likelihood.num_response_tokens,
        "over_context": int(likelihood.over_context),
        "no_answer": int(verdict.reason is Reason.NO_ANSWER),
        "grader_timeout": int(verdict.reason is Reason.TIMEOUT),
        "grader_crashed": int(verdict.reason is Reason.CRASHED),
        "label_unreadable": int(verdict.label_unreadable),
        "template_mismatch": int(scored.template_mismatch),
        "policy_version": scored.policy_version,
        "policy_age_s": scored.policy_age_s,
    }


_HINTS = get_type_hints(RmAnswer, include_extras=True)
_EXTRA_LOGS: Any = {
    name: (list[_HINTS[name]], Field(description=field.description))  # type: ignore[valid-type]
    for name, field in RmAnswer.model_fields.items()
    if name not in ("reward", "score")
}
ExtraLogs: Any = create_model("ExtraLogs", __config__=_EXACT, **_EXTRA_LOGS)
"""The numbers for the trainer's log: all of `RmAnswer` but the reward and the score, in lists."""


class GetRewardAnswer(BaseModel):
    """The rewards of all rollouts, in the order of the request."""

    model_config = _EXACT

    rewards: list[FiniteFloat] = Field(description=RmAnswer.model_fields["reward"].description)
    scores: list[FiniteFloat] = Field(description=RmAnswer.model_fields["score"].description)
    extra_logs: ExtraLogs = Field(description="numbers for the trainer's log")

    @classmethod
    def of(cls, scored: Sequence[ScoredRollout]) -> Self:
        rows = [_get_numbers(one) for one in scored]
        columns = {name: [row[name] for row in rows] for name in RmAnswer.model_fields}
        return cls(rewards=columns.pop("reward"), scores=columns.pop("score"), extra_logs=columns)


class UpdateWeightsAnswer(BaseModel):
    """The checkpoint is in service."""

    model_config = _EXACT

    policy_version: int = Field(description="step in the checkpoint's name, else the last + 1")


class HealthAnswer(Status):
    """The server is alive."""

    status: Literal["ok"]
    model: str
    sar_weight: float


class ReadyAnswer(BaseModel):
    """Whether rewards are given."""

    model_config = _EXACT

    status: Literal["loading", "ready", "failing"]


class Error(BaseModel):
    """What went wrong."""

    model_config = _EXACT

    type: str
    message: str
    field: str | None = Field(description="the field at fault")


class ErrorAnswer(BaseModel):
    """There is no reward: an error never becomes one."""

    model_config = _EXACT

    error: Error
