"""Turns the texts that a trainer sends into the token sequences that a scorer scores.

The trainer had token ids but sends text, so the ids have to be recovered. Each step repeats what
the trainer did: it encodes the prompt without special tokens, and decodes prompt and response
together. The recovered ids are the policy's own ids whenever the text determines them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal, NamedTuple, get_args

from cachetools import LRUCache, cached

from sar.grading.graded_text import (
    find_special_tokens,
    make_graded_text,
    remove_special_tokens,
)
from sar.prompts import empty_question_prompt, prompt_frame
from sar.query import split_query, strip_padding
from sar.reference import find_answer_place
from sar.scoring.base import TokenSequence
from sar.special_tokens import list_end_tokens, list_special_tokens

# Prompt tokens decoded together with a response: enough to see how its first token decodes.
_TAIL_TOKENS = 8
_MAX_CACHED_TAILS = 4096
# Holds about 5,000 prompts of 1,000 characters.
_MAX_CACHED_BYTES = 64 * 2**20
# Python's memory for a character, at most, and for an id in a list.
_BYTES_PER_CHAR, _BYTES_PER_ID = 4, 40
# Of the context: at most so much for a reference answer, for the marker before it, and at least so
# much for the reasoning before that.
_REFERENCE_SHARE = 4

Need = Literal["self_certainty", "reference_gain"]
"""What a term can ask for beyond the two perplexities: an optional field of `Likelihood`."""
NEEDS: frozenset[Need] = frozenset(get_args(Need))
NO_NEEDS: frozenset[Need] = frozenset()


@dataclass(frozen=True)
class EncodedRollout:
    """A response after each of the two contexts whose perplexities SAR compares."""

    sequences: list[TokenSequence]
    """The response after its prompt, then after the standalone prompt. With the need
    "reference_gain": then the reference answer after the response's reasoning, and after the prompt
    alone, unless the reference has no token. Empty if the response has no token."""
    num_response_tokens: int
    """All tokens of the response, including those that were cut."""
    over_context: bool
    """True if the prompt or the response was cut to fit the context."""
    needs: frozenset[Need] = NO_NEEDS
    """What is to be computed beyond the two perplexities."""


class _CachedPrompt(NamedTuple):
    prompt: str
    ids: list[int]

    def count_bytes(self) -> int:
        """Memory that it takes in the cache, at most."""
        return _BYTES_PER_CHAR * len(self.prompt) + _BYTES_PER_ID * len(self.ids)


class RolloutTokenizer:
    """Splits and encodes rollouts with the policy's tokenizer. Safe to share between threads."""

    def __init__(
        self,
        tokenizer: Any,
        *,
        system_prompt: str,
        standalone_prompt: str = "chat",
        max_context_tokens: int | None = None,
        eos_token_ids: Iterable[int] = (),
    ) -> None:
        """
        Args:
            tokenizer: a transformers tokenizer.
            system_prompt: the system prompt in the policy's prompts; empty if they have none.
            standalone_prompt: the context of ppl_a. "chat": the empty-question prompt, which is
                the chat template with an empty question. "bos": the tokenizer's BOS token, or its
                EOS token if it has no BOS. Any other value is used as the text itself.
            max_context_tokens: longer rollouts are cut to this length; None for no limit.
            eos_token_ids: tokens that end a response, besides those that the tokenizer shows
                (`special_tokens.list_end_tokens`): the generation_config's.
        Raises:
            ValueError: the standalone prompt has no token, or takes half of the context or more.
        """
        self._tokenizer = tokenizer
        self._encode = _build_encoder(tokenizer)
        # Each rollout of a prompt arrives in its own request, and a prompt can be long.
        self._cache_prompt = cached(
            LRUCache(_MAX_CACHED_BYTES, _CachedPrompt.count_bytes), lock=threading.Lock()
        )(lambda prompt: _CachedPrompt(prompt, self._encode(prompt)))
        self._decode_tail = lru_cache(_MAX_CACHED_TAILS)(self._decode)
        self.max_context_tokens = max_context_tokens
        self._special_tokens = list_special_tokens(tokenizer)
        self.end_tokens = tuple(list_end_tokens(tokenizer, eos_token_ids))
        """Texts of the tokens that end a response."""
        self._frame, context = ("", ""), standalone_prompt
        if standalone_prompt == "chat":
            self._frame = prompt_frame(tokenizer, system_prompt)
            context = empty_question_prompt(tokenizer, system_prompt)
        self.standalone_ids = self._encode_standalone(context)
        """Token ids of the context of ppl_a."""
        if not self.standalone_ids:
            raise ValueError(f"the standalone prompt {standalone_prompt!r} has no token")
        if max_context_tokens and len(self.standalone_ids) >= max_context_tokens // 2:
            raise ValueError(
                f"the standalone prompt has {len(self.standalone_ids)} tokens, too many for a "
                f"context of {max_context_tokens}"
            )

    def split(self, query: str, prompt: str) -> tuple[str, str]:
        """Splits a query into the prompt as the policy saw it, and the response without padding.

        Raises:
            ValueError: the prompt is empty, or the query does not start with it.
        """
        decoded_prompt = prompt
        if not query.startswith(prompt):  # otherwise decoding is not needed, and it takes time
            decoded_prompt = self._decode(self._encode_prompt(prompt))
        prompt_text, response = split_query(
            query, prompt, decoded_prompt=decoded_prompt, special_tokens=self._special_tokens
        )
        pad = self._tokenizer.pad_token
        if pad and pad != self._tokenizer.bos_token and not prompt.startswith(pad):
            prompt_text = prompt_text.removeprefix(pad)
        return prompt_text, strip_padding(
            response, pad_token=pad, eos_token=self._tokenizer.eos_token
        )

    def encode(
        self,
        prompt: str,
        response: str,
        *,
        needs: frozenset[Need] = NO_NEEDS,
        reference: str = "",
    ) -> EncodedRollout:
        """Encodes the response after its prompt and after the standalone prompt, cut to fit.

        Args:
            needs: what is to be computed beyond the two perplexities.
            reference: the label's answer, for the need "reference_gain".
        """
        prompt_ids = self._encode_prompt(prompt) or self.standalone_ids
        encoded = self.fit_to_context(prompt_ids, self._encode_response(prompt_ids, response))
        if not needs:
            return encoded
        return self.add_needs(
            encoded, needs, prompt, response, prompt_ids=prompt_ids, reference=reference
        )

    def add_needs(
        self,
        encoded: EncodedRollout,
        needs: frozenset[Need],
        prompt: str,
        response: str,
        *,
        prompt_ids: list[int],
        reference: str,
    ) -> EncodedRollout:
        """Adds to a rollout from `fit_to_context` what is to be computed beyond its perplexities.

        Args:
            prompt_ids: the prompt's tokens, at least one.
            reference: the label's answer, for the need "reference_gain".
        """
        sequences = list(encoded.sequences)
        if sequences and "self_certainty" in needs:
            sequences[0] = replace(sequences[0], wants_certainty=True)
        if sequences and "reference_gain" in needs:
            place = find_answer_place(prompt, response, reference, self.end_tokens)
            references = [
                self._encode_reference(prompt_ids, reasoning, place.marker, reference)
                for reasoning in (place.reasoning, "")
            ]
            sequences += [
                TokenSequence(context_ids, reference_ids, continues=sequences[0])
                for context_ids, reference_ids in references
                if all(ids for _, ids in references)
            ]
        return replace(encoded, sequences=sequences, needs=needs)

    def fit_to_context(self, prompt_ids: list[int], response_ids: list[int]) -> EncodedRollout:
        """Pairs a response with its two contexts, and cuts what exceeds `max_context_tokens`.

        If they do not fit, the end of the response is cut first, but not below half of the context.
        If that is not enough, the start of the prompt is cut.

        Args:
            prompt_ids: at least one token id.
        """
        num_response_tokens = len(response_ids)
        if not response_ids:
            return EncodedRollout([], 0, over_context=False)
        kept_prompt_ids = prompt_ids
        if limit := self.max_context_tokens:
            room = limit - max(len(prompt_ids), len(self.standalone_ids))
            response_ids = response_ids[: max(room, limit // 2)]
            kept_prompt_ids = prompt_ids[-(limit - len(response_ids)) :]
        contexts = (kept_prompt_ids, self.standalone_ids)
        return EncodedRollout(
            [TokenSequence(context, response_ids) for context in contexts],
            num_response_tokens,
            over_context=len(kept_prompt_ids) < len(prompt_ids)
            or len(response_ids) < num_response_tokens,
        )

    def encode_text(self, text: str) -> list[int]:
        """The ids of a text, without special tokens that it does not spell."""
        return self._encode(text)

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]] | None:
        """The ids of a text, and the characters [start, end) that each stands for.

        None: the tokenizer is written in Python and does not state them.
        """
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        if backend is None:
            return None
        # Of a batch: this one leaves the GIL to others meanwhile.
        (encoding,) = backend.encode_batch([text], add_special_tokens=False)
        return list(encoding.ids), list(encoding.offsets)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens, special tokens included."""
        return self._decode(ids)

    def make_graded_text(self, prompt: str, response: str) -> str:
        """Returns the text to grade, from what `split` returned."""
        return make_graded_text(
            response,
            prompt=prompt,
            special_tokens=self._special_tokens,
            end_tokens=self.end_tokens,
        )

    def remove_special_tokens(self, text: str) -> str:
        """Returns what graders see of a response. `<think>` and the like stay."""
        return remove_special_tokens(text, self._special_tokens, self.end_tokens)

    def find_special_tokens(self, text: str) -> tuple[str, ...]:
        """The special tokens in a text that graders do not read, each once."""
        return find_special_tokens(text, self._special_tokens, self.end_tokens)

    def has_other_frame(self, prompt: str) -> bool:
        """True if the prompt's frame differs from that of the empty-question prompt.

        The frame is the text around the question: system prompt and chat template. If it differs,
        ppl_qa and ppl_a differ by more than the question, and SAR is not meaningful. Always False
        if the standalone prompt is not "chat".
        """
        before, after = self._frame
        start = 0
        for token in (self._tokenizer.pad_token, self._tokenizer.bos_token):
            while (
                token and prompt.startswith(token, start) and not prompt.startswith(before, start)
            ):
                start += len(token)
        return not (prompt.startswith(before, start) and prompt.endswith(after))

    def _encode_reference(
        self, prompt_ids: list[int], reasoning: str, marker: str, reference: str
    ) -> tuple[list[int], list[int]]:
        """The ids of prompt, reasoning and marker, and those of the reference after them.

        The reference's are those that it adds to the text before it, or changes: a space can be one
        token with the word after it. If all do not fit the context, the end of the reasoning is cut
        first, and then the start of the prompt.
        """
        text = reasoning + marker
        without, ids = self._encode(text), self._encode(text + reference)
        both = zip(without, ids, strict=False)
        start = next((i for i, (a, b) in enumerate(both) if a != b), min(len(without), len(ids)))
        reference_ids = ids[start:]
        # After the prompt, a text can start with other tokens than alone, but not end with others.
        before = self._encode_response(prompt_ids, text)
        before = before[: len(before) - (len(without) - start)]
        if limit := self.max_context_tokens:
            share = limit // _REFERENCE_SHARE
            reference_ids = reference_ids[:share]
            num_marker = min(len(self._encode(marker)), len(before), share)
            num_reasoning = len(before) - num_marker
            reasoning_ids, marker_ids = before[:num_reasoning], before[num_reasoning:]
            num_kept = limit - len(marker_ids) - len(reference_ids)
            reasoning_ids = reasoning_ids[: max(num_kept - len(prompt_ids), share)]
            prompt_ids = prompt_ids[-(num_kept - len(reasoning_ids)) :]
            before = reasoning_ids + marker_ids
        return prompt_ids + before, reference_ids

    def _encode_prompt(self, prompt: str) -> list[int]:
        return self._cache_prompt(prompt).ids

    def _encode_standalone(self, standalone_prompt: str) -> list[int]:
        if standalone_prompt != "bos":
            return self._encode(standalone_prompt)
        ids = (self._tokenizer.bos_token_id, self._tokenizer.eos_token_id)
        return [int(token) for token in ids if token is not None][:1]

    def _encode_response(self, prompt_ids: list[int], response: str) -> list[int]:
        """The ids that decode to the response when they follow the prompt.

        Tokenizers like SentencePiece put a space before a text that starts a sequence. A response
        encoded alone can thus get one token too many. The right encoding is the one that decodes
        to the response again.
        """
        ids = self._encode(response)
        tail = tuple(prompt_ids[-_TAIL_TOKENS:])
        expected = self._decode_tail(tail) + response
        if self._decode([*tail, *ids]) == expected:
            return ids
        others = [self._encode(response[1:])] if response.startswith(" ") else []
        # A text after a line break does not start a sequence, so it gets no space.
        line_break, after = self._encode("\n"), self._encode("\n" + response)
        if after[: len(line_break)] == line_break:
            others.append(after[len(line_break) :])
        return next((o for o in others if self._decode([*tail, *o]) == expected), ids)

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=False))


def _build_encoder(tokenizer: Any) -> Callable[[str], list[int]]:
    """A function from text to ids that adds no special tokens and is safe to share by threads."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:  # a tokenizer written in Python
        lock = threading.Lock()

        def encode_in_python(text: str) -> list[int]:
            with lock:
                return list(tokenizer.encode(text, add_special_tokens=False, verbose=False))

        return encode_in_python

    # transformers' own `encode` changes these two settings at each call. Threads that share a
    # tokenizer then fail with "Already borrowed".
    backend.no_truncation()
    backend.no_padding()

    def encode(text: str) -> list[int]:
        (encoding,) = backend.encode_batch_fast([text], add_special_tokens=False)
        return list(encoding.ids)

    return encode
