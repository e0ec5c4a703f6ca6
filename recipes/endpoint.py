"""HTTP requests to a reward server, made as OpenRLHF's client makes them."""

from __future__ import annotations

import base64
import http.client
import json
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import unquote, urlsplit

_PATH = "/get_reward"


class Unreachable(Exception):
    """The server did not answer; the message is the reason."""


class Endpoint:
    """The address of one reward server. Threads may share it."""

    def __init__(self, url: str) -> None:
        """
        Args:
            url: http://host:5000/get_reward, or http://any:KEY@host:5000/get_reward if the server
                requires a key.
        Raises:
            ValueError: the URL is not valid; the message does not show the key.
        """
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            # urlsplit's own message would show the key. Only these two things can be wrong.
            raise ValueError(
                f"{_hide_key(url)!r}: the port is not a number from 0 to 65535, or the host is "
                "not valid"
            ) from None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{_hide_key(url)!r} is not a URL such as http://host:5000{_PATH}")
        try:
            parts.hostname.encode("idna")
            parts.path.encode("ascii")
        except UnicodeError:
            raise ValueError(
                f"{_hide_key(url)!r}: the host is not valid, or the path is not ASCII"
            ) from None
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        self.name = f"{parts.scheme}://{host}{'' if port is None else f':{port}'}{parts.path}"
        """The URL without the key, for messages."""
        if not parts.path.endswith(_PATH):
            raise ValueError(f"{self.name}: rewards are at {_PATH}; the URL must end in it")
        self._base = self.name.removesuffix(_PATH)
        self._headers = {"Content-Type": "application/json"}
        if parts.password is not None:
            pair = f"{unquote(parts.username or '')}:{unquote(parts.password)}"
            encoded = base64.b64encode(pair.encode()).decode()
            self._headers["Authorization"] = f"Basic {encoded}"
        # OpenRLHF's client ignores the environment's proxies. A redirect would pass the key on.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect)

    def request(self, path: str, body: Any, timeout_s: float) -> tuple[int, Any]:
        """Sends one request. Returns the answer's status and JSON (None if it has no JSON).

        Args:
            path: such as /get_reward.
            body: sent as JSON with POST; None sends a GET.
            timeout_s: how long to wait for each part of the answer.
        Raises:
            Unreachable: the server did not answer.
        """
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._base + path, data, self._headers)  # noqa: S310  # http(s) only
        try:
            try:
                response = self._opener.open(request, timeout=timeout_s)
            except urllib.error.HTTPError as error:
                response = error
            with response:
                status, text = response.status, response.read()
        except (OSError, http.client.HTTPException) as error:
            reason = str(getattr(error, "reason", error)) or type(error).__name__
            raise Unreachable(reason) from None
        try:
            return status, json.loads(text)
        except ValueError:
            return status, None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


def _hide_key(url: str) -> str:
    before, at, after = url.rpartition("@")
    return f"{before.partition('//')[0]}//***@{after}" if at else url
