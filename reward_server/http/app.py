"""The HTTP routes. The only module that knows flask."""

from __future__ import annotations

import html
import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any
from uuid import uuid4

from flask import Flask, Response, g, request
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from reward_server.errors import Forbidden, RewardServerError, TooLarge, Unauthorized
from reward_server.http.auth import ApiKeys
from reward_server.http.openapi import describe
from reward_server.http.schema import (
    DEFAULT_LIMITS,
    RequestLimits,
    Sample,
    ScoredSample,
    format_response,
    format_rollout,
    parse_request,
    parse_rollout,
    parse_update,
)
from reward_server.http.statuses import STATUSES
from reward_server.pipeline.service import RewardService
from reward_server.pipeline.waiting import CLIENT_IS_GONE
from reward_server.weights.policy import PolicyUpdater

_KEY_HEADER = "Authorization"
_ID_HEADER = "X-Request-Id"
_MAX_ID_CHARS = 128
# Open to all: they show counters and the model's name, and nothing that was sent.
_OPEN = {"/", "/healthz", "/readyz", "/metrics", "/openapi.json"}
_MAX_UPDATE_S = 3600.0

_log = logging.getLogger(__name__)

_PAGE = """<!doctype html>
<title>SAR reward server</title>
<style>
body {{ font: 16px/1.5 sans-serif; max-width: 44em; margin: 3em auto; padding: 0 1em }}
</style>
<h1>SAR reward server</h1>
<p>Rewards rollouts of reasoning models with <b>correctness + {sar_weight} &times; SAR</b>, the
Self-Aligned Reward of <a href="https://arxiv.org/abs/2509.05489">arXiv:2509.05489</a>.</p>
<p>Model: <code>{model}</code></p>
<p>Train with it: <code>--reward.remote_url {url}get_reward</code></p>
<ul>
<li><code>POST /get_reward</code>: <code>query</code>, <code>prompts</code>, <code>labels</code> in;
<code>rewards</code>, <code>scores</code>, <code>extra_logs</code> out</li>
<li><code>POST /rm</code>: the same for one rollout, as slime and miles send it:
<code>prompt</code>, <code>response</code>, <code>label</code></li>
<li><code>POST /update_weights</code>: <code>{{"path": ...}}</code>, with a key: score with
another checkpoint of the model</li>
<li><a href="healthz">/healthz</a>: alive, with counters</li>
<li><a href="readyz">/readyz</a>: 200 while rewards are given</li>
<li><a href="metrics">/metrics</a>: for Prometheus</li>
<li><a href="openapi.json">/openapi.json</a>: all of this for programs</li>
</ul>
"""


@dataclass(frozen=True)
class AppConfig:
    """What the routes need to know besides the service."""

    model_name: str
    sar_weight: float
    keys: ApiKeys = field(default_factory=ApiKeys)
    limits: RequestLimits = DEFAULT_LIMITS
    max_body_bytes: int | None = None


def create_app(
    service: RewardService, config: AppConfig, updater: PolicyUpdater | None = None
) -> Flask:
    """The WSGI application over a reward service; `updater` takes new weights for it."""
    app = Flask("reward_server", static_folder=None)
    # Neither `/healthz//` nor an empty path is answered with a redirect: no document names one.
    app.url_map.merge_slashes = False
    if config.max_body_bytes is not None:
        # One more, as Werkzeug cuts a body that comes in chunks at its limit and says nothing.
        app.config["MAX_CONTENT_LENGTH"] = config.max_body_bytes + 1
    # Flask would answer these by itself, in ways that /openapi.json does not tell of.
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
    app.url_map.merge_slashes = False
    metrics = service.metrics

    @app.before_request
    def begin() -> None:
        g.start_s = time.monotonic()
        g.request_id = _request_id(request.headers.get(_ID_HEADER, ""))
        if request.path not in _OPEN and not config.keys.authorizes(
            request.headers.get(_KEY_HEADER)
        ):
            raise Unauthorized(
                "a key is needed: 'Authorization: Bearer KEY', or http://any:KEY@host/get_reward "
                "as --reward.remote_url"
            )

    @app.after_request
    def end(response: Response) -> Response:
        metrics.add_request(response.status_code, time.monotonic() - g.start_s)
        response.headers[_ID_HEADER] = g.request_id
        if response.status_code == HTTPStatus.UNAUTHORIZED:
            response.headers["WWW-Authenticate"] = 'Basic realm="reward server"'
        return response

    def answer(
        samples: list[Sample], body_of: Callable[[Sequence[ScoredSample]], dict[str, Any]]
    ) -> Response:
        # Our listener says whether the connection is still there; other WSGI servers do not.
        is_gone = request.environ.get(CLIENT_IS_GONE, lambda: False)
        scored = service.rewards(samples, is_gone, g.request_id)
        start_s = time.monotonic()
        response = _json(body_of(scored))
        metrics.add_stage("reply", time.monotonic() - start_s)
        return response

    @app.post("/get_reward")
    def get_reward() -> Response:
        return answer(parse_request(_body(config.max_body_bytes), config.limits), format_response)

    @app.post("/rm")
    def rm() -> Response:
        return answer([parse_rollout(_body(config.max_body_bytes), config.limits)], format_rollout)

    @app.post("/update_weights")
    def update_weights() -> Response:
        if not config.keys.are_required:
            raise Forbidden("only those with a key may give weights; see --api-key-file")
        if updater is None:
            raise Forbidden("this backend keeps the weights it started with")
        path = parse_update(_body(config.max_body_bytes))
        version = service.waiting.for_result(updater.update(path), _MAX_UPDATE_S)
        return _json({"policy_version": version})

    @app.get("/healthz")
    def healthz() -> Response:
        served = {"model": config.model_name, "sar_weight": config.sar_weight}
        return _json({"status": "ok", **served, **service.status})

    @app.get("/readyz")
    def readyz() -> Response:
        state = service.state
        return _json({"status": state}, 200 if state == "ready" else 503)

    @app.get("/metrics")
    def prometheus() -> Response:
        return Response(metrics.text(), mimetype="text/plain; version=0.0.4")

    @app.get("/openapi.json")
    def openapi() -> Response:
        return _json(describe(needs_key=config.keys.are_required))

    @app.get("/", strict_slashes=False)
    def index() -> str:
        return _PAGE.format(
            model=html.escape(config.model_name),
            sar_weight=config.sar_weight,
            url=html.escape(request.url_root),
        )

    @app.errorhandler(RewardServerError)
    def request_error(error: RewardServerError) -> Response:
        status, kind = STATUSES[type(error)]
        _log.warning("%d %s: %s (request %s)", status, kind, error, g.request_id)
        return _error(kind, str(error), status, error.field)

    @app.errorhandler(HTTPException)
    def http_error(error: HTTPException) -> Response:
        response = _error("http", error.description or error.name, error.code or 500)
        if isinstance(error, MethodNotAllowed) and error.valid_methods:
            response.headers["Allow"] = ", ".join(sorted(error.valid_methods))
        return response

    @app.errorhandler(Exception)
    def unexpected(error: Exception) -> Response:
        _log.error("request %s failed", g.request_id, exc_info=error)
        return _error("internal", f"internal error: {type(error).__name__}", 500)

    return app


def _request_id(sent: str) -> str:
    """The client's own where it can stand in a log line and a head, else a new one."""
    is_fit = 0 < len(sent) <= _MAX_ID_CHARS and sent.isascii() and sent.isprintable()
    return sent if is_fit else uuid4().hex


def _body(max_bytes: int | None) -> bytes:
    """The request's body; one that says that it is too large is not read."""
    limit = float("inf") if max_bytes is None else max_bytes
    if (request.content_length or 0) <= limit:
        body = request.get_data(cache=False)
        if len(body) <= limit:
            return body
    raise TooLarge(f"the request is larger than --max-body-bytes, {max_bytes}")


def _error(kind: str, message: str, status: int, field: str | None = None) -> Response:
    return _json({"error": {"type": kind, "message": message, "field": field}}, status)


def _json(body: object, status: int = 200) -> Response:
    # Not-a-number is refused here rather than sent: the trainer would learn from it.
    text = json.dumps(body, allow_nan=False)
    return Response(text, status, mimetype="application/json")
