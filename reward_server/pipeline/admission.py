"""Admission: how much the server holds at once, and the refusal of more."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from reward_server.errors import Overloaded
from reward_server.pipeline.rollout import SubmittedRollout

# A rough estimate will do: the limit bounds memory, which grows with the text.
_BYTES_PER_TOKEN = 4


class Admission:
    """Admits requests as long as the tokens of all waiting requests stay within a limit."""

    def __init__(self, max_queued_tokens: int) -> None:
        """
        Args:
            max_queued_tokens: estimated from the texts, at four bytes a token.
        """
        self._max_queued_tokens = max_queued_tokens
        self._queued_tokens = 0
        self._counting = threading.Lock()
        self.num_in_flight = 0
        """Rollouts of admitted requests that have no answer yet."""

    @contextmanager
    def admit(self, rollouts: Sequence[SubmittedRollout]) -> Iterator[None]:
        """Counts a request's rollouts as in flight for as long as the block runs.

        Raises:
            Overloaded: with this request, more tokens would wait than the limit allows.
        """
        num_tokens = sum(map(_count_bytes, rollouts)) // _BYTES_PER_TOKEN
        with self._counting:
            # A request that exceeds the limit by itself is admitted when nothing else waits.
            if self.num_in_flight and self._queued_tokens + num_tokens > self._max_queued_tokens:
                raise Overloaded(
                    f"{self._queued_tokens} tokens are waiting already, and --max-queued-tokens is "
                    f"{self._max_queued_tokens}: use more servers, or a higher limit"
                )
            self._add(len(rollouts), num_tokens)
        try:
            yield
        finally:
            with self._counting:
                self._add(-len(rollouts), -num_tokens)

    def _add(self, num_rollouts: int, num_tokens: int) -> None:
        self.num_in_flight += num_rollouts
        self._queued_tokens += num_tokens


def _count_bytes(rollout: SubmittedRollout) -> int:
    """Memory of a rollout's texts. One emoji makes each character of a text take four bytes."""
    texts = [rollout.query, rollout.prompt, *rollout.label.texts]
    if isinstance(rollout.label_as_sent, str):  # JSON, perhaps, with much else around the texts
        texts.append(rollout.label_as_sent)
    return sum(len(text) if text.isascii() else 4 * len(text) for text in texts)
