"""A candidate as a term of a reward file: `term = "candidate:FILE.py"`."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from sar.terms.base import Sample, Term
from sar.terms.candidate.errors import CandidateError
from sar.terms.candidate.runner import CandidateRunner
from sar.terms.candidate.sample import PlainSample, make_plain
from sar.terms.candidate.source import MAX_SOURCE_CHARS

PREFIX = "candidate:"

# What a candidate is tried on when a reward file is read: a right, a wrong and an empty response.
_RIGHT: PlainSample = {
    "prompt": "Question: What is 2 + 3?\nAnswer:",
    "response": "2 + 3 = 5. Answer: 5",
    "label": "5",
    "correct": True,
    "response_tokens": 12,
    "ppl_qa": 1.5,
    "ppl_a": 2.0,
    "sar": 0.25,
}
_WRONG: PlainSample = {**_RIGHT, "response": "Answer: 6", "correct": False, "response_tokens": 5}
_EMPTY: PlainSample = {
    **_WRONG,
    "response": "",
    "response_tokens": 0,
    "ppl_qa": 1.0,
    "ppl_a": 1.0,
    "sar": 0.0,
}
_TRIED_ON = (_RIGHT, _WRONG, _EMPTY)


@dataclass(frozen=True)
class CandidateTerm(Term):
    """What the function `reward` of a file returns. It runs in a sandbox: see docs/rewards.md."""

    formula = "what the candidate returns"
    bounds = "-10 to 10"
    source = "the file's author"

    code: str = field(repr=False)

    @cached_property
    def _runner(self) -> CandidateRunner:
        return CandidateRunner(self.code)

    def try_out(self) -> None:
        """
        Raises:
            CandidateError: the source is refused, or a call fails.
            SandboxError: the sandbox does not start.
        """
        self._runner.score_all(_TRIED_ON)

    def score(self, sample: Sample) -> float:
        return self._runner.score(make_plain(sample))


def read_candidate(path: Path) -> CandidateTerm:
    """Reads a candidate and tries it out.

    Raises:
        ValueError: the file cannot be read, or is no candidate. The message is one line, with the
            line number of what is wrong in the file.
        SandboxError: the sandbox does not start.
    """
    term = CandidateTerm(read_source(path))
    try:
        term.try_out()
    except CandidateError as error:
        raise ValueError(str(error)) from error
    return term


def make_name(term: str) -> str:
    """The name in the logs of `candidate:FILE.py`: FILE."""
    return Path(term.removeprefix(PREFIX)).stem.lower()


def read_source(path: Path) -> str:
    """The text of a candidate's file.

    Raises:
        ValueError: the file cannot be read.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise ValueError(f"{path}: a pipe or a device, not a file")
    try:
        with path.open("rb") as file:
            content = file.read(4 * MAX_SOURCE_CHARS + 4)
    except (OSError, ValueError) as error:  # ValueError: a path with a zero byte
        message = error.strerror if isinstance(error, OSError) else str(error)
        raise ValueError(f"{path}: {message}") from error
    if len(content) > 4 * MAX_SOURCE_CHARS:
        raise ValueError(f"{path}: longer than {MAX_SOURCE_CHARS:,} characters; not a candidate")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a text in UTF-8") from error
