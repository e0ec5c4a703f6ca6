"""A language model that judges responses by a rubric, behind an OpenAI-compatible chat endpoint."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, Field, FiniteFloat, ValidationError, ValidationInfo
from pydantic.dataclasses import dataclass

from sar.grading.rules.answers import strip_thinking
from sar.terms.base import OPTIONS, Sample
from sar.terms.remote.client import Post, RemoteError
from sar.terms.remote.options import RemoteTerm, Template
from sar.terms.remote.template import fill

_SCORE_LINE = re.compile(r"Score:\s*([+-]?[0-9]+(?:\.[0-9]+)?)")
_MAX_ANSWERS = 3
# The term itself sets these.
_OWN_FIELDS = frozenset({"model", "messages", "n", "stream"})


def read_score(answer: str, low: float, high: float) -> float | None:
    """The number of the answer's last line, "Score: N". None: there is no such line, N is not from
    `low` to `high`, or another line starts with "Score:" too. Thinking is left out."""
    lines = [line.strip() for line in strip_thinking(answer).splitlines() if line.strip()]
    if not lines or sum(line.casefold().startswith("score:") for line in lines) != 1:
        return None
    match = _SCORE_LINE.fullmatch(lines[-1])
    number = float(match[1]) if match else None
    return number if number is not None and low <= number <= high else None


class _Message(BaseModel):
    content: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class _Answer(BaseModel):
    choices: Annotated[list[_Choice], Field(min_length=1, max_length=1)]


def _check_max(high: float, info: ValidationInfo) -> float:
    low = info.data.get("min")
    if low is not None and not low < high:
        raise ValueError(f"more than min = {low:g}")
    if low is not None and math.isinf(high - low):
        raise ValueError(f"nearer to min = {low:g}")
    return high


def _check_extra_body(extra: dict[str, Any]) -> dict[str, Any]:
    if own := sorted(_OWN_FIELDS & extra.keys()):
        raise ValueError(f"without {own[0]!r}, which the term sets")
    try:
        json.dumps(extra, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError("a table that JSON can hold, without dates, inf and nan") from error
    return extra


@dataclass(frozen=True, config=OPTIONS, kw_only=True)
class Judge(RemoteTerm):
    """The score that a language model gives to a response by your rubric."""

    formula = "(N - min) / (max - min), N from the judge's line 'Score: N'"
    bounds = "0 to 1"
    source = "Zheng et al., arXiv:2306.05685"

    model: Annotated[str, Field(min_length=1)]
    """The judge's name on its server."""
    rubric: Template
    """What the judge is asked, with `{question}`, `{prompt}`, `{response}` and `{answer}` in it."""
    min: FiniteFloat
    """The lowest score."""
    max: Annotated[FiniteFloat, AfterValidator(_check_max)]
    """The highest score."""
    max_tokens: Annotated[int, Field(ge=1, le=131_072)] = 1024
    """Tokens that the judge may write."""
    extra_body: Annotated[dict[str, Any], AfterValidator(_check_extra_body)] | None = None
    """Further fields of the request, such as `{seed = 1}`."""

    @property
    def _path(self) -> str:
        return "/chat/completions"

    @property
    def _form(self) -> str:
        return f'one line "Score: N", where N is a number from {self.min:.15g} to {self.max:.15g}'

    def _make_body(self, sample: Sample) -> Mapping[str, Any]:
        rubric = fill(self.rubric, sample, self.question_between)
        content = f"{rubric.rstrip()}\n\nEnd your answer with {self._form}."
        extra = self.extra_body or {}
        # Models that think on OpenAI's servers know only the newer name of the limit.
        limit = {} if "max_completion_tokens" in extra else {"max_tokens": self.max_tokens}
        messages = [{"role": "user", "content": content}]
        return {"model": self.model, "messages": messages, "temperature": 0.0, **limit, **extra}

    async def _ask(self, post: Post, body: Mapping[str, Any]) -> float:
        messages = list(body["messages"])
        for _ in range(_MAX_ANSWERS):
            choice = self._read(await post({**body, "messages": messages}))
            text = strip_thinking(choice.message.content or "")
            is_whole = choice.finish_reason == "stop"
            score = read_score(text, self.min, self.max) if is_whole else None
            if score is not None:
                return (score - self.min) / (self.max - self.min)
            # The same question would get the same answer: the temperature is 0.
            reminder = f"Your answer does not end with {self._form}. Give only this line."
            if text:
                messages.append({"role": "assistant", "content": text})
                messages.append({"role": "user", "content": reminder})
        ended_by = choice.finish_reason and self._client.quote(choice.finish_reason)
        end = "" if is_whole else f" (ended by {ended_by})"
        raise RemoteError(
            f"{_MAX_ANSWERS} answers of the judge without {self._form}; the last{end}: "
            f"{self._client.quote(text)}"
        )

    def _read(self, answer: bytes) -> _Choice:
        try:
            return _Answer.model_validate_json(answer).choices[0]
        except ValidationError:  # its own message may show the key, if the server sent it back
            raise RemoteError(
                f"an answer that is no chat completion from {self._client.url}: "
                f"{self._client.quote(answer)}"
            ) from None
