"""The interface of every backend: it renders prompts and generates responses."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True)
class Sampling:
    """How responses are sampled."""

    temperature: float
    """0 is greedy."""
    top_p: float
    max_tokens: int
    """Maximum length of a response. The model's context may end it earlier."""

    @property
    def is_greedy(self) -> bool:
        return self.temperature == 0


@dataclass(frozen=True)
class Request:
    """One response to generate."""

    key: Any
    """Anything the caller likes; the completion returns it."""
    system_prompt: str
    user_turn: str
    prompt: str
    """What `Backend.render_prompt` returned for the two."""
    seed: int | None
    """None when greedy."""


@dataclass(frozen=True)
class Completion:
    """The outcome of a request: a response, or an error in one line."""

    request: Request
    response: str | None = None
    num_tokens: int | None = None
    """Tokens of the response, including end of sequence; None if the server does not say."""
    finish_reason: str | None = None
    """"stop" or "length"."""
    error: str | None = None


# Closing the generator cancels the requests in flight.
Completions = Generator[Completion, None, None]


@dataclass(frozen=True)
class BackendDescription:
    """What run.json records about a backend."""

    chat_template: str | None
    """None if the model has none, or if the server applies it."""
    details: dict[str, Any] = field(default_factory=dict)


class Backend(Protocol):
    """Generates responses. Only one thread may use it."""

    @property
    def description(self) -> BackendDescription: ...

    def render_prompt(self, system_prompt: str, user_turn: str) -> str:
        """The prompt, chat template applied. If the server applies it: the messages as JSON.

        Args:
            system_prompt: empty for none.
        """
        ...

    def generate(self, requests: Iterable[Request]) -> Completions:
        """Yields one completion per request, in the order they finish. Reads few requests ahead."""
        ...

    def close(self) -> None:
        """Frees what it holds, such as connections."""
        ...
