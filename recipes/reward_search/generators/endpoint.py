"""A language model behind an OpenAI-compatible chat endpoint, such as vLLM's, writes candidates.

Lost connections and the statuses 429 and 5xx are tried again, with pauses. What stays without code
is a proposal that says why, and the search goes on. If no request of a round gets an HTTP answer,
the endpoint is taken for dead, and there are no proposals at all.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, ValidationError

from eval.errors import UserError
from recipes.reward_search.candidates import MAX_KEPT_CHARS, Proposal
from recipes.reward_search.generators.base import GeneratorError, Past, Slot
from recipes.reward_search.generators.prompt import MAX_SHOWN, extract_code, make_prompt
from recipes.reward_search.settings import OwnSettings
from sar.errors import quote
from sar.terms.remote.client import RemoteClient, RemoteError, Silence

KEY_VARIABLE = "REWARD_SEARCH_KEY"
_PATH = "/chat/completions"
_CONCURRENCY = 8
_TIMEOUT_S = 600.0
_CHECK_TIMEOUT_S = 30.0
_REFUSED_KEY = (401, 403)


class _Model(BaseModel):
    id: str


class _Models(BaseModel):
    data: list[_Model]


class _Message(BaseModel):
    content: str | None = None


class _Choice(BaseModel):
    message: _Message


class _Answer(BaseModel):
    choices: Annotated[list[_Choice], Field(min_length=1)]


@dataclass(frozen=True)
class _Asked:
    """What became of one request."""

    proposal: Proposal
    silence: Silence | None = None
    """None if an HTTP answer came, usable or not."""


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
        self._base = check_url(url).rstrip("/").removesuffix(_PATH)
        self._url = self._base + _PATH
        self._model = model
        self._key = key
        self._per_round = per_round
        self._rank_by = rank_by
        self._own = own

    def check(self) -> None:
        import httpx

        client = self._make_client(_CHECK_TIMEOUT_S)  # sends nothing here; it hides the key
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        try:
            answer = httpx.get(f"{self._base}/models", headers=headers, timeout=_CHECK_TIMEOUT_S)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            reason = client.quote(str(error) or type(error).__name__)
            raise UserError(
                f"--generator {self._base}: no answer ({reason}); start the server first"
            ) from None
        if answer.status_code in _REFUSED_KEY:
            raise UserError(
                f"--generator {self._base}: status {answer.status_code}; set {KEY_VARIABLE} to a "
                "key of this server"
            )
        self._warn_of_name(client, answer.content)

    def _warn_of_name(self, client: RemoteClient, content: bytes) -> None:
        """Says if the model is not among those that the endpoint lists. Some servers take names
        that they do not list."""
        try:
            names = [one.id for one in _Models.model_validate_json(content).data]
        except ValidationError:
            return
        if names and self._model not in names:
            listed = client.quote(", ".join(names))
            print(
                f"warning: --model {quote(self._model)}: {self._base} lists {listed}",
                file=sys.stderr,
            )

    def propose(
        self,
        slots: Sequence[Slot],
        past: Sequence[Past],
        known: AbstractSet[str],
        timeout_s: float,
    ) -> Iterator[tuple[Slot, Proposal]]:
        names = tuple(one.candidate.name for one in past if one.rank)[:MAX_SHOWN]
        is_alive = False
        held: list[tuple[Slot, Proposal]] = []  # until the endpoint is known to be alive
        with asyncio.Runner() as runner:
            client = self._make_client(max(1.0, min(timeout_s, _TIMEOUT_S)))
            loop = runner.get_loop()
            tasks = {loop.create_task(self._ask(client, slot, past, names)): slot for slot in slots}
            try:
                while tasks:
                    done, _ = runner.run(_wait_for_first(list(tasks)))
                    for task in done:
                        one = task.result()
                        held.append((tasks.pop(task), one.proposal))
                        # The end of the search's time says nothing of the endpoint.
                        is_cut = one.silence == "late" and timeout_s < _TIMEOUT_S
                        is_alive = is_alive or one.silence is None or is_cut
                    if is_alive:
                        yield from held
                        held.clear()
            finally:
                for task in tasks:
                    task.cancel()
                runner.run(client.close())
        if held:
            raise GeneratorError(
                f"--generator {self._base}: none of {len(held)} requests got an answer, and "
                f"nothing of them is kept ({held[0][1].failure}); the same command continues "
                "from here"
            )

    def _make_client(self, timeout_s: float) -> RemoteClient:
        return RemoteClient(self._url, self._key, max_concurrency=_CONCURRENCY, timeout_s=timeout_s)

    async def _ask(
        self, client: RemoteClient, slot: Slot, past: Sequence[Past], names: tuple[str, ...]
    ) -> _Asked:
        prompt = make_prompt(slot, self._per_round, past, self._rank_by, self._own)
        # No `max_tokens`: a server refuses one that does not fit into its context with the prompt.
        body = {"model": self._model, "messages": [{"role": "user", "content": prompt}]}
        try:
            content = await client.start()(body)
        except RemoteError as error:
            proposal = Proposal("", failure=f"the endpoint gave no answer: {error}")
            return _Asked(proposal, error.silence)
        return _Asked(self._read(client, content, names))

    def _read(self, client: RemoteClient, content: bytes, names: tuple[str, ...]) -> Proposal:
        """The proposal in an answer."""
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
    tasks: list[asyncio.Task[_Asked]],
) -> tuple[set[asyncio.Task[_Asked]], set[asyncio.Task[_Asked]]]:
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
