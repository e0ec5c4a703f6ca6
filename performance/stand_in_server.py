"""python -m performance.stand_in_server [--graders] [--reward FILE]: the server with a stand-in
scorer.

Everything else is the real code: HTTP, schema, tokenisation, batcher, rewards and, with
`--graders`, the grader processes. Prints its URL and stops when its standard input closes.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from reward_server.config import ServerConfig
from reward_server.http.app import AppConfig, create_app
from reward_server.http.listener import IN_GREENLETS, Listener
from reward_server.http.request_schema import RequestLimits
from reward_server.pipeline.batcher import Batcher
from reward_server.pipeline.engine import Engine
from reward_server.pipeline.service import RewardService, ServiceLimits
from sar.grading.label import Label
from sar.grading.processes.pool import GraderPool
from sar.grading.verdict import Reason, Verdict
from sar.models import BUNDLED_MODEL
from sar.scoring import TokenSequence
from sar.terms.reward_file import read_reward_file
from sar.tokenization import RolloutTokenizer

STEP_S = 0.05
"""Seconds per batch of the stand-in scorer."""
STEP_ROLLOUTS = 256
"""Rollouts that fit into a batch, roughly."""
_TOKENS_PER_ROLLOUT = 250


class StandInScorer:
    """Sleeps for `STEP_S` per batch: like a GPU, it leaves the CPU to the server."""

    max_context_tokens = 1024

    def response_logprobs(
        self, sequences: Sequence[TokenSequence]
    ) -> list[npt.NDArray[np.float32]]:
        time.sleep(STEP_S)
        return [np.full(len(s.response_ids), -0.5, np.float32) for s in sequences]


class StandInGraders:
    """Finds every response correct, without delay."""

    num_restarts = 0

    def submit(self, response: str, label: Label) -> Future[Verdict]:
        verdict: Future[Verdict] = Future()
        verdict.set_result(Verdict(Reason.CORRECT))
        return verdict


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--graders", action="store_true")
    parser.add_argument("--reward", type=Path, help="reward file")
    arguments = parser.parse_args()
    composition = read_reward_file(arguments.reward) if arguments.reward else None
    config = ServerConfig()
    from transformers import AutoTokenizer

    tokenizer = RolloutTokenizer(
        AutoTokenizer.from_pretrained(BUNDLED_MODEL),
        system_prompt=config.system_prompt,
        max_context_tokens=1024,
    )
    pool: Any = (
        GraderPool(config.grader_workers, config.grader_timeout)
        if arguments.graders
        else StandInGraders()
    )
    service = RewardService(
        pool,
        sar_weight=config.sar_weight,
        limits=ServiceLimits(config.request_timeout, config.max_queued_tokens),
        composition=composition,
        waiting=IN_GREENLETS,
    )
    limits = RequestLimits(
        config.max_samples_per_request, config.max_text_chars, config.max_body_bytes
    )
    app = create_app(service, AppConfig("stand-in", config.sar_weight, limits))
    listener = Listener(app, host="127.0.0.1", port=0)
    batcher = Batcher(StandInScorer(), STEP_ROLLOUTS * _TOKENS_PER_ROLLOUT)
    service.engines.start(Engine(tokenizer, batcher))
    print("http://{}:{}/get_reward".format(*listener.addresses[0]), flush=True)
    sys.stdin.read()
    batcher.close()
    if arguments.graders:
        pool.close()


if __name__ == "__main__":
    main()
