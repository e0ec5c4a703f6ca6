"""The workload: models of a given shape, rollouts in the order a policy ends them, processes.

Random weights take as much time as trained ones. All random draws are seeded.
"""

from __future__ import annotations

import heapq
import multiprocessing
import os
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from sar.scoring import TokenSequence

GROUP_SIZE = 6  # responses per prompt, the paper's n
PROMPT_TOKENS = 80, 200
EMPTY_QUESTION_TOKENS = 40
MEDIAN_RESPONSE_TOKENS = 200
LENGTH_SIGMA = 0.5  # of the log-normal response lengths; the spread of GSM8K's solutions
# Responses that a policy writes at once: two groups. A response that ends makes room for the next,
# so responses end in an order that is neither that of their start nor that of their length.
NUM_SLOTS = 2 * GROUP_SIZE
MAX_BATCH_TOKENS = 16_384  # the server's default

# Environment variables that torch reads when it is loaded; None unsets one. The naive loop runs
# with PyTorch's defaults, as a user's script would.
SERVER_ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE"}
DEFAULT_ENVIRONMENT = {"OMP_WAIT_POLICY": None}


@dataclass(frozen=True)
class ModelShape:
    """A Qwen3 with tied embeddings; the default has 13 million parameters."""

    vocabulary: int = 32_000
    hidden: int = 256
    intermediate: int = 768
    num_layers: int = 6
    num_heads: int = 4
    num_kv_heads: int = 2
    head_dim: int = 64
    max_positions: int = 4096


@dataclass(frozen=True)
class SequencePair:
    """A rollout to score: its response after the prompt, and after the empty-question prompt."""

    with_question: TokenSequence
    without_question: TokenSequence

    @property
    def sequences(self) -> tuple[TokenSequence, TokenSequence]:
        return self.with_question, self.without_question


def build_model(
    shape: ModelShape, seed: int = 0, *, device: str = "cpu", dtype: str = "float32"
) -> Any:
    """Makes a Qwen3 in eval mode. Its weights depend on the seed and on the type of device."""
    import torch
    from transformers import AutoModelForCausalLM, Qwen3Config

    config = Qwen3Config(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_kv_heads,
        head_dim=shape.head_dim,
        max_position_embeddings=shape.max_positions,
        tie_word_embeddings=True,
    )
    torch.manual_seed(seed)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
    return model.to(device).eval()


def draw_rollouts(
    num_rollouts: int,
    vocabulary: int,
    *,
    prompt_tokens: tuple[int, int] = PROMPT_TOKENS,
    empty_question_tokens: int = EMPTY_QUESTION_TOKENS,
    median_response_tokens: int = MEDIAN_RESPONSE_TOKENS,
    length_sigma: float = LENGTH_SIGMA,
    seed: int = 0,
) -> list[SequencePair]:
    """Draws rollouts, `GROUP_SIZE` per prompt, in the order in which a policy ends them.

    Args:
        prompt_tokens: lengths of the shortest and the longest prompt, drawn uniformly.
        median_response_tokens, length_sigma: parameters of the log-normal response lengths, which
            are cut at 8 times the median.
    """
    rng = np.random.default_rng(seed)

    def draw_ids(num_tokens: int) -> list[int]:
        ids: list[int] = rng.integers(vocabulary, size=num_tokens).tolist()
        return ids

    empty_question = draw_ids(empty_question_tokens)
    rollouts: list[SequencePair] = []
    while len(rollouts) < num_rollouts:
        prompt = draw_ids(int(rng.integers(prompt_tokens[0], prompt_tokens[1] + 1)))
        for _ in range(min(GROUP_SIZE, num_rollouts - len(rollouts))):
            factor = min(8.0, float(np.exp(rng.normal(0, length_sigma))))
            response = draw_ids(max(1, round(median_response_tokens * factor)))
            rollouts.append(
                SequencePair(
                    TokenSequence(prompt, response), TokenSequence(empty_question, response)
                )
            )
    order = _order_by_end([len(rollout.with_question.response_ids) for rollout in rollouts])
    return [rollouts[index] for index in order]


def _order_by_end(lengths: Sequence[int]) -> list[int]:
    """Indices in the order in which responses end. `NUM_SLOTS` run at once, a token per step."""
    running: list[tuple[int, int]] = []
    order = []
    now = 0
    for index, length in enumerate(lengths):
        if len(running) == NUM_SLOTS:
            now, ended = heapq.heappop(running)
            order.append(ended)
        heapq.heappush(running, (now + length, index))
    return order + [index for _, index in sorted(running)]


def list_sequences(rollouts: Sequence[SequencePair]) -> list[TokenSequence]:
    """Both sequences of each rollout, as the server hands them to its scorer."""
    return [sequence for rollout in rollouts for sequence in rollout.sequences]


def split_into_batches(
    rollouts: Sequence[SequencePair], max_tokens: int = MAX_BATCH_TOKENS
) -> list[list[TokenSequence]]:
    """Splits rollouts into batches of at most `max_tokens`, as the server's batcher would."""
    batches: list[list[TokenSequence]] = []
    num_tokens = 0
    for rollout in rollouts:
        num_new = sum(map(len, rollout.sequences))
        if not batches or num_tokens + num_new > max_tokens:
            batches.append([])
            num_tokens = 0
        batches[-1] += rollout.sequences
        num_tokens += num_new
    return batches


def make_contexts_distinct(rollouts: Sequence[SequencePair], vocabulary: int) -> list[SequencePair]:
    """Makes all contexts differ in their first token, so that a scorer can share none of them.

    Raises:
        ValueError: the vocabulary has fewer tokens than there are contexts.
    """
    if 2 * len(rollouts) > vocabulary:
        raise ValueError(f"{2 * len(rollouts)} contexts, but a vocabulary of {vocabulary}")

    def replace_first(token: int, sequence: TokenSequence) -> TokenSequence:
        return TokenSequence([token, *sequence.context_ids[1:]], sequence.response_ids)

    return [
        SequencePair(
            replace_first(2 * i, r.with_question), replace_first(2 * i + 1, r.without_question)
        )
        for i, r in enumerate(rollouts)
    ]


def count_tokens(sequences: Sequence[TokenSequence]) -> int:
    """Tokens of all sequences, including those that a scorer shares between sequences."""
    return sum(map(len, sequences))


def count_response_tokens(sequences: Sequence[TokenSequence]) -> int:
    return sum(len(sequence.response_ids) for sequence in sequences)


class Scored(NamedTuple):
    """Seconds for all batches, and the log-probabilities in the order of the sequences."""

    seconds: float
    logprobs: list[npt.NDArray[np.float32]]


def time_scoring(scorer: Any, batches: list[list[TokenSequence]]) -> Scored:
    started = time.perf_counter()
    logprobs = [logprobs_T for batch in batches for logprobs_T in scorer.response_logprobs(batch)]
    return Scored(time.perf_counter() - started, logprobs)


def read_status_bytes(name: str) -> int:
    """A size of this process from /proc/self/status, such as VmRSS (now) or VmHWM (its peak).

    Unlike VmHWM, `ru_maxrss` of a new process starts at its parent's peak.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


class Worker:
    """An object in its own process. `ask` calls one of its methods and waits for the result."""

    def __init__(
        self,
        factory: Callable[..., Any],
        *arguments: Any,
        environment: Mapping[str, str | None],
        has_children: bool = False,
        **options: Any,
    ) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve,
            args=(theirs, factory, arguments, options),
            daemon=not has_children,  # Python forbids a daemon to start processes
        )
        with set_environment(environment):
            self._process.start()
        theirs.close()
        self._receive()

    def ask(self, method: str, *arguments: Any) -> Any:
        self._connection.send((method, arguments))
        return self._receive()

    def _receive(self) -> Any:
        """Raises RuntimeError with the process's traceback, or EOFError if it has ended."""
        error, result = self._connection.recv()
        if error:
            raise RuntimeError(f"in a worker process:\n{error}")
        return result

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()  # which ends the process
        self._process.join()


def _serve(
    connection: Connection, factory: Callable[..., Any], arguments: Any, options: Any
) -> None:
    try:
        made = factory(*arguments, **options)
        connection.send((None, None))
        while True:
            method, asked = connection.recv()
            connection.send((None, getattr(made, method)(*asked)))
    except EOFError:
        return
    except Exception:  # noqa: BLE001  `_receive` raises it in the other process
        connection.send((traceback.format_exc(), None))


@contextmanager
def set_environment(changes: Mapping[str, str | None]) -> Iterator[None]:
    """Sets environment variables, or unsets those that are None, for processes started inside."""
    before = {name: os.environ.get(name) for name in changes}

    def put(values: Mapping[str, str | None]) -> None:
        for name, value in values.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value

    put(changes)
    try:
        yield
    finally:
        put(before)
