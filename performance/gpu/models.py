"""Models of random weights on the device, and how many operations scoring with them takes.

Speed does not depend on what the weights say, so nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from performance.workload import (
    GROUP_SIZE,
    ModelShape,
    Rollout,
    build_model,
    draw_rollouts,
    sequences_of,
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
    """`build_model` for PyTorch's own objects."""
    return build_model(shape, seed, device=str(device), dtype=str(dtype).removeprefix("torch."))


@dataclass(frozen=True)
class Lengths:
    """How long rollouts are, in tokens. Responses are log-normal, cut at 8 times their median."""

    prompt: tuple[int, int] = (100, 200)
    empty_question: int = 60
    # 600 on average, at most 4,096.
    response_median: int = 512
    response_sigma: float = 0.56


TINY_LENGTHS = Lengths(prompt=(8, 16), empty_question=5, response_median=16)


def draw(num_groups: int, vocabulary: int, lengths: Lengths) -> list[Rollout]:
    """Rollouts of `num_groups` prompts with 6 responses each."""
    return draw_rollouts(
        num_groups * GROUP_SIZE,
        vocabulary,
        prompt_tokens=lengths.prompt,
        empty_question_tokens=lengths.empty_question,
        median_response_tokens=lengths.response_median,
        length_sigma=lengths.response_sigma,
    )


def rollouts(num_groups: int, vocabulary: int, lengths: Lengths) -> list[TokenSequence]:
    """Both passes of drawn rollouts, as the server hands them over."""
    return sequences_of(draw(num_groups, vocabulary, lengths))


@dataclass(frozen=True)
class Work:
    """What one scoring of some sequences computes.

    Attributes:
        sequence_tokens: tokens of all sequences, what they share counted each time.
        body_tokens: tokens that ran through the body.
        response_tokens: positions at which the output head ran.
        body_flops, head_flops, attention_flops: floating point operations, an addition and a
            multiplication being two; attention only as far as causality lets a token see.
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


def body_parameters(shape: ModelShape) -> int:
    """Weights that every token is multiplied with: no embeddings, no norms, no output head."""
    queries = shape.num_heads * shape.head_dim
    keys = shape.num_kv_heads * shape.head_dim
    attention = shape.hidden * (2 * queries + 2 * keys)
    feed_forward = 3 * shape.hidden * shape.intermediate
    return shape.num_layers * (attention + feed_forward)


def work_in_packs(shape: ModelShape, sequences: Sequence[TokenSequence], max_tokens: int) -> Work:
    """What the scorer computes, sharing contexts in packs of at most `max_tokens`."""
    packs = plan_packs(sequences, max_tokens)
    pairs = sum(
        _visible_pairs(s.num_context_tokens, s.stop - s.start) for p in packs for s in p.segments
    )
    return _work(shape, sequences, sum(p.num_tokens for p in packs), pairs)


def work_unshared(shape: ModelShape, sequences: Sequence[TokenSequence]) -> Work:
    """What would be computed if each sequence were run whole and by itself, without padding."""
    tokens = [len(s) - 1 for s in sequences]  # the last one predicts nothing
    return _work(shape, sequences, sum(tokens), sum(_visible_pairs(0, n) for n in tokens))


def _visible_pairs(num_before: int, num_tokens: int) -> int:
    """Pairs of a token and one that it sees, itself included; all see `num_before` tokens."""
    return num_tokens * num_before + num_tokens * (num_tokens + 1) // 2


def _work(
    shape: ModelShape, sequences: Sequence[TokenSequence], body_tokens: int, pairs: int
) -> Work:
    response_tokens = sum(len(s.response_ids) for s in sequences)
    width = shape.num_heads * shape.head_dim
    return Work(
        sequence_tokens=sum(map(len, sequences)),
        body_tokens=body_tokens,
        response_tokens=response_tokens,
        body_flops=2 * body_parameters(shape) * body_tokens,
        head_flops=2 * shape.hidden * shape.vocabulary * response_tokens,
        # Scores and weighted values: two products over the width of all heads.
        attention_flops=4 * width * shape.num_layers * pairs,
    )
