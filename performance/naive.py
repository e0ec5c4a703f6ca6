"""The simplest scorer, to compare with: padded batches through the whole model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from sar.scoring import TokenSequence

BATCH_SIZE = 8


class NaiveScorer:
    """A `LogprobScorer` without our optimisations, but not made slow on purpose.

    It takes sequences in the order given, pads each batch on the right under an attention mask, and
    computes the logits of all positions and a float32 log-softmax over all of them.

    Shapes: B sequences, T tokens of the longest, V vocabulary.
    """

    def __init__(self, model: Any, batch_size: int = BATCH_SIZE) -> None:
        self._model = model
        self._batch_size = batch_size

    @property
    def max_context_tokens(self) -> int | None:
        return int(self._model.config.max_position_embeddings)

    def response_logprobs(
        self, sequences: Sequence[TokenSequence]
    ) -> list[npt.NDArray[np.float32]]:
        """See `LogprobScorer`."""
        results: list[npt.NDArray[np.float32]] = []
        for start in range(0, len(sequences), self._batch_size):
            results += self._score_batch(sequences[start : start + self._batch_size])
        return results

    @torch.inference_mode()
    def _score_batch(self, batch: Sequence[TokenSequence]) -> list[npt.NDArray[np.float32]]:
        shape = len(batch), max(map(len, batch))
        ids_BT = torch.zeros(shape, dtype=torch.long)
        mask_BT = torch.zeros(shape, dtype=torch.long)
        for row, sequence in enumerate(batch):
            ids_BT[row, : len(sequence)] = torch.tensor(
                sequence.context_ids + sequence.response_ids
            )
            mask_BT[row, : len(sequence)] = 1
        device = self._model.device
        ids_BT, mask_BT = ids_BT.to(device), mask_BT.to(device)
        logits_BTV = self._model(
            input_ids=ids_BT, attention_mask=mask_BT, use_cache=False
        ).logits.float()
        logprobs_BTV = logits_BTV.log_softmax(-1)
        # The logits at a position predict the token after it.
        logprobs_BT = logprobs_BTV[:, :-1].gather(2, ids_BT[:, 1:, None])[:, :, 0].cpu()
        return [
            logprobs_BT[row, len(s.context_ids) - 1 : len(s) - 1].numpy()
            for row, s in enumerate(batch)
        ]


def compute_padding_share(passes: Sequence[Sequence[TokenSequence]]) -> float:
    """Share of padding, 0 to 1, among the tokens that the naive loop computes."""
    num_computed = num_real = 0
    for sequences in passes:
        for start in range(0, len(sequences), BATCH_SIZE):
            batch = sequences[start : start + BATCH_SIZE]
            num_computed += len(batch) * max(map(len, batch))
            num_real += sum(map(len, batch))
    return 1 - num_real / num_computed
