"""The HTTP routes. The only module that knows flask."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

from flask import Flask, Response, g, render_template, request
from pydantic import BaseModel
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from reward_server.errors import Forbidden, InvalidRequest, RewardServerError, Unauthorized
from reward_server.http.answer_schema import (
    Error,
    ErrorAnswer,
    HealthAnswer,
    ReadyAnswer,
    ScorersAnswer,
    UpdateWeightsAnswer,
    make_answers,
)
from reward_server.http.auth import ApiKeys
from reward_server.http.bodies import Bodies
from reward_server.http.dashboard import HEADERS, DashboardPages
from reward_server.http.explain_answer import write_explain_answer
from reward_server.http.openapi import describe
from reward_server.http.origins import AllowedHosts
from reward_server.http.request_schema import (
    RequestLimits,
    parse_explain,
    parse_get_reward,
    parse_rm,
    parse_scorers,
    parse_update_weights,
)
from reward_server.http.statuses import STATUSES
from reward_server.pipeline.rollout import ScoredRollout, SubmittedRollout
from reward_server.pipeline.service import RewardService
from reward_server.pipeline.waiting import CLIENT_IS_GONE, Client
from reward_server.scaling.pool import ScorerPool
from reward_server.weights.policy import PolicyUpdater
from sar.errors import MAX_MESSAGE_CHARS, shorten
from sar.grading.label import Label
from sar.terms.reward_file import default_composition
from sar.view.assets import Asset
from sar.view.dashboard import Dashboard

_T = TypeVar("_T")

_KEY_HEADER = "Authorization"
_ID_HEADER = "X-Request-Id"
_MAX_ID_CHARS = 128
# Open to all: they show counters and the model's name, and nothing of any request.
_OPEN = {"/", "/healthz", "/readyz", "/metrics", "/openapi.json"}
_MAX_UPDATE_S = 3600.0
_JSON = "application/json"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class AppConfig:
    """What the routes need to know besides the service."""

    model_name: str
    sar_weight: float
    limits: RequestLimits
    keys: ApiKeys = field(default_factory=ApiKeys)
    hosts: AllowedHosts = field(default_factory=AllowedHosts)


def create_app(
    service: RewardService,
    config: AppConfig,
    updater: PolicyUpdater | None = None,
    dashboard: Dashboard | None = None,
    scorers: ScorerPool | None = None,
) -> Flask:
    """The WSGI application over a reward service.

    Args:
        updater: loads the checkpoints of `/update_weights`; None: the weights stay.
        dashboard: what `/dashboard` shows; None: there is no such page.
        scorers: those on Ray; None: the model is scored in this process.
    """
    app = Flask(
        "reward_server", static_folder=None, template_folder=Path(__file__).parent / "templates"
    )
    # /openapi.json documents neither Flask's redirect of `//healthz` nor its answers to OPTIONS.
    app.url_map.merge_slashes = False
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
    bodies = Bodies(config.limits.max_body_bytes)
    # Of their own, so that they keep no reward out.
    explained_bodies = Bodies(config.limits.max_body_bytes)
    metrics = service.metrics
    composition = service.composition
    answers = make_answers(composition)
    reward = (composition or default_composition(config.sar_weight)).formula
    document = describe(needs_key=config.keys.are_required, composition=composition)
    api_document = json.dumps(document).encode()

    def check_access() -> None:
        """Raises unless the request may be answered. One with a key may come under any host name:
        no page knows the key."""
        host = request.headers.get("Host")
        config.hosts.check_origin(
            request.headers.get("Origin"),
            host,
            method=request.method,
            site=request.headers.get("Sec-Fetch-Site"),
        )
        needs_key = config.keys.are_required
        if needs_key and config.keys.authorizes(request.headers.get(_KEY_HEADER)):
            return
        if needs_key and request.path not in _OPEN:
            raise Unauthorized(
                "a key is needed: 'Authorization: Bearer KEY', or http://any:KEY@host/get_reward "
                "as --reward.remote_url"
            )
        config.hosts.check_host(host)

    @app.before_request
    def begin() -> None:
        g.start_s = time.monotonic()
        g.request_id = _choose_request_id(request.headers.get(_ID_HEADER, ""))
        check_access()

    @app.after_request
    def end(response: Response) -> Response:
        metrics.add_request(response.status_code, time.monotonic() - g.start_s)
        response.headers[_ID_HEADER] = g.request_id
        if response.status_code == HTTPStatus.UNAUTHORIZED:
            response.headers["WWW-Authenticate"] = 'Basic realm="reward server"'
        return response

    def find_client() -> Client:
        # Only our own listener can tell whether the connection is still open.
        is_gone = request.environ.get(CLIENT_IS_GONE, lambda: False)
        return service.new_client(is_gone, g.request_id)

    def parse_body(parse: Callable[[bytearray, RequestLimits], _T], client: Client) -> _T:
        with bodies.receive(request.stream, request.content_length) as body:
            return service.intake.run(lambda: parse(body, config.limits), client, len(body))

    def compute_rewards(
        parse: Callable[[bytearray, RequestLimits], Sequence[SubmittedRollout]],
    ) -> list[ScoredRollout]:
        client = find_client()
        return service.compute_rewards(parse_body(parse, client), client)

    def check_label(label: Label, field: str) -> None:
        """Raises if a term of the reward has no value with this label."""
        if composition:
            try:
                composition.check_label(label)
            except ValueError as error:
                raise InvalidRequest(f"{field}: {error}", field) from error

    def check_labels(rollouts: list[SubmittedRollout]) -> list[SubmittedRollout]:
        for index, rollout in enumerate(rollouts):
            check_label(rollout.label, f"labels[{index}]")
        return rollouts

    def parse_one(body: bytearray, limits: RequestLimits) -> SubmittedRollout:
        rollout = parse_rm(body, limits)
        check_label(rollout.label, "label")
        if composition and composition.group_size and rollout.label.mode == "train":
            raise InvalidRequest(
                f"this server's reward compares the {composition.group_size} rollouts of a prompt. "
                "/rm takes one, and the trainers that use it have few requests open at a time: "
                "all of them could wait here for siblings that are never sent. Send whole groups "
                "to /get_reward, or use a reward file without group_size"
            )
        return rollout

    def reply(make_answer: Callable[[], BaseModel]) -> Response:
        start_s = time.monotonic()
        response = _to_json(make_answer())
        metrics.add_stage("reply", time.monotonic() - start_s)
        return response

    @app.post("/get_reward")
    def get_reward() -> Response:
        scored = compute_rewards(lambda body, limits: check_labels(parse_get_reward(body, limits)))
        return reply(lambda: answers.get_reward.of(scored))

    @app.post("/rm")
    def rm() -> Response:
        (scored,) = compute_rewards(lambda body, limits: [parse_one(body, limits)])
        return reply(lambda: answers.rm.of(scored))

    @app.post("/explain")
    def explain() -> Response:
        client, explaining = find_client(), service.explaining
        with explaining.admit():
            with explained_bodies.receive(request.stream, request.content_length) as body:
                rollouts = explaining.run(
                    lambda: check_labels(parse_explain(body, config.limits)), client
                )
            explained = explaining.explain(rollouts, client)
            parts = explaining.run(lambda: write_explain_answer(explained), client)
        response = Response(parts, mimetype=_JSON)
        response.content_length = sum(map(len, parts))
        return response

    @app.post("/update_weights")
    def update_weights() -> Response:
        if not config.keys.are_required:
            raise Forbidden("only a server with API keys takes weights; see --api-key-file")
        if updater is None:
            raise Forbidden("this server keeps the weights it started with")
        client = find_client()
        path = parse_body(lambda body, _: parse_update_weights(body), client)
        version = service.waiting.for_result(updater.update(path, client.is_gone), _MAX_UPDATE_S)
        return _to_json(UpdateWeightsAnswer(policy_version=version))

    @app.post("/scorers")
    def set_scorers() -> Response:
        if not config.keys.are_required:
            raise Forbidden("only a server with API keys takes scorers; see --api-key-file")
        if scorers is None:
            raise Forbidden(
                "this server scores in its own process: start it with --scorers 2 or more, or "
                "with --ray-address"
            )
        num = parse_body(lambda body, _: parse_scorers(body), find_client())
        return _to_json(ScorersAnswer(num=num, up=scorers.set_num(num)))

    @app.get("/healthz")
    def healthz() -> Response:
        status = service.status.model_dump()
        served = HealthAnswer(
            status="ok",
            model=config.model_name,
            reward=reward,
            sar_weight=config.sar_weight,
            **status,
        )
        return _to_json(served)

    @app.get("/readyz")
    def readyz() -> Response:
        state = service.state
        return _to_json(ReadyAnswer(status=state), 200 if state == "ready" else 503)

    @app.get("/metrics")
    def prometheus() -> Response:
        return Response(metrics.render(), mimetype="text/plain; version=0.0.4")

    @app.get("/openapi.json")
    def openapi() -> Response:
        return Response(api_document, mimetype=_JSON)

    @app.get("/", strict_slashes=False)
    def index() -> str:
        return render_template(
            "index.html",
            model=config.model_name,
            reward=reward,
            has_sar_only=composition is None,
            sar_weight=config.sar_weight,
            has_dashboard=dashboard is not None,
            has_scorers=scorers is not None,
            url=request.url_root,
        )

    if dashboard:
        _add_dashboard(app, dashboard, service)

    @app.errorhandler(RewardServerError)
    def request_error(error: RewardServerError) -> Response:
        status, kind = STATUSES[type(error)]
        _log.warning("%d %s: %s (request %s)", status, kind, error, g.request_id)
        return _to_error(kind, str(error), status, error.field)

    @app.errorhandler(HTTPException)
    def http_error(error: HTTPException) -> Response:
        response = _to_error("http", error.description or error.name, error.code or 500)
        if isinstance(error, MethodNotAllowed) and error.valid_methods:
            response.headers["Allow"] = ", ".join(sorted(error.valid_methods))
        return response

    @app.errorhandler(Exception)
    def unexpected(error: Exception) -> Response:
        _log.error("request %s failed", g.request_id, exc_info=error)
        return _to_error("internal", f"internal error: {type(error).__name__}", 500)

    return app


def _add_dashboard(app: Flask, dashboard: Dashboard, service: RewardService) -> None:
    """Adds the dashboard. If there are keys, it needs one, as rewards do."""
    pages = DashboardPages(dashboard, service.waiting)

    def send(asset: Asset) -> Response:
        return Response(asset.body, content_type=asset.kind, headers=HEADERS)

    @app.get("/dashboard")
    def dashboard_page() -> Response:
        return send(pages.read_file())

    @app.get("/dashboard/")
    def dashboard_with_slash() -> Response:
        return Response(status=HTTPStatus.FOUND, headers={"Location": "../dashboard"})

    @app.get("/dashboard/<name>")
    def dashboard_file(name: str) -> Response:
        return send(pages.read_file(name))

    @app.get("/dashboard/data/<name>")
    def dashboard_data(name: str) -> Response:
        return send(pages.answer(name, request.args.to_dict()))


def _choose_request_id(sent: str) -> str:
    """The client's own id if it is fit for a log line and a header, else a new one."""
    is_fit = 0 < len(sent) <= _MAX_ID_CHARS and sent.isascii() and sent.isprintable()
    return sent if is_fit else uuid4().hex


def _to_error(kind: str, message: str, status: int, field: str | None = None) -> Response:
    error = Error(type=kind, message=shorten(message, MAX_MESSAGE_CHARS), field=field)
    return _to_json(ErrorAnswer(error=error), status)


def _to_json(answer: BaseModel, status: int = 200) -> Response:
    return Response(answer.model_dump_json(), status, mimetype=_JSON)
