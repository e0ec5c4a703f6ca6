"""What the server answers: rewards, health and errors. /openapi.json comes from here.

With a reward file, the answers have a number for each of its terms: see `make_answers`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, create_model

from reward_server.observe.status import Status
from reward_server.pipeline.rollout import ScoredRollout
from sar.grading.verdict import Reason
from sar.terms.base import GroupTerm, Term
from sar.terms.composition import Composition

_EXACT = ConfigDict(extra="forbid")
_Flag = Literal[0, 1]
_TERM = "term_"


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
        return cls(**cls.get_numbers(scored))

    @classmethod
    def get_numbers(cls, scored: ScoredRollout) -> dict[str, Any]:
        """The value of each field."""
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


class _ComposedAnswer(RmAnswer):
    """The reward of one rollout, with the values of the reward file's terms."""

    @classmethod
    def get_numbers(cls, scored: ScoredRollout) -> dict[str, Any]:
        terms = {_TERM + name: value for name, value in scored.reward.terms.items()}
        return {**super().get_numbers(scored), **terms}


class _GroupedAnswer(_ComposedAnswer):
    """The same for a reward that compares rollouts."""

    cohort_incomplete: _Flag = Field(description="1: siblings were missing when it was compared")

    @classmethod
    def get_numbers(cls, scored: ScoredRollout) -> dict[str, Any]:
        flag = int(scored.cohort_incomplete)
        return {**super().get_numbers(scored), "cohort_incomplete": flag}


def _make_extra_logs(one: type[RmAnswer]) -> Any:
    """The numbers for the trainer's log: those of `one` but the reward and the score, in lists."""
    hints = get_type_hints(one, include_extras=True)
    fields: Any = {
        name: (list[hints[name]], Field(description=field.description))  # type: ignore[valid-type]
        for name, field in one.model_fields.items()
        if name not in ("reward", "score")
    }
    return create_model("ExtraLogs", __config__=_EXACT, **fields)


ExtraLogs: Any = _make_extra_logs(RmAnswer)


class GetRewardAnswer(BaseModel):
    """The rewards of all rollouts, in the order of the request."""

    model_config = _EXACT

    rewards: list[FiniteFloat] = Field(description=RmAnswer.model_fields["reward"].description)
    scores: list[FiniteFloat] = Field(description=RmAnswer.model_fields["score"].description)
    extra_logs: ExtraLogs = Field(description="numbers for the trainer's log")

    one: ClassVar[type[RmAnswer]] = RmAnswer
    """The answer to one rollout with the same numbers."""

    @classmethod
    def of(cls, scored: Sequence[ScoredRollout]) -> Self:
        rows = [cls.one.get_numbers(one) for one in scored]
        columns = {name: [row[name] for row in rows] for name in cls.one.model_fields}
        return cls(rewards=columns.pop("reward"), scores=columns.pop("score"), extra_logs=columns)


@dataclass(frozen=True)
class Answers:
    """The answers with rewards."""

    get_reward: type[GetRewardAnswer] = GetRewardAnswer
    rm: type[RmAnswer] = RmAnswer


def make_answers(composition: Composition | None) -> Answers:
    """The answers of a server with this reward file, or without one."""
    if composition is None:
        return Answers()
    total = Field(description=f"{composition.formula}; trains the policy")
    terms: Any = {
        _TERM + one.name: (FiniteFloat, Field(description=_describe_term(one.term)))
        for one in composition.terms
    }
    rm = create_model(
        "RmAnswer",
        __base__=_ComposedAnswer if composition.group_size is None else _GroupedAnswer,
        __doc__=RmAnswer.__doc__,
        reward=(FiniteFloat, total),
        **terms,
    )
    logs = Field(description=GetRewardAnswer.model_fields["extra_logs"].description)
    get_reward = create_model(
        "GetRewardAnswer",
        __base__=GetRewardAnswer,
        __doc__=GetRewardAnswer.__doc__,
        rewards=(list[FiniteFloat], total),
        extra_logs=(_make_extra_logs(rm), logs),
    )
    get_reward.one = rm
    return Answers(get_reward, rm)


def _describe_term(term: Term | GroupTerm) -> str:
    """Its formula and its values. A term of the user's own may not say them."""
    parts = [getattr(term, name, "") for name in ("formula", "bounds")]
    return "; ".join(f"{part}" for part in parts if part) or type(term).__name__


class UpdateWeightsAnswer(BaseModel):
    """The checkpoint is in service."""

    model_config = _EXACT

    policy_version: int = Field(description="step in the checkpoint's name, else the last + 1")


class ScorersAnswer(BaseModel):
    """Scorers come or go until there are as many."""

    model_config = _EXACT

    num: int = Field(description="how many there will be")
    up: int = Field(description="how many are in service now")


class HealthAnswer(Status):
    """The server is alive."""

    status: Literal["ok"]
    model: str
    reward: str = Field(description="what the reward is the sum of")
    sar_weight: float = Field(description="weight of SAR in it")


class ReadyAnswer(BaseModel):
    """Whether rewards are given."""

    model_config = _EXACT

    status: Literal["loading", "ready", "failing", "no scorer is up"]


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
