"""Which sequences share a forward pass: similar lengths, under a token budget."""

from __future__ import annotations

from collections.abc import Sequence


def plan_batches(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Indices grouped into padded batches of at most `max_tokens` tokens, padding included.

    Sequences are taken by length, so that padding is small. One that alone exceeds the budget gets
    a batch of its own.

    Args:
        lengths: tokens per sequence.
        max_tokens: budget of `longest sequence x sequences` in a batch.
    """
    batches: list[list[int]] = []
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        # Ascending order: the newest sequence is the longest, and sets the padded width.
        if batch and lengths[index] * (len(batch) + 1) > max_tokens:
            batches.append(batch)
            batch = []
        batch.append(index)
    if batch:
        batches.append(batch)
    return batches
