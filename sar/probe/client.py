"""Scores the battery with a running server: sends it to /get_reward, with the standard library.

The server's answer has the reward and its parts. The texts that terms see are made here, with the
policy's tokenizer, for `findings`.
"""

from __future__ import annotations

import base64
import http.client
import json
import math
import re
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote, urlsplit

from sar.errors import first_line, quote, shorten
from sar.grading.verdict import Reason, Verdict
from sar.perplexity import MAX_REPORTED_NLL
from sar.probe.scorer import NamedReward, ProbeError, Rollout, Scored
from sar.reward import Likelihood
from sar.terms.base import Sample
from sar.tokenization import RolloutTokenizer

_PATH = "/get_reward"
_TIMEOUT_S = 180.0
_TERM = "term_"
# How `Composition.formula` writes a group.
_IN_GROUPS = re.compile(r", in groups of (\d+)$")


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: the key would travel to another host."""

    def redirect_request(self, *_: Any) -> None:
        return None


class ServerScorer:
    """Scores with a reward server; see `Scorer`."""

    def __init__(self, url: str, key: str | None = None) -> None:
        """Asks the server for its reward and model.

        Args:
            url: of the server or its /get_reward. It may hold the key: http://any:KEY@host:5000.
            key: sent as a bearer token.
        Raises:
            ProbeError: the URL is wrong, the server cannot be reached or is not ready, or its
                reward compares rollouts.
        """
        self._base, self._headers = _parse_url(url, key)
        # As OpenRLHF's client, without the environment's proxies.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect)
        status, ready = self._request("/readyz")
        if status != HTTPStatus.OK:
            state = ready.get("status") if isinstance(ready, dict) else f"HTTP {status}"
            raise ProbeError(f"{self._base}: not ready ({quote(state)}); wait for /readyz")
        _, health = self._request("/healthz")
        try:
            formula, self.model = str(health["reward"]), str(health["model"])
        except (KeyError, TypeError):
            raise ProbeError(f"{self._base}: no reward server, or another version") from None
        if found := _IN_GROUPS.search(formula):
            raise ProbeError(
                f"{self._base}: its reward compares groups of {found[1]} rollouts, and the battery "
                "is no such group; probe the reward here, with --model and --reward"
            )
        self.rewards = [NamedReward("reward", formula, is_sum=True)]
        self.tokenizer: RolloutTokenizer
        """Makes the texts that the server graded. Set before `score`."""

    def score(self, battery: Sequence[Rollout]) -> list[Scored]:
        """See `Scorer`."""
        body = {
            "query": [one.prompt + one.response for one in battery],
            "prompts": [one.prompt for one in battery],
            "labels": [one.label_as_sent for one in battery],
        }
        status, answer = self._request(_PATH, body)
        if status != HTTPStatus.OK:
            raise ProbeError(f"{self._base}: {_explain(status, answer)}")
        try:
            rows = _read_rows(answer, len(battery))
            scored = [self._make(one, row) for one, row in zip(battery, rows, strict=True)]
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ProbeError(
                f"{self._base}: the answer is not a reward server's: {first_line(error)}"
            ) from error
        if any(row["template_mismatch"] for row in rows):
            raise ProbeError(
                f"{self._base}: the server's prompts have another chat template or system prompt; "
                "name them with --tokenizer and --system-prompt"
            )
        return scored

    def _make(self, rollout: Rollout, row: Mapping[str, float]) -> Scored:
        prompt, response = self.tokenizer.split(rollout.prompt + rollout.response, rollout.prompt)
        text = self.tokenizer.make_graded_text(prompt, response)
        reason = Reason.NO_ANSWER if row["no_answer"] else Reason.WRONG
        verdict = Verdict(Reason.CORRECT if row["correctness"] == 1.0 else reason)
        likelihood = Likelihood(
            _to_nll(row["ppl_qa"]),
            _to_nll(row["ppl_a"]),
            int(row["response_tokens"]),
            bool(row["over_context"]),
        )
        terms = {
            name.removeprefix(_TERM): value for name, value in row.items() if name.startswith(_TERM)
        }
        terms = terms or {"correctness": row["correctness"], "sar": row["sar"]}
        sample = Sample(prompt, text, rollout.label, verdict, likelihood)
        return Scored(sample, terms, {self.rewards[0].name: row["reward"]})

    def _request(self, path: str, body: Any = None) -> tuple[int, Any]:
        """Sends one request, once. Returns the status and the JSON, None if it is not JSON.

        Raises:
            ProbeError: the server did not answer.
        """
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._base + path, data, self._headers)  # noqa: S310
        try:
            try:
                response = self._opener.open(request, timeout=_TIMEOUT_S)
            except urllib.error.HTTPError as error:
                response = error
            with response:
                status, text = response.status, response.read()
        except (OSError, http.client.HTTPException) as error:
            reason = str(getattr(error, "reason", error)) or type(error).__name__
            raise ProbeError(f"{self._base}: cannot be reached: {shorten(reason)}") from None
        try:
            return status, json.loads(text)
        except (ValueError, RecursionError):
            return status, None


def _to_nll(perplexity: float) -> float:
    return min(math.log(perplexity), MAX_REPORTED_NLL)


def _parse_url(url: str, key: str | None) -> tuple[str, dict[str, str]]:
    """The server's address without path and key, and the headers of a request.

    Raises:
        ProbeError: the URL is not valid; the message does not show the key.
    """
    _, at, after = url.rpartition("@")
    shown = f"***@{after}" if at else url
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ProbeError(f"--url {quote(shown)}: the host or the port is not valid") from None
    host = parts.hostname or ""
    if parts.scheme not in ("http", "https") or not host or not host.isascii():
        raise ProbeError(f"--url {quote(shown)}: not a URL such as http://host:5000{_PATH}")
    if parts.path.rstrip("/") not in ("", _PATH):
        raise ProbeError(f"--url {quote(shown)}: rewards are at {_PATH}; end the URL there")
    headers = {"Content-Type": "application/json"}
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    elif parts.password is not None:
        pair = f"{unquote(parts.username or '')}:{unquote(parts.password)}"
        headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
    host = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{host}{'' if port is None else f':{port}'}", headers


def _explain(status: int, answer: Any) -> str:
    """Why an answer has no reward."""
    if status == HTTPStatus.UNAUTHORIZED:
        return "it needs a key: --api-key-env NAME, or --url http://any:KEY@host:5000"
    error = answer.get("error") if isinstance(answer, dict) else None
    message = error.get("message") if isinstance(error, dict) else None
    return f"no reward, HTTP {status}: {shorten(str(message or 'no message'))}"


def _read_rows(answer: Any, num_rollouts: int) -> list[dict[str, float]]:
    """Turns the lists of an answer into one mapping for each rollout.

    Raises:
        AttributeError, KeyError, TypeError, ValueError: it has not one finite number for each.
    """
    columns = {"reward": answer["rewards"], **answer["extra_logs"]}
    for name, values in columns.items():
        if len(values) != num_rollouts or not all(
            type(value) in (int, float) and math.isfinite(value) for value in values
        ):
            raise ValueError(f"{name} has not one finite number for each rollout")
    return [
        {name: float(values[index]) for name, values in columns.items()}
        for index in range(num_rollouts)
    ]
