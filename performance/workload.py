"""What is scored and where: a model of a known shape, rollouts as they come in, processes.

Random weights cost as much time as trained ones. All draws are seeded.
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
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from sar.scoring import TokenSequence

GROUP_SIZE = 6  # responses per prompt, the paper's n
PROMPT_TOKENS = 80, 200
EMPTY_QUESTION_TOKENS = 40
MEDIAN_RESPONSE_TOKENS = 200
LENGTH_SIGMA = 0.5  # of the log-normal of response lengths; the spread of GSM8K's solutions
# Responses a policy writes at once: two groups. A response that ends makes room for the next, so
# short ones overtake long ones, but the order is not that of length.
NUM_SLOTS = 2 * GROUP_SIZE
MAX_BATCH_TOKENS = 16_384  # the server's default


# Read when torch is loaded. None: PyTorch's own default, which a user's script has.
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
class Rollout:
    """A response after its prompt, and the same response after the empty-question prompt."""

    with_question: TokenSequence
    without_question: TokenSequence

    @property
    def sequences(self) -> tuple[TokenSequence, TokenSequence]:
        return self.with_question, self.without_question


def build_model(
    shape: ModelShape, seed: int = 0, *, device: str = "cpu", dtype: str = "float32"
) -> Any:
    """A Qwen3 in eval mode, made on the device; there, the same weights for the same seed."""
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
) -> list[Rollout]:
    """Rollouts in groups of `GROUP_SIZE` per prompt, in the order in which a policy ends them.

    Args:
        prompt_tokens: the shortest and the longest prompt, drawn evenly.
        median_response_tokens, length_sigma: of the log-normal of response lengths, which is cut
            at 8 times the median.
    """
    rng = np.random.default_rng(seed)

    def draw_ids(num_tokens: int) -> list[int]:
        ids: list[int] = rng.integers(vocabulary, size=num_tokens).tolist()
        return ids

    empty_question = draw_ids(empty_question_tokens)
    rollouts: list[Rollout] = []
    while len(rollouts) < num_rollouts:
        prompt = draw_ids(int(rng.integers(prompt_tokens[0], prompt_tokens[1] + 1)))
        for _ in range(min(GROUP_SIZE, num_rollouts - len(rollouts))):
            factor = min(8.0, float(np.exp(rng.normal(0, length_sigma))))
            response = draw_ids(max(1, round(median_response_tokens * factor)))
            rollouts.append(
                Rollout(TokenSequence(prompt, response), TokenSequence(empty_question, response))
            )
    order = _finish_order([len(rollout.with_question.response_ids) for rollout in rollouts])
    return [rollouts[index] for index in order]


def _finish_order(lengths: Sequence[int]) -> list[int]:
    """Indices in the order of their ends: `NUM_SLOTS` at once, a token of each per step."""
    running: list[tuple[int, int]] = []
    order = []
    now = 0
    for index, length in enumerate(lengths):
        if len(running) == NUM_SLOTS:
            now, ended = heapq.heappop(running)
            order.append(ended)
        heapq.heappush(running, (now + length, index))
    return order + [index for _, index in sorted(running)]


def sequences_of(rollouts: Sequence[Rollout]) -> list[TokenSequence]:
    """Both sequences of each rollout, as the server hands them to its scorer."""
    return [sequence for rollout in rollouts for sequence in rollout.sequences]


def server_batches(
    rollouts: Sequence[Rollout], max_tokens: int = MAX_BATCH_TOKENS
) -> list[list[TokenSequence]]:
    """What the server's batcher makes of rollouts that all wait: batches within the budget."""
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


def with_distinct_contexts(rollouts: Sequence[Rollout], vocabulary: int) -> list[Rollout]:
    """The same lengths, but no two contexts are equal: each begins with a token of its own."""
    assert 2 * len(rollouts) <= vocabulary, "not enough tokens to tell the contexts apart"

    def beginning(token: int, sequence: TokenSequence) -> TokenSequence:
        return TokenSequence([token, *sequence.context_ids[1:]], sequence.response_ids)

    return [
        Rollout(beginning(2 * i, r.with_question), beginning(2 * i + 1, r.without_question))
        for i, r in enumerate(rollouts)
    ]


def count_tokens(sequences: Sequence[TokenSequence]) -> int:
    """Tokens of all sequences, each counted whole whatever a scorer shares."""
    return sum(map(len, sequences))


def count_response_tokens(sequences: Sequence[TokenSequence]) -> int:
    return sum(len(sequence.response_ids) for sequence in sequences)


class Scored(NamedTuple):
    """The time of a pass over all batches, and the log-probabilities in their order."""

    seconds: float
    logprobs: list[npt.NDArray[np.float32]]


def timed(scorer: Any, batches: list[list[TokenSequence]]) -> Scored:
    started = time.perf_counter()
    logprobs = [logprobs_T for batch in batches for logprobs_T in scorer.response_logprobs(batch)]
    return Scored(time.perf_counter() - started, logprobs)


class Worker:
    """An object that lives in a process of its own, whose methods are asked one at a time."""

    def __init__(
        self,
        factory: Callable[..., Any],
        *arguments: Any,
        environment: Mapping[str, str | None],
        **options: Any,
    ) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, factory, arguments, options), daemon=True
        )
        with _environment(environment):
            self._process.start()
        theirs.close()
        self._answer()

    def ask(self, method: str, *arguments: Any) -> Any:
        self._connection.send((method, arguments))
        return self._answer()

    def _answer(self) -> Any:
        """Raises: RuntimeError with the process's traceback; EOFError if the process is gone."""
        error, result = self._connection.recv()
        if error:
            raise RuntimeError(f"in a benchmark's process:\n{error}")
        return result

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()  # the process ends when there is nobody left to ask it
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
    except Exception:  # noqa: BLE001  the process that asks raises it
        connection.send((traceback.format_exc(), None))


@contextmanager
def _environment(changes: Mapping[str, str | None]) -> Iterator[None]:
    """Sets variables, or unsets them where the value is None, for processes started within."""
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
