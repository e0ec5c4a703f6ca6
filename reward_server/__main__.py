"""python -m reward_server --model PATH_OR_ID --port 5000

Listens at once, loads the model, and answers what came in meanwhile. SIGTERM or Ctrl-C finishes the
requests in flight, then exits.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from reward_server.config import ServerConfig, parse_args
from reward_server.observe.logs import start_logging
from sar.errors import one_line
from sar.files import write_atomically

if TYPE_CHECKING:
    from reward_server.pipeline.service import RewardService
    from reward_server.weights.engines import Engine
    from sar.scoring.transformers_scorer import TransformersScorer
    from sar.scoring.vllm_scorer import VllmScorer

# Beyond the time that a request has: for a model that still loads, and for answers on their way.
_DRAIN_MARGIN_S = 10.0
# For the scorer to end a batch that nobody waits for any more.
_CLOSE_S = 5.0

_log = logging.getLogger("reward_server")


def main(argv: list[str] | None = None) -> int:
    config = parse_args(argv)
    # On a CPU the scorer shares its cores with HTTP and graders, and OpenMP threads that spin while
    # they wait would take the cores from them. Read when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    start_logging(config.log_format)
    stop = _stop_on_signal()
    if config.model is None:
        _log.warning("no --model: serving the bundled demo model, of no use for real training")
    if config.is_reachable and not config.api_keys:
        _log.warning(
            "--host %s without a key: everyone who reaches this port can use the server; see "
            "--api-key-file",
            config.host,
        )

    from reward_server.http.app import AppConfig, create_app
    from reward_server.http.auth import ApiKeys
    from reward_server.http.listener import IN_GREENLETS, Listener
    from reward_server.http.schema import RequestLimits
    from reward_server.observe.metrics import Metrics
    from reward_server.observe.reward_log import RewardLog
    from reward_server.pipeline.service import Limits, RewardService
    from reward_server.weights.policy import PolicyUpdater
    from sar.grading.processes.pool import GraderPool

    try:
        reward_log = RewardLog(Path(config.reward_log)) if config.reward_log else None
    except OSError as error:
        _log.error("cannot write --reward-log %s: %s", config.reward_log, error)
        return 1
    metrics = Metrics()
    graders = GraderPool(
        config.grader_workers,
        config.grader_timeout,
        on_graded=lambda seconds: metrics.add_stage("grade", seconds),
    )
    service = RewardService(
        graders,
        sar_weight=config.sar_weight,
        limits=Limits(config.request_timeout, config.queued_tokens_limit),
        waiting=IN_GREENLETS,
        metrics=metrics,
        reward_log=reward_log,
    )
    load = partial(_load_engine, config, service)
    # A second vLLM does not start in a process that had one.
    updater = PolicyUpdater(service, load) if config.backend != "vllm" else None
    app = create_app(
        service,
        AppConfig(
            config.model_path,
            config.sar_weight,
            ApiKeys(config.api_keys),
            RequestLimits(config.max_samples_per_request, config.max_text_chars),
            config.max_body_bytes,
        ),
        updater,
    )
    try:
        listener = Listener(app, host=config.host, port=config.port)
    except OSError as error:
        _log.error("cannot listen on %s:%d: %s", config.host, config.port, error)
        graders.close()
        return 1
    urls = [f"http://{host}:{port}" for host, port in listener.addresses]
    for url in urls:
        _log.info("listening on %s/get_reward", url)
    if config.url_file:
        write_atomically(Path(config.url_file), urls[0] + "\n")
    try:
        service.engines.start(_load(load, config.model_path))
        _log.info("ready: rewards are correctness + %s x SAR", config.sar_weight)
        if updater and config.follow is not None:
            updater.follow(Path(config.follow))
        stop.wait()
        _log.info("stopping: finishing the requests in flight (again to stop at once)")
        listener.stop_listening()
        if updater:
            updater.close()
        is_drained = listener.drain(config.request_timeout + _DRAIN_MARGIN_S)
        if not is_drained:
            _log.error("some requests were not finished in their time")
        is_closed = service.engines.close(_CLOSE_S)
        if not is_closed:
            _log.error("the scorer hangs: ending without it")
        status = 0 if is_drained and is_closed else 1
    except _CannotLoad as error:
        _log.error("cannot serve --model %s: %s", config.model_path, error)
        return 1
    finally:
        graders.close()
        if reward_log:
            reward_log.close()
    if updater and updater.is_loading:
        # At its end the interpreter would stop that thread inside PyTorch, and abort.
        logging.shutdown()
        os._exit(status)
    return status


class _CannotLoad(Exception):
    """The model cannot be loaded or served; says why in a line."""


def _stop_on_signal() -> threading.Event:
    """An event that SIGTERM or Ctrl-C sets; the second one stops the process at once."""
    stop = threading.Event()

    def set_stop(*_: object) -> None:
        stop.set()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, set_stop)
    return stop


def _load(load: Callable[[str], Engine], path: str) -> Engine:
    try:
        return load(path)
    except Exception as error:  # a broken model folder raises all sorts of things
        raise _CannotLoad(one_line(error)) from error


def _load_engine(config: ServerConfig, service: RewardService, path: str) -> Engine:
    """Loads model and tokenizer; heavy imports happen here, so that `--help` is instant."""
    from reward_server.pipeline.batcher import Batcher
    from reward_server.weights.engines import Engine
    from sar.tokenization import RolloutTokenizer

    scorer = _load_scorer(config, path)
    from transformers import AutoTokenizer  # slow; a missing vLLM is told of at once

    limits = [n for n in (scorer.max_context_tokens, config.max_context_tokens) if n]
    tokenizer = RolloutTokenizer(
        AutoTokenizer.from_pretrained(path, trust_remote_code=config.trust_remote_code),
        system_prompt=config.system_prompt,
        standalone_prompt=config.standalone_prompt,
        max_context_tokens=min(limits, default=None),
    )
    _log.info("model %s: %s", path, scorer.description)
    _log.info(
        "limits: %d tokens in a forward pass, context %s, %d tokens waiting, %g s a request, "
        "%d graders with %g s each",
        config.max_batch_tokens,
        min(limits, default="without end"),
        config.queued_tokens_limit,
        config.request_timeout,
        config.grader_workers,
        config.grader_timeout,
    )
    batcher = Batcher(scorer, config.max_batch_tokens, service.metrics, service.counters)
    return Engine(tokenizer, batcher, path, scorer.architecture, scorer.has_room_for_copy)


def _load_scorer(config: ServerConfig, path: str) -> TransformersScorer | VllmScorer:
    if config.backend == "vllm":
        from sar.scoring.vllm_scorer import VllmScorer

        return VllmScorer.from_pretrained(
            path,
            dtype=config.dtype,
            max_batch_tokens=config.max_batch_tokens,
            tensor_parallel_size=config.tensor_parallel_size,
            trust_remote_code=config.trust_remote_code,
        )
    from transformers.utils import logging as transformers_logging

    from sar.scoring.transformers_scorer import TransformersScorer

    # As all other lines are: by default it has a format and a handler of its own.
    transformers_logging.disable_default_handler()
    transformers_logging.enable_propagation()
    return TransformersScorer.from_pretrained(
        path,
        device=config.device,
        dtype=config.dtype,
        max_batch_tokens=config.max_batch_tokens,
        trust_remote_code=config.trust_remote_code,
    )


if __name__ == "__main__":
    sys.exit(main())
