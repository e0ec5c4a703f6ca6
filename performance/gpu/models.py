"""Models with random weights on the device, and the number of operations that scoring takes.

Speed does not depend on the weights' values, so nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from performance.workload import (
    GROUP_SIZE,
    ModelShape,
    SequencePair,
    build_model,
    draw_rollouts,
    list_sequences,
)
from sar.scoring import TokenSequence
from sar.scoring.packing import plan_packs

STEP_GROUPS = 128  # prompts of one step in OpenRLHF's recipe, with GROUP_SIZE responses each


@dataclass(frozen=True)
class Shape(ModelShape):
    """A Qwen3's shape with a name for reports."""

    name: str = ""


# config.json of Qwen/Qwen3-1.7B and Qwen/Qwen3-4B on huggingface.co; both tie their embeddings.
QWEN3_1_7B = Shape(151_936, 2048, 6144, 28, 16, 8, 128, 40_960, "Qwen3-1.7B")
QWEN3_4B = Shape(151_936, 2560, 9728, 36, 32, 8, 128, 40_960, "Qwen3-4B")
TINY = Shape(512, 64, 128, 2, 4, 2, 16, 4096, "tiny")
TINY_DEEPER = Shape(512, 64, 128, 3, 4, 2, 16, 4096, "tiny, deeper")


def make_model(shape: ModelShape, device: torch.device, dtype: torch.dtype, seed: int = 0) -> Any:
    """`build_model`, but with a torch.device and a torch.dtype."""
    return build_model(shape, seed, device=str(device), dtype=str(dtype).removeprefix("torch."))


@dataclass(frozen=True)
class Lengths:
    """Lengths of rollouts, in tokens. Responses are log-normal, cut at 8 times their median."""

    prompt: tuple[int, int] = (100, 200)
    empty_question: int = 60
    # 600 on average, at most 4,096.
    response_median: int = 512
    response_sigma: float = 0.56


TINY_LENGTHS = Lengths(prompt=(8, 16), empty_question=5, response_median=16)


def draw_groups(num_groups: int, vocabulary: int, lengths: Lengths) -> list[SequencePair]:
    """Draws rollouts of `num_groups` prompts with `GROUP_SIZE` responses each."""
    return draw_rollouts(
        num_groups * GROUP_SIZE,
        vocabulary,
        prompt_tokens=lengths.prompt,
        empty_question_tokens=lengths.empty_question,
        median_response_tokens=lengths.response_median,
        length_sigma=lengths.response_sigma,
    )


def draw_sequences(num_groups: int, vocabulary: int, lengths: Lengths) -> list[TokenSequence]:
    """Draws rollouts; returns both sequences of each, as the server passes them to its scorer."""
    return list_sequences(draw_groups(num_groups, vocabulary, lengths))


@dataclass(frozen=True)
class Work:
    """The operations that scoring some sequences takes.

    Attributes:
        sequence_tokens: tokens of all sequences; shared tokens count once for each sequence.
        body_tokens: tokens that run through the model's body.
        response_tokens: positions at which the output head runs.
        body_flops, head_flops, attention_flops: floating point operations; a multiplication and
            an addition count as two. Attention counts only pairs that causality allows.
    """

    sequence_tokens: int
    body_tokens: int
    response_tokens: int
    body_flops: int
    head_flops: int
    attention_flops: int

    def __add__(self, other: Work) -> Work:
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return Work(*(one + two for one, two in pairs))

    @property
    def matmul_flops(self) -> int:
        return self.body_flops + self.head_flops

    @property
    def flops(self) -> int:
        return self.matmul_flops + self.attention_flops


def count_body_parameters(shape: ModelShape) -> int:
    """Weights of the linear layers of the body: no embeddings, no norms, no output head."""
    queries = shape.num_heads * shape.head_dim
    keys = shape.num_kv_heads * shape.head_dim
    attention = shape.hidden * (2 * queries + 2 * keys)
    feed_forward = 3 * shape.hidden * shape.intermediate
    return shape.num_layers * (attention + feed_forward)


def count_packed_work(
    shape: ModelShape, sequences: Sequence[TokenSequence], max_tokens: int
) -> Work:
    """The work of the scorer, which shares contexts in packs of at most `max_tokens`."""
    packs = plan_packs(sequences, max_tokens)
    pairs = sum(
        _count_pairs(s.num_context_tokens, s.stop - s.start) for p in packs for s in p.segments
    )
    return _count_work(shape, sequences, sum(p.num_tokens for p in packs), pairs)


def count_unshared_work(shape: ModelShape, sequences: Sequence[TokenSequence]) -> Work:
    """The work if each sequence were run alone: nothing shared, no padding."""
    tokens = [len(s) - 1 for s in sequences]  # the last one predicts nothing
    return _count_work(shape, sequences, sum(tokens), sum(_count_pairs(0, n) for n in tokens))


def _count_pairs(num_before: int, num_tokens: int) -> int:
    """Pairs of a token and a token it attends to, itself included; all attend to `num_before`."""
    return num_tokens * num_before + num_tokens * (num_tokens + 1) // 2


def _count_work(
    shape: ModelShape, sequences: Sequence[TokenSequence], body_tokens: int, pairs: int
) -> Work:
    response_tokens = sum(len(s.response_ids) for s in sequences)
    width = shape.num_heads * shape.head_dim
    return Work(
        sequence_tokens=sum(map(len, sequences)),
        body_tokens=body_tokens,
        response_tokens=response_tokens,
        body_flops=2 * count_body_parameters(shape) * body_tokens,
        head_flops=2 * shape.hidden * shape.vocabulary * response_tokens,
        # Attention scores and weighted values: two products over the width of all heads.
        attention_flops=4 * width * shape.num_layers * pairs,
    )
