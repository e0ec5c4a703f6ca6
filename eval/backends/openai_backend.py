"""A server with OpenAI's HTTP API: vLLM, SGLang, `transformers serve`, or a vendor's.

OPENAI_API_KEY holds the API key. The client retries after rate limits, overload and lost
connections, with growing pauses. If all retries fail, the sample becomes an error.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import Any

import openai

from eval.backends.base import BackendDescription, Completion, Completions, Request, Sampling
from eval.backends.chat_tokenizer import ChatTokenizer
from eval.errors import UserError
from sar.errors import one_line

KEY_VARIABLE = "OPENAI_API_KEY"


class OpenAIBackend:
    """A `Backend` over HTTP."""

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        sampling: Sampling,
        tokenizer: ChatTokenizer | None = None,
        concurrency: int = 32,
        max_retries: int = 5,
        timeout_s: float = 600.0,
        enable_thinking: bool | None = None,
    ) -> None:
        """
        Args:
            base_url: including the version, such as http://localhost:8000/v1.
            model: its name on the server.
            tokenizer: renders the prompts for the completions endpoint. None uses the chat
                endpoint, where the server applies its own template.
            concurrency: number of concurrent requests.
            max_retries: retries of a request, 0.5 s to 8 s apart.
            timeout_s: timeout of one attempt.
            enable_thinking: sent to the chat endpoint in the form that vLLM and SGLang read.
        Raises:
            UserError: no server answers, or it rejects the key.
        """
        self._model = model
        self._sampling = sampling
        self._tokenizer = tokenizer
        self._concurrency = concurrency
        self._base_url = base_url
        self._extra_body: dict[str, Any] | None = None
        if enable_thinking is not None:
            self._extra_body = {"chat_template_kwargs": {"enable_thinking": enable_thinking}}
        self._client = openai.OpenAI(
            base_url=base_url,
            # Local servers need no key, but the client insists on one.
            api_key=os.environ.get(KEY_VARIABLE) or "none",
            max_retries=max_retries,
            timeout=timeout_s,
        )
        self._check_server()

    @property
    def description(self) -> BackendDescription:
        template = self._tokenizer.chat_template if self._tokenizer else None
        endpoint = "completions" if self._tokenizer else "chat"
        return BackendDescription(template, {"base_url": self._base_url, "endpoint": endpoint})

    def render_prompt(self, system_prompt: str, user_turn: str) -> str:
        if self._tokenizer:
            return self._tokenizer.render_prompt(system_prompt, user_turn)
        return json.dumps(_make_messages(system_prompt, user_turn), ensure_ascii=False)

    def generate(self, requests: Iterable[Request]) -> Completions:
        waiting = iter(requests)
        pool = ThreadPoolExecutor(self._concurrency, thread_name_prefix="openai")
        # Twice as many as can run at once, so that a free thread finds the next request.
        pending = {pool.submit(self._complete, r) for r in islice(waiting, 2 * self._concurrency)}
        try:
            while pending:
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                pending |= {pool.submit(self._complete, r) for r in islice(waiting, len(done))}
                yield from map(Future.result, done)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def close(self) -> None:
        self._client.close()

    def _check_server(self) -> None:
        try:
            self._client.with_options(max_retries=0, timeout=30.0).models.list()
        except openai.APIConnectionError as error:
            raise UserError(f"--base-url {self._base_url}: no server answers there") from error
        except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
            raise UserError(
                f"--base-url {self._base_url} rejects the key in {KEY_VARIABLE}: {one_line(error)}"
            ) from error
        except openai.APIStatusError:
            pass  # not every server can list its models

    def _complete(self, request: Request) -> Completion:
        settings: dict[str, Any] = {
            "model": self._model,
            "temperature": self._sampling.temperature,
            "max_tokens": self._sampling.max_tokens,
        }
        if not self._sampling.is_greedy:
            settings |= {"top_p": self._sampling.top_p, "seed": request.seed}
        try:
            if self._tokenizer:
                answer = self._client.completions.create(prompt=request.prompt, **settings)
            else:
                answer = self._client.chat.completions.create(
                    messages=_make_messages(request.system_prompt, request.user_turn),
                    extra_body=self._extra_body,
                    **settings,
                )
        except openai.OpenAIError as error:
            return Completion(request, error=one_line(error))
        return parse_completion(request, answer)


def parse_completion(request: Request, answer: Any) -> Completion:
    """Reads the response from either endpoint's answer. Without one, the completion is an error."""
    if not getattr(answer, "choices", None):
        return Completion(request, error="the server's answer has no choice")
    choice = answer.choices[0]
    if choice.finish_reason not in ("stop", "length"):
        return Completion(request, error=f"the server finished with {choice.finish_reason!r}")
    response = _read_text(choice)
    if response is None:
        return Completion(request, error="the server's answer has no text")
    return Completion(
        request,
        response=response,
        num_tokens=answer.usage.completion_tokens if answer.usage else None,
        finish_reason=choice.finish_reason,
    )


def _read_text(choice: Any) -> str | None:
    """The text. If the server split off the thinking, it is put back in front."""
    message = getattr(choice, "message", None)
    if message is None:
        text: str | None = choice.text
        return text
    thinking = getattr(message, "reasoning_content", None) or getattr(message, "reasoning", None)
    content: str | None = message.content
    if not thinking:
        return content
    # A response that was truncated while thinking has no closing tag.
    return f"<think>{thinking}</think>{content}" if content else f"<think>{thinking}"


def _make_messages(system_prompt: str, user_turn: str) -> list[Any]:
    system = [{"role": "system", "content": system_prompt}] if system_prompt.strip() else []
    return [*system, {"role": "user", "content": user_turn}]
