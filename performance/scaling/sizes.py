"""Network bytes of a rollout, counted with the encoders of the client's load and of packs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from performance.load import encode_request
from reward_server.scaling.packs import encode_pack, encode_results
from sar.scoring import TokenSequence

PROMPT_TOKENS = 200
EMPTY_QUESTION_TOKENS = 40
CHARS_PER_TOKEN = 4
"""Of English text, and what the server reckons with too."""


@dataclass(frozen=True)
class Sizes:
    """Bytes of one rollout, each way."""

    request: int
    answer: int
    pack: int
    results: int

    @property
    def into_front(self) -> int:
        return self.request + self.results

    @property
    def out_of_front(self) -> int:
        return self.answer + self.pack


def count_bytes(response_tokens: int, answer: int) -> Sizes:
    """
    Args:
        answer: bytes of the answer to a request of one rollout.
    """
    prompt = "x" * CHARS_PER_TOKEN * PROMPT_TOKENS
    response = "x" * CHARS_PER_TOKEN * response_tokens
    payload = {"query": [prompt + response], "prompts": [prompt], "labels": ["72"]}
    response_ids = [0] * response_tokens
    sequences = [
        TokenSequence([0] * length, response_ids)
        for length in (PROMPT_TOKENS, EMPTY_QUESTION_TOKENS)
    ]
    results = [np.zeros(response_tokens, np.float32) for _ in sequences]
    return Sizes(
        request=len(encode_request("rewards.example.org:5000", payload)),
        answer=answer,
        pack=len(encode_pack(sequences)),
        results=len(encode_results(results)),
    )
