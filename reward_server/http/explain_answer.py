"""What `POST /explain` answers: each rollout's reward, and its tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, TypeAdapter

from reward_server.pipeline.explaining import ExplainedRollout
from sar.grading.verdict import Reason

_EXACT = ConfigDict(extra="forbid")
# Takes about a millisecond, in which no other thread runs.
_TOKENS_IN_A_ROW = 1024


class TokenAnswer(BaseModel):
    """One token of a response."""

    model_config = _EXACT

    text: str = Field(description="its characters; of a part of a character, the whole character")
    start: int = Field(description="first of its characters in the response, from 0")
    end: int = Field(description="the character after its last one")
    nll_qa: FiniteFloat = Field(description="negative log-likelihood after the prompt, in nats")
    nll_a: FiniteFloat = Field(description="the same after the empty-question prompt")


class RolloutAnswer(BaseModel):
    """One rollout's reward, and what it was computed from."""

    model_config = _EXACT

    prompt: str = Field(description="as the policy saw it")
    response: str = Field(description="special tokens included, padding left out")
    reward: FiniteFloat | None = Field(
        description="null: it compares rollouts, and this one's siblings are not in the request"
    )
    correctness: FiniteFloat = Field(description="1 if the answer is right, else 0")
    reason: str = Field(
        description="why it was graded so",
        json_schema_extra={"enum": [one.value for one in Reason]},
    )
    answer: str | None = Field(description="what the grader took for the answer")
    sar: FiniteFloat = Field(description="Self-Aligned Reward, from -1 to 1")
    ppl_qa: FiniteFloat = Field(description="perplexity of the response given the prompt")
    ppl_a: FiniteFloat = Field(description="perplexity given the empty-question prompt")
    terms: dict[str, FiniteFloat] = Field(description="values of the reward file's terms, by name")
    response_tokens: int = Field(description="tokens of the response, those cut off included")
    over_context: bool = Field(description="longer than the context; its start was scored")
    policy_version: int = Field(description="training step of the weights; 0: the server's first")
    tokens: list[TokenAnswer] = Field(description="the tokens that were scored")


class ExplainAnswer(BaseModel):
    """The rollouts in the order of the request. The mean of nll_qa over the tokens of a rollout is
    the logarithm of its ppl_qa, which has an upper limit, and likewise nll_a."""

    model_config = _EXACT

    rollouts: list[RolloutAnswer]


_TOKENS = TypeAdapter(list[TokenAnswer])


def write_explain_answer(rollouts: Sequence[ExplainedRollout]) -> list[bytes]:
    """An `ExplainAnswer` as JSON, in parts. No other thread could run while a large one is written
    in one go."""
    parts = [b'{"rollouts":[']
    for index, rollout in enumerate(rollouts):
        parts += [b"," if index else b"", *_write_rollout(rollout)]
    return [*parts, b"]}"]


def _write_rollout(rollout: ExplainedRollout) -> Iterator[bytes]:
    explanation = rollout.explanation
    start = RolloutAnswer(
        **explanation.to_fields(),
        response_tokens=explanation.likelihood.num_response_tokens,
        over_context=explanation.likelihood.over_context,
        policy_version=rollout.policy_version,
        tokens=[],
    )
    yield start.model_dump_json().encode().removesuffix(b"]}")
    tokens = explanation.tokens
    for first in range(0, len(tokens), _TOKENS_IN_A_ROW):
        answers = [TokenAnswer(**t._asdict()) for t in tokens[first : first + _TOKENS_IN_A_ROW]]
        yield (b"," if first else b"") + _TOKENS.dump_json(answers)[1:-1]
    yield b"]}"
