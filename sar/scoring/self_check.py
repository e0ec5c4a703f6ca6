"""Checks a way of scoring against the model's own forward pass, when the model is loaded.

Four faults are looked for, on the sequences of `sar.scoring.probe`:
1. The log-probabilities differ from the model's own by more than the model's own noise. A model
   computes the same thing in two ways itself: a whole sequence in one pass, or the context first
   and the response after it, from the key-value cache. Rounding makes these two differ, on SmolLM2
   by 3e-6 nats a token in float32 and by 0.05 in bfloat16. A fault can hide in that noise only.
2. A sequence changes another's log-probabilities. The layout stays the same, so here rounding stays
   the same too, and next to nothing is tolerated. Only a mixture of experts, which groups the
   tokens of all sequences by expert, is noisy here: as noisy as with two rows of a plain batch.
3. The self-certainties differ from the model's own, judged as the log-probabilities are. A model
   that bans words, with a logit of -infinity or -1e38, has none of use, and is scored all the same.
4. A response's second half, scored as a sequence that continues the response, has other
   log-probabilities than in the whole response.

A model cannot declare any noise its own: all tolerances have a ceiling.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sar.scoring.base import TokenSequence
from sar.scoring.probe import ProbeText, make_probe

Scores = npt.NDArray[np.float32]
"""(T,) log-probabilities or self-certainties of one response, or (2, T) of both."""
Score = Callable[[Sequence[TokenSequence]], list[Scores]]


class _Bounds(NamedTuple):
    """In nats, for a sequence's mean absolute difference."""

    floor: float
    """Tolerated even if the model's own two ways agree exactly, as small models' often do."""
    ceiling: float
    """Not tolerated, whatever noise the model has."""

    def allow(self, noise: float) -> float:
        """The tolerance for a model with this noise."""
        return min(self.ceiling, max(self.floor, _NOISE_FACTOR * noise))


# Packing changes the shapes of all matrices. On SmolLM2 in float32 this alone makes 1e-5.
_BOUNDS = {torch.float32: _Bounds(5e-5, 1e-3), torch.float16: _Bounds(5e-4, 2e-2)}
_BFLOAT16_BOUNDS = _Bounds(2e-3, 0.1)  # also for dtypes that are not listed
# Larger factors let more faults pass in bfloat16: positions off by one make 3.4 times the noise.
_NOISE_FACTOR = 2
# For one token of another sequence.
_LEAK_FLOOR = 1e-5
# No distribution is this far from uniform, in nats, unless the model bans words.
_MAX_CERTAINTY = 1000.0


class _OwnWays(NamedTuple):
    """What the model's own two ways give for each sequence of a probe."""

    whole: list[Scores]
    cached: list[Scores]
    """The same as `whole` if the model has no cache."""

    def skip(self, counts: Sequence[int]) -> _OwnWays:
        """The same without each sequence's first tokens."""
        whole, cached = (
            [scores_T[count:] for scores_T, count in zip(own, counts, strict=True)] for own in self
        )
        return _OwnWays(whole, cached)

    def measure_noise(self) -> float:
        return max(_differences(self.cached, self.whole))

    def compare(self, got: Sequence[Scores]) -> list[float]:
        """Each sequence's difference from the nearer of the two ways: a fault may be in one
        sequence."""
        both = (_differences(got, own) for own in self)
        return [min(each) for each in zip(*both, strict=True)]


class SelfCheck:
    """What a model's own forward pass says about a probe, to compare ways of scoring with."""

    def __init__(self, model: Any, text: ProbeText | None) -> None:
        """
        Args:
            model: a causal LM whose attention is still transformers' own.
            text: what to probe with; None: text of the model's own.
        """
        self._probe = make_probe(model, text)
        whole = [_score_whole(model, s) for s in self._probe.sequences]
        cached = _try_cache(model, self._probe.sequences) or whole
        self._logprobs, self._certainties = (
            _OwnWays([scores[row] for scores in whole], [scores[row] for scores in cached])
            for row in (0, 1)
        )
        has_certainties = all(
            (certainties_T < _MAX_CERTAINTY).all() for certainties_T in self._certainties.whole
        )
        bounds = _BOUNDS.get(model.dtype, _BFLOAT16_BOUNDS)
        self.tolerance = bounds.allow(self._logprobs.measure_noise())
        self.certainty_tolerance = (
            bounds.allow(self._certainties.measure_noise()) if has_certainties else None
        )
        leak = _measure_leak(model, self._probe.sequences[0], self._probe.variants[0].sequences[0])
        self.leak_tolerance = min(bounds.ceiling, max(_LEAK_FLOOR, _NOISE_FACTOR * leak))

    def find_fault(self, score: Score) -> str:
        """Why this way of scoring is wrong for the model; empty if it is right."""
        got = score(self._probe.sequences)
        off = max(self._logprobs.compare(got))
        if not off <= self.tolerance:
            return _describe("log-probabilities", off, self.tolerance)
        for variant in self._probe.variants:
            beside_others = score(variant.sequences)
            leak = max(np.abs(got[i] - beside_others[i]).max() for i in variant.unchanged)
            if not leak <= self.leak_tolerance:
                return f"sequences change each other by {leak:.2g}"
        return self._find_fault_of_terms(score)

    def _find_fault_of_terms(self, score: Score) -> str:
        """The same for what only some terms need: self-certainties, and sequences that continue
        others, here each with the second half of its response."""
        asking = [replace(s, wants_certainty=True) for s in self._probe.sequences]
        halves = [len(s.response_ids) // 2 for s in asking]
        continuing = [
            TokenSequence(s.context_ids + s.response_ids[:half], s.response_ids[half:], continues=s)
            for s, half in zip(asking, halves, strict=True)
        ]
        got = score([*asking, *continuing])
        off = max(self._logprobs.skip(halves).compare(got[len(asking) :]))
        if not off <= self.tolerance:
            return _describe("log-probabilities of continued responses", off, self.tolerance)
        if self.certainty_tolerance is None:
            return ""
        off = max(self._certainties.compare([scores[1] for scores in got[: len(asking)]]))
        if not off <= self.certainty_tolerance:
            return _describe("self-certainties", off, self.certainty_tolerance)
        return ""


def _describe(what: str, off: float, tolerance: float) -> str:
    return (
        f"{what} differ by {off:.2g} from those of the whole model, where its own noise allows "
        f"{tolerance:.2g}"
    )


def _differences(got: Sequence[Scores], expected: Sequence[Scores]) -> list[float]:
    """Each sequence's mean absolute difference; infinite for NaN."""
    means = (np.abs(one - other).mean() for one, other in zip(got, expected, strict=True))
    return [float(np.nan_to_num(mean, nan=np.inf)) for mean in means]


def whole_model_logprobs(model: Any, sequence: TokenSequence) -> Scores:
    """(T,) log-probabilities of a response from one plain call of the model."""
    logprobs_T: Scores = _score_whole(model, sequence)[0]
    return logprobs_T


@torch.inference_mode()
def _score_whole(model: Any, sequence: TokenSequence) -> Scores:
    ids = sequence.context_ids + sequence.response_ids
    logits = model(input_ids=_to_row(model, ids), use_cache=False).logits
    return _read_response(logits[0], sequence)


def _try_cache(model: Any, sequences: Sequence[TokenSequence]) -> list[Scores]:
    """The scores with the response after the context's cache; none without a cache."""
    try:
        return [_score_cached(model, s) for s in sequences]
    except Exception:  # noqa: BLE001  a model without such a cache can raise anything
        return []


@torch.inference_mode()
def _score_cached(model: Any, sequence: TokenSequence) -> Scores:
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
    kept, beside_another = (_read_response(batch.logits[1], sequence)[0] for batch in rows)
    return float(np.abs(kept - beside_another).max())


def _to_row(model: Any, ids: list[int]) -> Tensor:
    return torch.tensor([ids], device=model.device)


def _read_response(logits_TV: Tensor, sequence: TokenSequence) -> Scores:
    """(2, T) log-probabilities and self-certainties."""
    ids_T = torch.tensor(sequence.context_ids + sequence.response_ids)
    num = len(sequence.response_ids)
    logprobs_TV = logits_TV[-num - 1 : -1].float().cpu().log_softmax(1)
    logprobs_T = logprobs_TV.gather(1, ids_T[-num:, None])[:, 0]
    certainties_T = -logprobs_TV.mean(1) - math.log(logprobs_TV.shape[1])
    return np.stack([logprobs_T.numpy(), certainties_T.numpy()])
