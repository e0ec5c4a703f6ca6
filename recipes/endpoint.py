"""A reward server's address, and requests to it as OpenRLHF's client makes them."""

from __future__ import annotations

import base64
import http.client
import json
import urllib.error
import urllib.request
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote, urlsplit

_PATH = "/get_reward"


class Unreachable(Exception):
    """No answer came; the message is the reason."""


class Endpoint:
    """One reward server; may be used from several threads at once."""

    def __init__(self, url: str) -> None:
        """
        Args:
            url: http://host:5000/get_reward, or http://any:KEY@host:5000/get_reward for a server
                that wants a key.
        Raises:
            ValueError: the URL cannot be one.
        """
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            # Its message would show the key, and there is nothing wrong but these two.
            raise ValueError(
                f"{_hidden(url)!r}: the port is not a number from 0 to 65535, or the host is none"
            ) from None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{_hidden(url)!r} is not a URL such as http://host:5000{_PATH}")
        try:
            parts.hostname.encode("idna")
            parts.path.encode("ascii")
        except UnicodeError:
            raise ValueError(
                f"{_hidden(url)!r}: the host is none, or the path is not ASCII"
            ) from None
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        self.name = f"{parts.scheme}://{host}{'' if port is None else f':{port}'}{parts.path}"
        """The URL without credentials, to be shown."""
        if not parts.path.endswith(_PATH):
            raise ValueError(f"{self.name}: rewards are at {_PATH}; the URL must end in it")
        self._base = self.name.removesuffix(_PATH)
        self._headers = {"Content-Type": "application/json"}
        if parts.password is not None:
            pair = f"{unquote(parts.username or '')}:{unquote(parts.password)}"
            encoded = base64.b64encode(pair.encode()).decode()
            self._headers["Authorization"] = f"Basic {encoded}"
        # OpenRLHF's client takes no proxy from the environment. A redirect would pass the key on.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect)

    def request(self, path: str, body: Any, timeout_s: float) -> tuple[int, bytes]:
        """Status and body of an answer.

        Args:
            path: such as /get_reward.
            body: sent as JSON; None to get a page.
        Raises:
            Unreachable: there is no answer.
        """
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._base + path, data, self._headers)  # noqa: S310  # http(s), checked
        try:
            try:
                with self._opener.open(request, timeout=timeout_s) as response:
                    return response.status, response.read()
            except urllib.error.HTTPError as error:
                with error:
                    return error.code, error.read()
        except (OSError, http.client.HTTPException) as error:
            reason = str(getattr(error, "reason", error)) or type(error).__name__
            raise Unreachable(reason) from None


def why(name: str, status: int, answer: Any) -> str:
    """One line on an answer that is not 200.

    Args:
        name: the server's.
        answer: the body's JSON; None where it is none.
    """
    if status == HTTPStatus.UNAUTHORIZED:
        return (
            f"{name}: it wants a key, and this one does not fit; the URL takes it as "
            f"http://any:KEY@host:5000{_PATH}"
        )
    error = answer.get("error") if isinstance(answer, dict) else None
    said = error.get("message") if isinstance(error, dict) else None
    return f"{name}: no reward, HTTP {status}: {said or 'no message'}"


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


def _hidden(url: str) -> str:
    """The URL with its credentials hidden."""
    before, at, after = url.rpartition("@")
    return f"{before.partition('//')[0]}//***@{after}" if at else url
