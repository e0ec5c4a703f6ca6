"""The reward server: python -m reward_server --model PATH_OR_ID --port 5000

It listens first and then loads the model; requests that arrive meanwhile wait. SIGTERM or Ctrl-C
stops it once the requests in flight are answered.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reward_server.command_line import parse_args
from reward_server.config import ServerConfig
from reward_server.observe.logs import start_logging
from sar.files import write_atomically

if TYPE_CHECKING:
    from reward_server.http.listener import Listener
    from reward_server.pipeline.engine import Engine
    from reward_server.pipeline.service import RewardService
    from reward_server.scaling.pool import ScorerPool
    from reward_server.weights.policy import PolicyUpdater

# When stopping, requests get this much more than --request-timeout: the model may still be
# loading, and answers have to be sent.
_DRAIN_MARGIN_S = 10.0
_POLL_S = 0.2
# How long the scorer may take to end a batch whose requests are gone.
_CLOSE_S = 5.0

_log = logging.getLogger("reward_server")


def main(argv: list[str] | None = None) -> int:
    """Runs a server until it is told to stop. Returns the exit code."""
    config = parse_args(argv)
    # On a CPU the scorer shares cores with HTTP and graders. Idle OpenMP threads must not spin on
    # them. torch reads this when it is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    start_logging(config.log_format)
    faulthandler.enable()  # a crash in native code names the line of Python that called it
    faulthandler.register(signal.SIGUSR1)
    stop = _Stop()
    _warn_of_unsafe_settings(config)
    with ExitStack() as cleanup:
        try:
            server = build_server(config, cleanup, stop.note_lost_scorer, lambda: stop.has_signal)
            server.start()
        except CannotStart as error:
            if stop.has_signal:
                _log.info("stopped before a scorer was up")
                return 0
            _log.error("%s", error)
            return 1
        stop.wait()
        status = 0 if server.stop() and not stop.has_lost_scorer else 1
    if status or server.updater.is_loading or server.service.is_computing_terms:
        # A thread still works. A normal exit would wait for it, or stop it inside PyTorch, which
        # aborts the process.
        logging.shutdown()
        os._exit(status)
    return status


class CannotStart(Exception):
    """The server cannot start; the message says why in one line."""


@dataclass(frozen=True)
class Server:
    """A server that listens."""

    config: ServerConfig
    service: RewardService
    listener: Listener
    load: Callable[[str], Engine]
    updater: PolicyUpdater
    scorers: ScorerPool | None = None

    def start(self) -> None:
        """Loads the model and answers with it.

        Raises:
            CannotStart: the model cannot be loaded.
        """
        model = self.config.model_path
        try:
            engine = self.load(model)
        # A broken model folder can raise anything: also what is no Exception, a panic in Rust.
        except BaseException as error:
            from reward_server.weights.remote import describe_failure

            reason = describe_failure(error)
            raise CannotStart(f"cannot serve --model {model}: {reason}") from error
        self.service.engines.start(engine)
        if composition := self.config.composition:
            _log.info("ready: rewards are %s", composition.formula)
        else:
            _log.info("ready: rewards are correctness + %s x SAR", self.config.sar_weight)
        if self.config.follow is not None:
            from reward_server.weights.follower import Follower

            Follower(Path(self.config.follow), self.updater, self.service.engines).start()

    def stop(self) -> bool:
        """Answers the requests in flight and closes the scorer; False if one took too long."""
        _log.info("stopping: finishing the requests in flight (a second signal stops at once)")
        self.listener.stop_listening()
        self.updater.close()
        self.service.end_waiting(self.config.request_timeout)
        is_drained = self.listener.drain(self.config.request_timeout + _DRAIN_MARGIN_S)
        if not is_drained:
            _log.error("stopping although some requests are not answered: they took too long")
        is_closed = self.service.engines.close(_CLOSE_S)
        if self.scorers:
            self.scorers.close()
        if not is_closed:
            _log.error("stopping although the scorer hangs")
        return is_drained and is_closed


def build_server(
    config: ServerConfig,
    cleanup: ExitStack,
    on_lost: Callable[[], None] = lambda: None,
    is_stopping: Callable[[], bool] = lambda: False,
) -> Server:
    """A server that listens and has no model yet.

    Args:
        cleanup: gets the functions that close what the server opened.
        on_lost: called if the scorer has ended and cannot be started again.
        is_stopping: tells that scorers on Ray are not waited for any more.
    Raises:
        CannotStart: the reward log or the URL file cannot be written, or the port is taken.
    """
    # Imported here so that --help and a bad flag are answered at once.
    from reward_server.http.app import AppConfig, create_app
    from reward_server.http.auth import ApiKeys
    from reward_server.http.listener import IN_GREENLETS
    from reward_server.http.origins import AllowedHosts, find_own_names
    from reward_server.http.request_schema import RequestLimits
    from reward_server.observe.alarms import LiveAlarms
    from reward_server.observe.metrics import Metrics
    from reward_server.observe.reward_log import RewardLog
    from reward_server.observe.watch import Consumer, Watch
    from reward_server.pipeline.service import RewardService, ServiceLimits
    from reward_server.scaling.options import ScalingOptions
    from reward_server.scaling.pool import ScorerPool
    from reward_server.weights.loading import EngineLoader
    from reward_server.weights.policy import PolicyUpdater
    from sar.grading.processes.pool import GraderPool
    from sar.view.dashboard import Dashboard
    from sar.view.live import LiveIndex

    try:
        reward_log = RewardLog(Path(config.reward_log)) if config.reward_log else None
    except OSError as error:
        raise CannotStart(f"cannot write --reward-log {config.reward_log}: {error}") from error
    if reward_log:
        cleanup.callback(reward_log.close)
    alarms = LiveAlarms(lambda: service.engines.checkpoints.newest_step)
    consumers: list[Consumer] = [alarms.add]
    dashboard = None
    if config.dashboard_rollouts:
        live = LiveIndex(config.dashboard_rollouts, title=config.model_path)
        consumers.append(live.add)
        dashboard = Dashboard(
            live,
            lambda: [state.to_json() for state in alarms.states()],
            lambda: [scorer.model_dump() for scorer in service.status.scorers],
            can_explain=True,
        )
    watch = Watch(consumers)
    cleanup.callback(watch.close)
    metrics = Metrics()
    metrics.show_alarms(alarms.read_gauge)
    graders = GraderPool(
        config.grader_workers,
        config.grader_timeout,
        on_graded=lambda seconds: metrics.add_stage("grade", seconds),
    )
    cleanup.callback(graders.close)
    scorers = None
    if config.uses_ray:
        scorers = ScorerPool(ScalingOptions.of(config), is_stopping)
        cleanup.callback(scorers.close)
    service = RewardService(
        graders,
        sar_weight=config.weight_of_sar,
        composition=config.composition,
        limits=ServiceLimits(config.request_timeout, config.max_queued_tokens),
        waiting=IN_GREENLETS,
        metrics=metrics,
        reward_log=reward_log,
        watch=watch,
        scorers=scorers,
    )
    loader = EngineLoader(config, metrics, service.counters, on_lost, scorers)
    identify = loader.inspector.identify if loader.inspector else None
    updater = PolicyUpdater(service.engines, loader.load, identify)
    app = create_app(
        service,
        AppConfig(
            config.model_path,
            config.weight_of_sar,
            RequestLimits(
                config.max_samples_per_request, config.max_text_chars, config.max_body_bytes
            ),
            ApiKeys(config.api_keys),
            AllowedHosts(
                config.allowed_host_names,
                find_own_names(config.host, is_reachable=config.is_reachable),
            ),
        ),
        updater,
        dashboard,
        scorers,
    )
    listener = _start_listening(config, app)
    return Server(config, service, listener, loader.load, updater, scorers)


def _start_listening(config: ServerConfig, app: Callable[..., Any]) -> Listener:
    """Accepts connections, and says where."""
    from reward_server.http.listener import Listener

    try:
        listener = Listener(app, host=config.host, port=config.port)
    except OSError as error:
        raise CannotStart(f"cannot listen on {config.host}:{config.port}: {error}") from error
    # An IPv6 address stands in brackets in a URL.
    urls = [
        f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        for host, port in listener.addresses
    ]
    for url in urls:
        _log.info("listening on %s/get_reward", url)
    if config.url_file:
        try:
            write_atomically(Path(config.url_file), urls[0] + "\n")
        except OSError as error:
            raise CannotStart(f"cannot write --url-file {config.url_file}: {error}") from error
    return listener


def _warn_of_unsafe_settings(config: ServerConfig) -> None:
    if config.model is None:
        _log.warning("no --model: serving the bundled demo model, which is no use for training")
    if config.is_reachable and not config.api_keys:
        _log.warning(
            "--host %s --allow-anyone: everyone who can reach this port can use the server without "
            "a key%s",
            config.host,
            ", and read its rollouts at /dashboard (--dashboard-rollouts 0: no dashboard)"
            if config.dashboard_rollouts
            else "",
        )


class _Stop:
    """Whether the server is to stop: SIGTERM or Ctrl-C has come, or the scorer is lost. The second
    signal stops the process at once.

    Not a `threading.Event`: Python runs the handler in the main thread, between any two of its
    steps. If that thread holds the event's lock just then, `Event.set` waits for it for ever.
    """

    def __init__(self) -> None:
        self.has_lost_scorer = False
        self.has_signal = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle)

    def wait(self) -> None:
        """Waits in short steps. The system may give a signal to another thread; only the main
        thread runs Python's handlers, and it would not notice during a wait without an end."""
        while not (self.has_signal or self.has_lost_scorer):
            time.sleep(_POLL_S)

    def note_lost_scorer(self) -> None:
        """The scorer has ended and does not start again. Any thread may call this."""
        self.has_lost_scorer = True

    def _handle(self, *_: object) -> None:
        self.has_signal = True
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)


if __name__ == "__main__":
    sys.exit(main())
