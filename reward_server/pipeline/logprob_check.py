"""Checks what a scorer gives: a reward may only come from one finite log-probability for each
response token, and from as many self-certainties if the sequence asks for them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from sar.scoring import TokenSequence


def check_logprobs(
    results: Sequence[npt.NDArray[np.float32]], sequences: Sequence[TokenSequence]
) -> None:
    """
    Raises:
        RuntimeError: numbers are missing.
        FloatingPointError: a number is not finite.
    """
    if len(results) != len(sequences):
        raise RuntimeError(f"the scorer gave {len(results)} results for {len(sequences)} sequences")
    for scores, sequence in zip(results, sequences, strict=True):
        if sequence.wants_certainty:
            _check_certainties(scores, sequence)
            continue
        if len(scores) != len(sequence.response_ids):
            raise RuntimeError(
                f"the scorer gave {len(scores)} log-probabilities for "
                f"{len(sequence.response_ids)} tokens"
            )
        if not np.isfinite(scores).all():
            raise FloatingPointError("the model gave a log-probability that is not finite")


def _check_certainties(scores: npt.NDArray[np.float32], sequence: TokenSequence) -> None:
    expected = (2, len(sequence.response_ids))
    if scores.shape != expected:
        raise RuntimeError(
            f"the scorer gave numbers of shape {scores.shape} instead of {expected}: "
            "log-probabilities and self-certainties"
        )
    if not np.isfinite(scores).all():
        raise FloatingPointError(
            "the model gave a log-probability or a self-certainty that is not finite"
        )
