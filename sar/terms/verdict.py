"""Terms from the grader's verdict, and from the response's form."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Any, Literal

import regex
from pydantic import Field, ValidationInfo, field_validator
from pydantic.dataclasses import dataclass

from sar.errors import first_line
from sar.grading.verdict import Reason
from sar.terms.base import OPTIONS, Sample, Term

# CPU time of the whole process, other threads included: that is what `regex` measures.
_MAX_PATTERN_S = 10.0
_OPEN, _CLOSE = "<think>", "</think>"


@dataclass(frozen=True, config=OPTIONS)
class Correctness(Term):
    """The grader's verdict."""

    formula = "1 if the answer is right, else 0"
    bounds = "0 or 1"
    source = "docs/grading.md"
    is_quick = True

    def score(self, sample: Sample) -> float:
        return sample.verdict.correctness


@dataclass(frozen=True, config=OPTIONS)
class NoAnswer(Term):
    """Marks a response that gives no answer; meant for a negative weight."""

    formula = "1 if the response gives no answer, else 0"
    bounds = "0 or 1"
    source = "docs/grading.md"
    is_quick = True

    def score(self, sample: Sample) -> float:
        return float(sample.verdict.reason is Reason.NO_ANSWER)


@dataclass(frozen=True, config=OPTIONS)
class Format(Term):
    """Pays a response that has the form you want. Set `pattern` or `style`.

    The response is the text that is graded: it keeps its `<think>` tags, and starts with the one
    that its prompt ended with. A pattern that backtracks without end is an error, after 10 seconds
    of the process's CPU time.
    """

    formula = "1 if the response has the form, else 0"
    bounds = "0 or 1"
    source = "DeepSeek-R1, arXiv:2501.12948, format reward; patterns: this project"

    pattern: Annotated[str, Field(min_length=1)] | None = None
    r"""Regular expression that the response must contain. `.` matches line breaks too; `\A` is the
    response's start, `\Z` its end."""
    style: Annotated[Literal["think"] | None, Field(validate_default=True)] = None
    """A form with a name. "think": one `<think>...</think>` that is not empty, then an answer."""

    @field_validator("pattern")
    @classmethod
    def _check_pattern(cls, pattern: str | None) -> str | None:
        if pattern is not None:
            try:
                _compile(pattern)
            except Exception as error:
                raise ValueError(f"a regular expression: {first_line(error)}") from error
        return pattern

    @field_validator("style")
    @classmethod
    def _check_style(cls, style: str | None, info: ValidationInfo) -> str | None:
        if "pattern" in info.data:  # else it is wrong, and that is the error to report
            if style is None and info.data["pattern"] is None:
                raise ValueError("'think', or set `pattern`")
            if style is not None and info.data["pattern"] is not None:
                raise ValueError("left out, as `pattern` is set")
        return style

    def score(self, sample: Sample) -> float:
        if self.pattern is None:
            return float(_thinks_then_answers(sample.response))
        try:
            found = self._compiled.search(sample.response, timeout=_MAX_PATTERN_S, concurrent=True)
        except TimeoutError as error:
            raise TimeoutError(
                f"the pattern took {_MAX_PATTERN_S:g} s of CPU time on a response of "
                f"{len(sample.response):,} characters"
            ) from error
        return float(found is not None)

    @cached_property
    def _compiled(self) -> Any:
        return _compile(self.pattern or "")


def _compile(pattern: str) -> Any:
    return regex.compile(pattern, regex.DOTALL)


def _thinks_then_answers(response: str) -> bool:
    if response.count(_OPEN) != 1 or response.count(_CLOSE) != 1:
        return False
    before, _, rest = response.partition(_OPEN)
    thinking, closing, answer = rest.partition(_CLOSE)
    return not before.strip() and bool(thinking.strip() and closing and answer.strip())
