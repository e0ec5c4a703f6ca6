"""A language model behind an OpenAI-compatible chat endpoint, such as vLLM's, writes candidates.

Lost connections and the statuses 429 and 5xx are tried again, with pauses. What stays without code
is a proposal that says why, and the search goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, ValidationError

from eval.errors import UserError
from recipes.reward_search.candidates import MAX_KEPT_CHARS, Proposal
from recipes.reward_search.generators.base import Past, Slot
from recipes.reward_search.generators.prompt import MAX_SHOWN, extract_code, make_prompt
from recipes.reward_search.settings import OwnSettings
from sar.errors import quote
from sar.terms.remote.client import RemoteClient, RemoteError

KEY_VARIABLE = "REWARD_SEARCH_KEY"
_PATH = "/chat/completions"
_CONCURRENCY = 8
_MAX_TOKENS = 8192
"""Of one answer, thinking included."""
_TIMEOUT_S = 600.0


class _Message(BaseModel):
    content: str | None = None


class _Choice(BaseModel):
    message: _Message


class _Answer(BaseModel):
    choices: Annotated[list[_Choice], Field(min_length=1)]


class EndpointGenerator:
    """Asks for each candidate with a request of its own."""

    def __init__(
        self,
        url: str,
        model: str,
        key: str | None,
        *,
        per_round: int,
        rank_by: str,
        own: OwnSettings | None = None,
    ) -> None:
        """
        Args:
            url: including the version, such as http://localhost:8000/v1.
            key: sent as a bearer token.
            own: the model and benchmarks, if they are not the CPU demo's.
        Raises:
            UserError: the URL is none, or holds a password.
        """
        self._url = check_url(url).rstrip("/").removesuffix(_PATH) + _PATH
        self._model = model
        self._key = key
        self._per_round = per_round
        self._rank_by = rank_by
        self._own = own

    def propose(
        self,
        slots: Sequence[Slot],
        past: Sequence[Past],
        known: AbstractSet[str],
        timeout_s: float,
    ) -> Iterator[tuple[Slot, Proposal]]:
        names = tuple(one.candidate.name for one in past if one.rank)[:MAX_SHOWN]
        with asyncio.Runner() as runner:
            client = RemoteClient(
                self._url,
                self._key,
                max_concurrency=_CONCURRENCY,
                timeout_s=max(1.0, min(timeout_s, _TIMEOUT_S)),
            )
            loop = runner.get_loop()
            tasks = {loop.create_task(self._ask(client, slot, past, names)): slot for slot in slots}
            try:
                while tasks:
                    done, _ = runner.run(_wait_for_first(list(tasks)))
                    for task in done:
                        yield tasks.pop(task), task.result()
            finally:
                for task in tasks:
                    task.cancel()
                runner.run(client.close())

    async def _ask(
        self, client: RemoteClient, slot: Slot, past: Sequence[Past], names: tuple[str, ...]
    ) -> Proposal:
        prompt = make_prompt(slot, self._per_round, past, self._rank_by, self._own)
        body = {
            "model": self._model,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": _MAX_TOKENS,
        }
        try:
            content = await client.start()(body)
        except RemoteError as error:
            return Proposal("", failure=f"the endpoint gave no answer: {error}")
        try:
            text = _Answer.model_validate_json(content).choices[0].message.content or ""
        except ValidationError:
            return Proposal("", failure=f"no chat completion: {client.quote(content)}")
        if self._key:  # a server may send it back
            text = text.replace(self._key, "***")
        code = extract_code(text)
        if code is None:
            failure = f"no code block with `def reward(sample)`: {quote(text, 80)}"
            return Proposal(text[:MAX_KEPT_CHARS], failure=failure)
        return Proposal(code, parents=names)


async def _wait_for_first(
    tasks: list[asyncio.Task[Proposal]],
) -> tuple[set[asyncio.Task[Proposal]], set[asyncio.Task[Proposal]]]:
    return await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)


def check_url(url: str) -> str:
    """
    Raises:
        UserError: it is no http or https URL, or has a user, a password or a query, which the
            search's file would keep.
    """
    try:
        parts = urlsplit(url)
        has_host = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        has_host = False
    if not has_host:
        raise UserError("--generator: not a URL, such as http://localhost:8000/v1")
    if parts.username or parts.password or parts.query:
        raise UserError(
            f"--generator: a URL without a user, password or query; set {KEY_VARIABLE} to a key"
        )
    return url
