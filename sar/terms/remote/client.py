"""Posts JSON to one address: a cap on concurrency, a deadline, retries, and no key in any message.

Retried are lost connections and the statuses 429 and 5xx, with growing pauses or after the pause
that the server asks for. Redirects are not followed: the key would travel to another host.
Proxies are those of the environment (HTTP_PROXY, HTTPS_PROXY, NO_PROXY), as `httpx` reads them.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import re
from collections.abc import Awaitable, Callable, Mapping
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import TYPE_CHECKING, Any, Literal

from sar.errors import one_line, quote

if TYPE_CHECKING:
    import httpx

MAX_ANSWER_BYTES = 1 << 20
MAX_RETRIES = 5
_FIRST_PAUSE_S = 0.5  # doubles: 15 s in all
_CONNECT_TIMEOUT_S = 10.0
# Less than the 5 s after which uvicorn (vLLM, SGLang) closes an idle connection.
_MAX_IDLE_S = 3.0
# Of another server's text: an error's whole message has 200 characters.
_MAX_QUOTED_CHARS = 80

Post = Callable[[Mapping[str, Any]], Awaitable[bytes]]
"""Sends one JSON body. Returns the bytes of the answer."""


Silence = Literal["lost", "late"]
"""Why no whole HTTP answer came: all connections were lost, or the time was up."""


class RemoteError(Exception):
    """The server elsewhere gave no usable answer."""

    def __init__(self, message: str, silence: Silence | None = None) -> None:
        """
        Args:
            silence: None if an HTTP answer came.
        """
        super().__init__(message)
        self.silence = silence


class _PassingError(RemoteError):
    """A failure that another try may mend."""

    def __init__(
        self, message: str, silence: Silence | None = None, *, pause_s: float | None = None
    ) -> None:
        super().__init__(message, silence)
        self.pause_s = pause_s
        """The pause that the server asks for."""


class RemoteClient:
    """A client of one address. Its methods run in one event loop."""

    def __init__(
        self, url: str, key: str | None, *, max_concurrency: int, timeout_s: float
    ) -> None:
        """
        Args:
            key: sent as a bearer token.
            max_concurrency: requests under way at once. Others wait.
            timeout_s: from `start` to the last answer, waiting and retries included.
        """
        self.url = url
        self._key = key
        self._max_concurrency = max_concurrency
        self._timeout_s = timeout_s
        self._places = asyncio.Semaphore(max_concurrency)
        self._http: httpx.AsyncClient | None = None

    def start(self) -> Post:
        """Starts the clock. Returns what posts before the deadline."""
        ends_at_s = asyncio.get_running_loop().time() + self._timeout_s

        async def post(body: Mapping[str, Any]) -> bytes:
            return await self._post(json.dumps(body).encode(), ends_at_s)

        return post

    async def close(self) -> None:
        """Closes the connections. The next request opens new ones."""
        if self._http is not None:
            await self._http.aclose()
            self._http = None

    def quote(self, text: str | bytes) -> str:
        """The start of a text from elsewhere, for an error message. It never shows the key."""
        if isinstance(text, bytes):
            text = text.decode(errors="replace")
        return quote(self._hide_key(text), _MAX_QUOTED_CHARS)

    async def _post(self, content: bytes, ends_at_s: float) -> bytes:
        loop = asyncio.get_running_loop()
        for num_failed in range(MAX_RETRIES + 1):
            try:
                return await self._post_in_time(content, ends_at_s)
            except _PassingError as error:
                pause_s = error.pause_s or _FIRST_PAUSE_S * 2**num_failed * random.uniform(0.8, 1.0)
                if num_failed == MAX_RETRIES or loop.time() + pause_s >= ends_at_s:
                    tries = "1 try" if not num_failed else f"{num_failed + 1} tries"
                    raise RemoteError(f"{error}, after {tries}", error.silence) from error
                await asyncio.sleep(pause_s)
        raise AssertionError

    async def _post_in_time(self, content: bytes, ends_at_s: float) -> bytes:
        is_sent = False
        try:
            async with asyncio.timeout_at(ends_at_s), self._places:
                is_sent = True
                return await self._post_once(content)
        except TimeoutError:
            reason = "no answer" if is_sent else f"no turn among {self._max_concurrency} requests"
            message = f"{reason} within {self._timeout_s:g} s from {self.url}"
            raise RemoteError(message, "late") from None

    async def _post_once(self, content: bytes) -> bytes:
        import httpx

        if self._http is None:
            self._http = self._connect()
        try:
            async with self._http.stream("POST", self.url, content=content) as answer:
                return await self._read(answer)
        except httpx.TransportError as error:
            # Hidden before it is cut: a part of the key would not be found.
            hidden = type(error)(self._hide_key(str(error)))
            message = one_line(hidden, _MAX_QUOTED_CHARS)
            raise _PassingError(f"{message}, from {self.url}", "lost") from None

    async def _read(self, answer: httpx.Response) -> bytes:
        status = answer.status_code
        if answer.has_redirect_location:
            target = self.quote(answer.headers["location"])
            raise RemoteError(f"{self.url} redirects to {target}; redirects are not followed")
        content = bytearray()
        async for chunk in answer.aiter_raw():
            content += chunk
            if len(content) > MAX_ANSWER_BYTES:
                break
        if status == 429 or status >= 500:
            pause_s = _read_pause(answer.headers.get("retry-after", ""))
            raise _PassingError(self._describe(status, content), pause_s=pause_s)
        if status != 200:
            raise RemoteError(self._describe(status, content))
        if len(content) > MAX_ANSWER_BYTES:
            raise RemoteError(f"over {MAX_ANSWER_BYTES:,} bytes in an answer from {self.url}")
        return bytes(content)

    def _describe(self, status: int, content: bytearray) -> str:
        return f"status {status} from {self.url}: {self.quote(bytes(content))}"

    def _connect(self) -> httpx.AsyncClient:
        import httpx

        for name in ("httpx", "httpcore"):  # they log each request, and the answers' headers
            logging.getLogger(name).setLevel(logging.WARNING)
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        return httpx.AsyncClient(
            headers=headers,
            timeout=httpx.Timeout(None, connect=_CONNECT_TIMEOUT_S),  # `asyncio.timeout_at` ends it
            limits=httpx.Limits(
                max_connections=None,
                max_keepalive_connections=self._max_concurrency,
                keepalive_expiry=_MAX_IDLE_S,
            ),
            follow_redirects=False,
            # No cookie is kept: each answer could bring more of them.
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        )

    def _hide_key(self, text: str) -> str:
        if self._key:
            for shown in (self._key, json.dumps(self._key)[1:-1], repr(self._key)[1:-1]):
                text = text.replace(shown, "***")
        return text


def _read_pause(retry_after: str) -> float | None:
    """The pause that a server asks for in seconds. None: it names none, or a date."""
    return float(retry_after) if re.fullmatch(r"[1-9][0-9]{0,5}", retry_after) else None
