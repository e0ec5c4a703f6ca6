"""From a trainer's texts to the token sequences that are scored.

The trainer had token ids and sends text; this is where ids come back. Each step does what the
trainer did (encode the prompt without special tokens, decode prompt and response together), so that
the ids are the policy's own whenever text determines them.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from sar.grading.rules.answers import is_grading_tag
from sar.prompts import empty_question_prompt, prompt_frame
from sar.query import split_query, strip_padding
from sar.scoring.base import TokenSequence

# Enough tokens before the response to see how its first token decodes.
_TAIL_TOKENS = 8
_MAX_CACHED_PROMPTS = 4096


@dataclass(frozen=True)
class EncodedRollout:
    """The two sequences SAR compares, over the same response tokens. None: nothing to score."""

    with_question: TokenSequence | None
    without_question: TokenSequence | None
    num_response_tokens: int
    truncated: bool

    @property
    def sequences(self) -> list[TokenSequence]:
        return [s for s in (self.with_question, self.without_question) if s is not None]


class RolloutTokenizer:
    """Splits and encodes rollouts with the policy's tokenizer. Safe to share between threads."""

    def __init__(
        self,
        tokenizer: Any,
        *,
        system_prompt: str,
        standalone_prompt: str = "chat",
        max_context_tokens: int | None = None,
    ) -> None:
        """
        Args:
            tokenizer: a transformers tokenizer.
            system_prompt: the one the policy's prompts carry; empty for none.
            standalone_prompt: context of ppl_a. "chat": the chat template with an empty question;
                "bos": the tokenizer's BOS (its EOS where it has none); else this text.
            max_context_tokens: longer rollouts are cut to this; None for no limit.
        Raises:
            ValueError: the standalone prompt has no token, or fills the context.
        """
        self._tokenizer = tokenizer
        self._encode = _encoder(tokenizer)
        # The rollouts of one prompt come in requests of their own, and a prompt can be long.
        self._encode_prompt = lru_cache(_MAX_CACHED_PROMPTS)(self._encode)
        self._max_context_tokens = max_context_tokens
        self._special_tokens = _special_tokens(tokenizer)
        unread = [re.escape(s) for s in self._special_tokens if not is_grading_tag(s)]
        self._unread_pattern = re.compile("|".join(unread) or r"(?!)")
        self._frame = (
            prompt_frame(tokenizer, system_prompt) if standalone_prompt == "chat" else ("", "")
        )
        self._standalone_ids = self._standalone_prompt_ids(standalone_prompt, system_prompt)
        if not self._standalone_ids:
            raise ValueError(f"the standalone prompt {standalone_prompt!r} has no token")
        if max_context_tokens and len(self._standalone_ids) >= max_context_tokens // 2:
            raise ValueError(
                f"the standalone prompt has {len(self._standalone_ids)} tokens, too many for a "
                f"context of {max_context_tokens}"
            )

    def split(self, query: str, prompt: str) -> tuple[str, str]:
        """The prompt as the policy saw it, and the response; see `sar.query.split_query`.

        Raises:
            ValueError: the query does not continue the prompt.
        """
        prompt_text, response = split_query(
            query,
            prompt,
            # Only needed, and only paid for, where the query does not simply continue the prompt.
            decoded_prompt=prompt
            if query.startswith(prompt)
            else self._decode(self._encode_prompt(prompt)),
            special_tokens=self._special_tokens,
        )
        pad = self._tokenizer.pad_token
        if pad and pad != self._tokenizer.bos_token and not prompt.startswith(pad):
            prompt_text = prompt_text.removeprefix(pad)
        return prompt_text, strip_padding(
            response, pad_token=pad, eos_token=self._tokenizer.eos_token
        )

    def encode(self, prompt: str, response: str) -> EncodedRollout:
        """Token ids of the response after its prompt and after the empty-question prompt.

        Cut as `fit_to_context` says where they do not fit the context.
        """
        prompt_ids = self._encode_prompt(prompt) or self._standalone_ids
        return self.fit_to_context(prompt_ids, self._response_ids(prompt_ids, response))

    def fit_to_context(self, prompt_ids: list[int], response_ids: list[int]) -> EncodedRollout:
        """The same for a rollout whose token ids are known; the prompt has at least one.

        Where they do not fit the context, the end of the response is cut, and of a prompt that
        takes more than half of the context, its start.
        """
        num_response_tokens = len(response_ids)
        if not response_ids:
            return EncodedRollout(None, None, 0, truncated=False)
        kept_prompt_ids = prompt_ids
        if limit := self._max_context_tokens:
            room = limit - max(len(prompt_ids), len(self._standalone_ids))
            response_ids = response_ids[: max(room, limit // 2)]
            kept_prompt_ids = prompt_ids[-(limit - len(response_ids)) :]
        return EncodedRollout(
            TokenSequence(kept_prompt_ids, response_ids),
            TokenSequence(self._standalone_ids, response_ids),
            num_response_tokens,
            truncated=len(kept_prompt_ids) < len(prompt_ids)
            or len(response_ids) < num_response_tokens,
        )

    def remove_special_tokens(self, text: str) -> str:
        """What a person would read of a text: graders get this. Tags such as `<think>` stay."""
        return self._unread_pattern.sub("", text)

    def find_special_tokens(self, text: str) -> tuple[str, ...]:
        """The special tokens that `remove_special_tokens` takes from a text, each once."""
        return tuple(dict.fromkeys(self._unread_pattern.findall(text)))

    def has_other_frame(self, prompt: str) -> bool:
        """Whether the prompt has another frame around its question than the empty-question prompt.

        Then ppl_a is measured after another system prompt or template than the policy's, and SAR
        compares unlike things. False where the standalone prompt is not rendered from a template.
        """
        before, after = self._frame
        return not (before in prompt and prompt.endswith(after))

    def _standalone_prompt_ids(self, standalone_prompt: str, system_prompt: str) -> list[int]:
        if standalone_prompt == "bos":
            bos = self._tokenizer.bos_token_id
            bos = self._tokenizer.eos_token_id if bos is None else bos
            return [] if bos is None else [int(bos)]
        if standalone_prompt == "chat":
            return self._encode(empty_question_prompt(self._tokenizer, system_prompt))
        return self._encode(standalone_prompt)

    def _response_ids(self, prompt_ids: list[int], response: str) -> list[int]:
        """The ids that, after the prompt, decode to the response.

        SentencePiece-like tokenizers put a space before a text that starts a sequence, so a
        response encoded alone can get one token too many; the encoding that decodes back to what
        was sent is the right one.
        """
        ids = self._encode(response)
        tail = prompt_ids[-_TAIL_TOKENS:]
        expected = self._decode(tail) + response
        if self._decode(tail + ids) == expected:
            return ids
        others = [self._encode(response[1:])] if response.startswith(" ") else []
        # After a line break, a text does not start a sequence.
        line_break, after = self._encode("\n"), self._encode("\n" + response)
        if after[: len(line_break)] == line_break:
            others.append(after[len(line_break) :])
        return next((o for o in others if self._decode(tail + o) == expected), ids)

    def _decode(self, ids: list[int]) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=False)
        return text


def _encoder(tokenizer: Any) -> Callable[[str], list[int]]:
    """Text to ids, without special tokens added; safe to call from many threads."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:  # written in Python
        lock = threading.Lock()

        def encode_in_python(text: str) -> list[int]:
            with lock:
                ids: list[int] = tokenizer.encode(text, add_special_tokens=False, verbose=False)
            return ids

        return encode_in_python

    # What transformers' own `encode` does to the tokenizer at each call, which is why threads that
    # share one fail with "Already borrowed".
    backend.no_truncation()
    backend.no_padding()

    def encode(text: str) -> list[int]:
        (encoding,) = backend.encode_batch_fast([text], add_special_tokens=False)
        ids: list[int] = encoding.ids
        return ids

    return encode


def _special_tokens(tokenizer: Any) -> list[str]:
    """Texts of all special tokens, longest first: one may start with another."""
    added = tokenizer.added_tokens_decoder.values()
    texts = {t.content for t in added if t.special} | set(tokenizer.all_special_tokens)
    return sorted(filter(None, texts), key=len, reverse=True)
