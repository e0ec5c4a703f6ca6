"""The token sequences on which a model is checked when it is loaded: text that it believes in.

On text that a model finds absurd, such as the ids 1, 2, 3, ..., a token costs it 20 nats, and
rounding alone makes a large difference. So a probe holds ordinary sentences after the model's own
chat template, and the model's own most likely continuation.

A probe is laid out as in service: two contexts, and the same responses to each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from sar.prompts import render_prompt
from sar.scoring.base import TokenSequence

_QUESTION = "A train travels 60 miles in an hour. How far does it travel in three hours?"
_RESPONSES = (
    "In one hour the train travels 60 miles, so in three hours it travels 180 miles.",
    "The sun rises in the east and sets in the west.",
)
_NUM_GREEDY_TOKENS = 12
# Lengths of drawn contexts.
_DRAWN_LENGTHS = (20, 8)
# A context may take half of the model's context, a response a quarter.
_CONTEXT_SHARE, _RESPONSE_SHARE = 2, 4
# Added to an id to change it. Not 1: neighbours in a vocabulary are often alike.
_ID_STEP = 7


class ProbeText(NamedTuple):
    """Token ids of two contexts, and of responses to each of them."""

    contexts: list[list[int]]
    responses: list[list[int]]


class Variant(NamedTuple):
    """A probe in which some sequences are exchanged for others of the same lengths."""

    sequences: list[TokenSequence]
    unchanged: list[int]
    """Indices of the sequences that are the probe's own."""


@dataclass(frozen=True)
class Probe:
    """Sequences to score, and the same with some of them changed."""

    sequences: list[TokenSequence]
    variants: list[Variant]


def tokenize_text(tokenizer: Any) -> ProbeText:
    """A question in the tokenizer's chat template, the empty question, and two sentences."""

    def encode(text: str) -> list[int]:
        return [int(i) for i in tokenizer.encode(text, add_special_tokens=False)]

    contexts = [encode(render_prompt(tokenizer, question, "")) for question in (_QUESTION, "")]
    return ProbeText(contexts, [encode(response) for response in _RESPONSES])


def read_probe_text(path_or_id: str, *, trust_remote_code: bool) -> ProbeText | None:
    """The text in the tokens of a model's own tokenizer; None if it has none."""
    from transformers import AutoTokenizer

    try:
        return tokenize_text(
            AutoTokenizer.from_pretrained(path_or_id, trust_remote_code=trust_remote_code)
        )
    except Exception:  # noqa: BLE001  a broken tokenizer can raise anything
        # Whoever needs the tokenizer for more loads it again, and reports what is wrong with it.
        return None


def draw_text(num_words: int) -> ProbeText:
    """For a model without a tokenizer: two contexts of ids drawn from its vocabulary."""
    drawn = np.random.default_rng(0)
    return ProbeText([drawn.integers(0, num_words, n).tolist() for n in _DRAWN_LENGTHS], [])


def make_probe(model: Any, text: ProbeText | None) -> Probe:
    """Adds the model's own continuation of each context to a text, and cuts what is too long.

    Args:
        model: a causal LM whose attention is still transformers' own.
        text: None, or a text whose ids the model does not have: contexts are drawn.
    """
    config = model.config.get_text_config()
    num_words = int(config.vocab_size)
    if text is None or not _is_usable(text, num_words):
        text = draw_text(num_words)
    limit = int(getattr(config, "max_position_embeddings", None) or 10**6)
    longest = max(1, limit // _CONTEXT_SHARE)
    first, second = (ids[-longest:] for ids in text.contexts)
    if second == first:
        second = _change(second, num_words)
    num_greedy = max(1, min(_NUM_GREEDY_TOKENS, limit // _RESPONSE_SHARE))
    responses = [_continue(model, context, num_greedy) for context in (first, second)]
    responses += [ids[: max(1, limit // _RESPONSE_SHARE)] for ids in text.responses]
    sequences = [TokenSequence(c, r) for c in (first, second) for r in responses]
    num, half = len(sequences), len(responses)
    first_changed = TokenSequence(first, _change(responses[0], num_words))
    changed = [
        TokenSequence(_change(s.context_ids, num_words), _change(s.response_ids, num_words))
        for s in sequences
    ]
    # A sequence may change those after it in its group, and a group may change the other.
    return Probe(
        sequences,
        [
            Variant([first_changed, *sequences[1:]], list(range(1, num))),
            Variant([*changed[:half], *sequences[half:]], list(range(half, num))),
            Variant([*sequences[:half], *changed[half:]], list(range(half))),
        ],
    )


def _is_usable(text: ProbeText, num_words: int) -> bool:
    parts = [*text.contexts, *text.responses]
    return all(parts) and max(max(ids) for ids in parts) < num_words


def _change(ids: Sequence[int], num_words: int) -> list[int]:
    return [(i + _ID_STEP) % num_words for i in ids]


@torch.inference_mode()
def _continue(model: Any, context: Sequence[int], num_tokens: int) -> list[int]:
    """The most likely next tokens, one after the other, without a cache, which a model may lack."""
    ids = list(context)
    for _ in range(num_tokens):
        input_ids = torch.tensor([ids], device=model.device)
        ids.append(int(model(input_ids=input_ids, use_cache=False).logits[0, -1].argmax()))
    return ids[-num_tokens:]
