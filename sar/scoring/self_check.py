"""Checks a way of scoring against the model's own forward pass, when the model is loaded.

Two faults are looked for, on the sequences of `sar.scoring.probe`:
1. The log-probabilities differ from the model's own by more than the model's own noise. A model
   computes the same thing in two ways itself: a whole sequence in one pass, or the context first
   and the response after it, from the key-value cache. Rounding makes these two differ, on SmolLM2
   by 3e-6 nats a token in float32 and by 0.05 in bfloat16. A fault can hide in that noise only.
2. A sequence changes another's log-probabilities. The layout stays the same, so here rounding stays
   the same too, and next to nothing is tolerated. Only a mixture of experts, which groups the
   tokens of all sequences by expert, is noisy here: as noisy as with two rows of a plain batch.

A model cannot declare any noise its own: both tolerances have a ceiling.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sar.scoring.base import TokenSequence
from sar.scoring.probe import ProbeText, make_probe

Logprobs = npt.NDArray[np.float32]
Score = Callable[[Sequence[TokenSequence]], list[Logprobs]]


class _Bounds(NamedTuple):
    """In nats, for a sequence's mean absolute difference."""

    floor: float
    """Tolerated even if the model's own two ways agree exactly, as small models' often do."""
    ceiling: float
    """Not tolerated, whatever noise the model has."""


# Packing changes the shapes of all matrices. On SmolLM2 in float32 this alone makes 1e-5.
_BOUNDS = {torch.float32: _Bounds(5e-5, 1e-3), torch.float16: _Bounds(5e-4, 2e-2)}
_BFLOAT16_BOUNDS = _Bounds(2e-3, 0.1)  # also for dtypes that are not listed
# Larger factors let more faults pass in bfloat16: positions off by one make 3.4 times the noise.
_NOISE_FACTOR = 2
# For one token of another sequence.
_LEAK_FLOOR = 1e-5


class SelfCheck:
    """What a model's own forward pass says about a probe, to compare ways of scoring with."""

    def __init__(self, model: Any, text: ProbeText | None) -> None:
        """
        Args:
            model: a causal LM whose attention is still transformers' own.
            text: what to probe with; None: text of the model's own.
        """
        self._probe = make_probe(model, text)
        self._expected = [whole_model_logprobs(model, s) for s in self._probe.sequences]
        self._cached = _try_cache(model, self._probe.sequences) or self._expected
        bounds = _BOUNDS.get(model.dtype, _BFLOAT16_BOUNDS)
        noise = max(_differences(self._cached, self._expected))
        self.tolerance = min(bounds.ceiling, max(bounds.floor, _NOISE_FACTOR * noise))
        leak = _measure_leak(model, self._probe.sequences[0], self._probe.variants[0].sequences[0])
        self.leak_tolerance = min(bounds.ceiling, max(_LEAK_FLOOR, _NOISE_FACTOR * leak))

    def find_fault(self, score: Score) -> str:
        """Why this way of scoring is wrong for the model; empty if it is right."""
        got = score(self._probe.sequences)
        off = max(self._compare(got))
        if not off <= self.tolerance:
            return (
                f"log-probabilities differ by {off:.2g} from those of the whole model, where its "
                f"own noise allows {self.tolerance:.2g}"
            )
        for variant in self._probe.variants:
            beside_others = score(variant.sequences)
            leak = max(np.abs(got[i] - beside_others[i]).max() for i in variant.unchanged)
            if not leak <= self.leak_tolerance:
                return f"sequences change each other by {leak:.2g}"
        return ""

    def _compare(self, got: Sequence[Logprobs]) -> list[float]:
        """Each sequence's difference from the nearer of the model's own ways: a fault may be in one
        sequence."""
        own_ways = (_differences(got, own) for own in (self._expected, self._cached))
        return [min(each) for each in zip(*own_ways, strict=True)]


def _differences(got: Sequence[Logprobs], expected: Sequence[Logprobs]) -> list[float]:
    """Each sequence's mean absolute difference; infinite for NaN."""
    means = (np.abs(one - other).mean() for one, other in zip(got, expected, strict=True))
    return [float(np.nan_to_num(mean, nan=np.inf)) for mean in means]


@torch.inference_mode()
def whole_model_logprobs(model: Any, sequence: TokenSequence) -> Logprobs:
    """(T,) log-probabilities of a response from one plain call of the model."""
    ids = sequence.context_ids + sequence.response_ids
    logits = model(input_ids=_to_row(model, ids), use_cache=False).logits
    return _read_response(logits[0], sequence)


def _try_cache(model: Any, sequences: Sequence[TokenSequence]) -> list[Logprobs]:
    """The log-probabilities with the response after the context's cache; none without a cache."""
    try:
        return [_cached_logprobs(model, s) for s in sequences]
    except Exception:  # noqa: BLE001  a model without such a cache can raise anything
        return []


@torch.inference_mode()
def _cached_logprobs(model: Any, sequence: TokenSequence) -> Logprobs:
    before = model(input_ids=_to_row(model, sequence.context_ids), use_cache=True)
    after = model(
        input_ids=_to_row(model, sequence.response_ids),
        past_key_values=before.past_key_values,
        use_cache=True,
    )
    return _read_response(torch.cat([before.logits[0], after.logits[0]]), sequence)


@torch.inference_mode()
def _measure_leak(model: Any, sequence: TokenSequence, other: TokenSequence) -> float:
    """How much one row of a plain batch changes when the other row does."""
    ids, changed = (s.context_ids + s.response_ids for s in (sequence, other))
    rows = [
        model(input_ids=torch.cat([_to_row(model, first), _to_row(model, ids)]), use_cache=False)
        for first in (ids, changed)
    ]
    kept, beside_another = (_read_response(batch.logits[1], sequence) for batch in rows)
    return float(np.abs(kept - beside_another).max())


def _to_row(model: Any, ids: list[int]) -> Tensor:
    return torch.tensor([ids], device=model.device)


def _read_response(logits_TV: Tensor, sequence: TokenSequence) -> Logprobs:
    ids_T = torch.tensor(sequence.context_ids + sequence.response_ids)
    num = len(sequence.response_ids)
    logprobs_TV = logits_TV[-num - 1 : -1].float().cpu().log_softmax(1)
    return np.asarray(logprobs_TV.gather(1, ids_T[-num:, None])[:, 0])
