"""A client of the reward server. The adapters, the OpenRLHF agent and the preflight use it.

    client = RewardClient("http://any:KEY@host:5000/get_reward")
    client.ask(["Q: 2+3?\\nA: 5"], ["Q: 2+3?\\nA:"], ["5"])  # [{"reward": 1.1, "score": 1, ...}]

It needs the standard library only, so it runs in any trainer's environment.
"""

from __future__ import annotations

import base64
import http.client
import json
import logging
import math
import re
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote, urlsplit

# For trainers that set rollouts no time limit: the waits between tries last about 20 minutes, so a
# server may be started again meanwhile.
PATIENT_NUM_TRIES = 45

_PATH = "/get_reward"
_MAX_WAIT_S = 30.0
_RETRIED_CLIENT_ERRORS = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS}

# The end of `Composition.formula`.
_IN_GROUPS = re.compile(r", in groups of (\d+)$")

_log = logging.getLogger(__name__)


class RewardError(Exception):
    """The server gave no reward; the message is one line that says why, without the key."""

    def __init__(self, message: str, *, may_pass: bool = False) -> None:
        """
        Args:
            may_pass: the same request may succeed later. False: the request itself is wrong.
                The default lets Ray unpickle the error.
        """
        super().__init__(message)
        self.may_pass = may_pass


class RewardClient:
    """Asks one reward server for rewards. Threads may share it."""

    def __init__(
        self, url: str, *, timeout_s: float = 180.0, num_tries: int = 5, wait_s: float = 1.0
    ) -> None:
        """
        Args:
            url: http://host:5000/get_reward, or http://any:KEY@host:5000/get_reward if the server
                requires a key.
            timeout_s: for each try. The server answers within its --request-timeout (170 s).
            num_tries: how often to send a request whose failure may pass.
            wait_s: before the second try; doubled for each further one, up to 30 s.
        Raises:
            ValueError: the URL is not valid, or `num_tries` is below 1. No message shows the key.
        """
        if num_tries < 1:
            raise ValueError(f"num_tries={num_tries}: a request has to be sent at least once")
        self.name, self._headers = _parse_url(url)
        """The URL without the key, for messages."""
        # OpenRLHF's client ignores the environment's proxies. A redirect would pass the key on.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect)
        self._timeout_s = timeout_s
        self._num_tries = num_tries
        self._wait_s = wait_s

    def ask(
        self, queries: Sequence[str], prompts: Sequence[str], labels: Sequence[Any]
    ) -> list[dict[str, float]]:
        """Asks for the rewards of some rollouts in one request.

        Args:
            queries: prompt and response in one text, with special tokens.
            prompts: the prompts alone.
            labels: strings or objects; see docs/protocol.md.
        Returns:
            For each rollout: `reward`, `score` and the fields of `extra_logs`.
        Raises:
            RewardError: the request is wrong, or all tries have failed.
            ValueError: the three lists differ in length.
        """
        if not len(queries) == len(prompts) == len(labels):
            raise ValueError(
                f"{len(queries)} queries, {len(prompts)} prompts, {len(labels)} labels: each "
                "rollout needs one of each"
            )
        if not queries:
            return []
        return self._send({"query": [*queries], "prompts": [*prompts], "labels": [*labels]})

    def check(self) -> None:
        """Asks for no rewards, to learn at the start of a run whether the server would give some.

        Raises:
            RewardError: the server cannot be reached, or refuses the key.
        """
        self._send({"query": [], "prompts": [], "labels": []})

    def find_group_size(self) -> int | None:
        """How many rollouts of a prompt the server's reward compares; None if it compares none.

        Raises:
            RewardError: the server cannot be reached.
        """
        _, health = self.request("/healthz")
        return read_group_size(health.get("reward") if isinstance(health, dict) else None)

    def request(self, path: str, body: Any = None) -> tuple[int, Any]:
        """Sends one request, once. Returns the answer's status and JSON (None if it has no JSON).

        Args:
            path: such as /get_reward.
            body: sent as JSON with POST; None sends a GET.
        Raises:
            RewardError: the server did not answer.
        """
        url = self.name.removesuffix(_PATH) + path
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url, data, self._headers)  # noqa: S310  http(s) only
        try:
            try:
                response = self._opener.open(request, timeout=self._timeout_s)
            except urllib.error.HTTPError as error:
                response = error
            with response:
                status, text = response.status, response.read()
        except (OSError, http.client.HTTPException) as error:
            reason = str(getattr(error, "reason", error)) or type(error).__name__
            raise RewardError(f"{self.name}: cannot be reached: {reason}", may_pass=True) from None
        try:
            return status, json.loads(text)
        except (ValueError, RecursionError):  # the latter: lists in lists in lists
            return status, None

    def _send(self, body: dict[str, list[Any]]) -> list[dict[str, float]]:
        for num_tried in range(1, self._num_tries):
            try:
                return self._try(body)
            except RewardError as error:
                if not error.may_pass:
                    raise
                wait_s = min(self._wait_s * 2 ** (num_tried - 1), _MAX_WAIT_S)
                _log.info("%s; try %d in %g s", error, num_tried + 1, wait_s)
                time.sleep(wait_s)
        return self._try(body)

    def _try(self, body: dict[str, list[Any]]) -> list[dict[str, float]]:
        status, answer = self.request(_PATH, body)
        if status != HTTPStatus.OK:
            may_pass = (
                status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in _RETRIED_CLIENT_ERRORS
            )
            raise RewardError(f"{self.name}: {_explain(status, answer)}", may_pass=may_pass)
        try:
            return _read_rewards(answer, len(body["query"]))
        except (
            AttributeError,
            KeyError,
            TypeError,
            ValueError,
            OverflowError,
            RecursionError,
        ) as error:
            raise RewardError(
                f"{self.name}: its answer is not that of a reward server: "
                f"{type(error).__name__}: {error}"
            ) from None


def read_group_size(reward: Any) -> int | None:
    """The group size in a reward's formula, as /healthz has it; None without groups."""
    found = _IN_GROUPS.search(str(reward))
    return int(found[1]) if found else None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


def _parse_url(url: str) -> tuple[str, dict[str, str]]:
    """Returns the URL without the key, and the headers of a request.

    Raises:
        ValueError: the URL is not valid; the message does not show the key.
    """
    before, at, after = url.rpartition("@")
    shown = f"{before.partition('//')[0]}//***@{after}" if at else url
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        # urlsplit's own message would show the key. Only these two things can be wrong.
        raise ValueError(
            f"{shown!r}: the port is not a number from 0 to 65535, or the host is not valid"
        ) from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{shown!r} is not a URL such as http://host:5000{_PATH}")
    try:
        parts.hostname.encode("idna")
        parts.path.encode("ascii")
    except UnicodeError:
        raise ValueError(f"{shown!r}: the host is not valid, or the path is not ASCII") from None
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    name = f"{parts.scheme}://{host}{'' if port is None else f':{port}'}{parts.path}"
    if not parts.path.endswith(_PATH):
        raise ValueError(f"{name}: rewards are at {_PATH}; the URL must end in it")
    headers = {"Content-Type": "application/json"}
    if parts.password is not None:
        pair = f"{unquote(parts.username or '')}:{unquote(parts.password)}"
        headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
    return name, headers


def _explain(status: int, answer: Any) -> str:
    """Why an answer has no reward, from its status and its JSON."""
    if status == HTTPStatus.UNAUTHORIZED:
        return (
            "it requires a key, and got none or a wrong one; put the key into the URL: "
            "http://any:KEY@host:5000/get_reward"
        )
    error = answer.get("error") if isinstance(answer, dict) else None
    message = error.get("message") if isinstance(error, dict) else None
    return f"no reward, HTTP {status}: {message or 'no message'}"


def _read_rewards(answer: Any, num_rollouts: int) -> list[dict[str, float]]:
    """Turns an answer's lists into one mapping per rollout.

    Raises:
        AttributeError, KeyError, TypeError, ValueError, OverflowError: the answer does not have a
            finite number for each rollout, or has two of the same name.
    """
    columns = {"reward": answer["rewards"], "score": answer["scores"]}
    if doubled := sorted(columns.keys() & answer["extra_logs"].keys()):
        raise ValueError(f"extra_logs has {doubled[0]!r}, which would replace the real one")
    columns |= answer["extra_logs"]
    for name, values in columns.items():
        if len(values) != num_rollouts:
            raise ValueError(f"{len(values)} numbers of {name} for {num_rollouts} rollouts")
        for value in values:
            if type(value) not in (int, float) or not math.isfinite(value):
                raise ValueError(f"{name} has {value!r}, which is not a finite number")
    return [
        {name: float(values[index]) for name, values in columns.items()}
        for index in range(num_rollouts)
    ]
