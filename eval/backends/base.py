"""What every backend does: makes prompts, and answers requests as they finish."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True)
class Sampling:
    """How responses are drawn."""

    temperature: float
    """0 is greedy."""
    top_p: float
    max_tokens: int
    """Of one response; less where the model's context ends before."""

    @property
    def is_greedy(self) -> bool:
        return self.temperature == 0


@dataclass(frozen=True)
class Request:
    """One response that is wanted."""

    key: Any
    """The asker's own; comes back with the completion."""
    system_prompt: str
    user_turn: str
    prompt: str
    """What `Backend.prompt` made of the two."""
    seed: int | None
    """None when greedy."""


@dataclass(frozen=True)
class Completion:
    """What came of a request: a response, or an error in one line."""

    request: Request
    response: str | None = None
    num_tokens: int | None = None
    """Tokens of the response, end of sequence included; None where a server does not say."""
    finish_reason: str | None = None
    """"stop" or "length"."""
    error: str | None = None


# Closed when no more are wanted; what is in flight is then given up.
Completions = Generator[Completion, None, None]


@dataclass(frozen=True)
class BackendDescription:
    """For run.json."""

    chat_template: str | None
    """None where the model has none, or a server applies it."""
    details: dict[str, Any] = field(default_factory=dict)


class Backend(Protocol):
    """Generates responses. Used from one thread."""

    @property
    def description(self) -> BackendDescription: ...

    def prompt(self, system_prompt: str, user_turn: str) -> str:
        """The text the model is given, chat template applied; for a server that applies it itself,
        the messages as JSON.

        Args:
            system_prompt: empty for none.
        """
        ...

    def generate(self, requests: Iterable[Request]) -> Completions:
        """One completion for each request, in the order they finish. Takes few requests ahead."""
        ...

    def close(self) -> None:
        """Ends what it started."""
        ...
