"""Asks a reward server for rewards; what the clients for the trainers of this folder share.

    client = RewardClient("http://any:KEY@host:5000/get_reward")
    client.ask(["Q: 2+3?\\nA: 5"], ["Q: 2+3?\\nA:"], ["5"])  # [{"reward": 1.1, "score": 1, ...}]

The standard library alone: it runs inside whatever environment the trainer has.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from recipes.endpoint import Endpoint, Unreachable, why

_MAX_WAIT_S = 30.0
_TRANSIENT = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS}

_log = logging.getLogger(__name__)


class RewardError(Exception):
    """There is no reward; one line that says why, without credentials."""

    def __init__(self, message: str, *, may_pass: bool = False) -> None:
        """
        Args:
            may_pass: whether the same request may get its reward later; False where it is wrong.
                It has a default so that the error can be unpickled, as Ray does.
        """
        super().__init__(message)
        self.may_pass = may_pass


class RewardClient:
    """One reward server; may be used from several threads at once."""

    def __init__(
        self, url: str, *, timeout_s: float = 180.0, num_tries: int = 5, wait_s: float = 1.0
    ) -> None:
        """
        Args:
            url: http://host:5000/get_reward, or http://any:KEY@host:5000/get_reward.
            timeout_s: for each try; the server answers within its --request-timeout, 170.
            num_tries: how often a request is sent that fails for no fault of its own.
            wait_s: before the second try; doubled before each further one, up to 30 s.
        Raises:
            ValueError: the URL cannot be one.
        """
        if num_tries < 1:
            raise ValueError(f"num_tries={num_tries}: a request has to be sent at least once")
        self._endpoint = Endpoint(url)
        self._timeout_s = timeout_s
        self._num_tries = num_tries
        self._wait_s = wait_s

    def ask(
        self, queries: Sequence[str], prompts: Sequence[str], labels: Sequence[Any]
    ) -> list[dict[str, float]]:
        """Reward, score and extra_logs of each rollout, in one request.

        Args:
            queries: prompt and response in one text, special tokens included.
            prompts: what the policy was given.
            labels: strings, or objects that say more; see docs/protocol.md.
        Raises:
            RewardError: there is none, after all tries where another one may help.
        """
        if not len(queries) == len(prompts) == len(labels):
            raise ValueError(
                f"{len(queries)} queries, {len(prompts)} prompts, {len(labels)} labels: not one of "
                "each per rollout"
            )
        if not queries:
            return []
        body = {"query": list(queries), "prompts": list(prompts), "labels": list(labels)}
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
        name = self._endpoint.name
        try:
            status, text = self._endpoint.request("/get_reward", body, self._timeout_s)
        except Unreachable as error:
            raise RewardError(f"{name}: cannot be reached: {error}", may_pass=True) from None
        try:
            answer = json.loads(text)
        except ValueError:
            answer = None
        if status != HTTPStatus.OK:
            may_pass = status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in _TRANSIENT
            raise RewardError(why(name, status, answer), may_pass=may_pass)
        try:
            return _rewards(answer, len(body["query"]))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise RewardError(
                f"{name}: its answer is not that of a reward server: "
                f"{type(error).__name__}: {error}",
                may_pass=False,
            ) from None


def _rewards(answer: Any, num_rollouts: int) -> list[dict[str, float]]:
    """The lists of an answer as one mapping per rollout."""
    columns = {"reward": answer["rewards"], "score": answer["scores"], **answer["extra_logs"]}
    for name, values in columns.items():
        if len(values) != num_rollouts:
            raise ValueError(f"{len(values)} numbers of {name} for {num_rollouts} rollouts")
        for value in values:
            if type(value) not in (int, float) or not math.isfinite(value):
                raise ValueError(f"{name} has {value!r}, which is no finite number")
    return [
        {name: float(values[index]) for name, values in columns.items()}
        for index in range(num_rollouts)
    ]
