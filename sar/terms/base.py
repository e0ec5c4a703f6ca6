"""What a term is: a number for one rollout, or for each rollout of a group."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from pydantic import ConfigDict

from sar.grading.label import Label
from sar.grading.verdict import Verdict
from sar.reward import Likelihood
from sar.tokenization import NO_NEEDS, Need

OPTIONS = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)
"""Configuration of a term's dataclass: the reward file may set its fields and no others. The text
below a field describes it in `python -m sar terms` and docs/rewards.md."""

UNSHOWN = "unshown"
"""Type of a `PydanticCustomError` about an option that may hold a secret: the message about the
reward file does not show its value."""


class TermError(Exception):
    """A term gave no valid number. The message names the term."""


@dataclass(frozen=True)
class Sample:
    """One rollout, as a term sees it."""

    prompt: str
    """As the policy saw it, chat template applied."""
    response: str
    """The text that was graded: up to the response's end, without special tokens."""
    label: Label
    verdict: Verdict
    likelihood: Likelihood

    @property
    def num_tokens(self) -> int:
        """Tokens of the response, those beyond the context included."""
        return self.likelihood.num_response_tokens

    @property
    def num_chars(self) -> int:
        """Characters of its texts, those of the label included."""
        return sum(map(len, (self.prompt, self.response, *self.label.texts)))

    @property
    def is_correct(self) -> bool:
        return self.verdict.correctness == 1.0


class Term(ABC):
    """A number for one rollout. Its options in a reward file are the arguments of its constructor;
    the terms of this package are dataclasses, whose fields are the options."""

    formula: ClassVar[str]
    """What `python -m sar terms` and docs/rewards.md show."""
    bounds: ClassVar[str]
    """The values that it can have, such as "0 or 1"."""
    source: ClassVar[str]
    """Where the formula comes from."""
    is_quick: ClassVar[bool] = False
    """True if it takes microseconds, however long the texts are. The server runs other terms apart
    from the thread that serves connections."""
    is_remote: ClassVar[bool] = False
    """True if it waits for another server. The server then runs several at once."""
    needs: ClassVar[frozenset[Need]] = NO_NEEDS
    """The optional fields of `Likelihood` that it reads. The server computes no others."""

    def check_label(self, label: Label) -> None:
        """Refuses a label before any rollout is scored, if the term has no value with it.

        Raises:
            ValueError: the message says what each label needs.
        """
        return

    @abstractmethod
    def score(self, sample: Sample) -> float:
        """The term's value for one rollout."""


class GroupTerm(ABC):
    """A number for each rollout of a group, from a comparison of them. As `Term` otherwise."""

    formula: ClassVar[str]
    bounds: ClassVar[str]
    source: ClassVar[str]
    needs: ClassVar[frozenset[Need]] = NO_NEEDS

    @abstractmethod
    def score_group(self, group: Sequence[Sample]) -> Sequence[float]:
        """The term's values for the rollouts of one prompt, in their order."""
