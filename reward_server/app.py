"""The HTTP routes. The only module that knows flask."""

from __future__ import annotations

import html
import json
import logging

from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException

from reward_server.errors import RequestError
from reward_server.protocol import format_response, parse_request
from reward_server.service import RewardService
from reward_server.waiting import CLIENT_IS_GONE

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
<li><a href="healthz">/healthz</a>: alive, with counters</li>
<li><a href="readyz">/readyz</a>: 200 once the model is loaded</li>
</ul>
"""


def create_app(
    service: RewardService, *, model_name: str, sar_weight: float, max_body_bytes: int | None = None
) -> Flask:
    """The WSGI application over a reward service."""
    app = Flask("reward_server", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = max_body_bytes

    @app.post("/get_reward")
    def get_reward() -> Response:
        samples = parse_request(request.get_data(cache=False))
        # Our listener says whether the connection is still there; other WSGI servers do not.
        is_gone = request.environ.get(CLIENT_IS_GONE, lambda: False)
        return _json(format_response(service.rewards(samples, is_gone)))

    @app.get("/healthz")
    def healthz() -> Response:
        return _json({"status": "ok", "ready": service.is_ready, **service.status})

    @app.get("/readyz")
    def readyz() -> Response:
        ready = service.is_ready
        return _json({"status": "ready" if ready else "loading"}, 200 if ready else 503)

    @app.get("/")
    def index() -> str:
        return _PAGE.format(
            model=html.escape(model_name), sar_weight=sar_weight, url=html.escape(request.url_root)
        )

    @app.errorhandler(RequestError)
    def request_error(error: RequestError) -> Response:
        _log.warning("%d %s: %s", error.status, error.type, error)
        return _error(error.type, str(error), error.status, error.field)

    @app.errorhandler(HTTPException)
    def http_error(error: HTTPException) -> Response:
        return _error("http", error.description or error.name, error.code or 500)

    @app.errorhandler(Exception)
    def unexpected(error: Exception) -> Response:
        _log.error("a request failed", exc_info=error)
        return _error("internal", f"internal error: {type(error).__name__}", 500)

    return app


def _error(kind: str, message: str, status: int, field: str | None = None) -> Response:
    return _json({"error": {"type": kind, "message": message, "field": field}}, status)


def _json(body: object, status: int = 200) -> Response:
    # Not-a-number is refused here rather than sent: the trainer would learn from it.
    text = json.dumps(body, allow_nan=False)
    return Response(text, status, mimetype="application/json")
