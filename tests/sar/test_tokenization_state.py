"""What a `RolloutTokenizer` keeps from one call to the next: its lock, its settings, its cache."""

from __future__ import annotations

import threading
import time
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

import sar.tokenization
from sar.tokenization import EncodedRollout, RolloutTokenizer


@pytest.fixture
def own_tokenizer(bundled_model_path: Path) -> Any:
    """The bundled model's tokenizer, loaded for one test that changes it or shares it."""
    return AutoTokenizer.from_pretrained(bundled_model_path)


class WrittenInPython:
    """A tokenizer without a backend in Rust, in which threads must not meet."""

    backend_tokenizer = None

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._in_use = threading.Lock()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def encode(self, *args: Any, **kwargs: Any) -> Any:
        assert self._in_use.acquire(blocking=False), "two threads in one tokenizer"
        try:
            time.sleep(0.0005)  # lets another thread in
            return self._tokenizer.encode(*args, **kwargs)
        finally:
            self._in_use.release()


@pytest.mark.parametrize("wrap", [lambda tokenizer: tokenizer, WrittenInPython])
def test_threads_share_a_tokenizer(own_tokenizer: Any, wrap: Callable[[Any], Any]) -> None:
    rollouts = RolloutTokenizer(
        wrap(own_tokenizer), system_prompt="", standalone_prompt="Q:", max_context_tokens=200
    )
    jobs = [
        (f"Question {i}: " + "東é " * (i % 7), f" It is {i}.\n" * (1 + i % 11)) for i in range(64)
    ]

    def work(job: tuple[str, str]) -> tuple[tuple[str, str], EncodedRollout]:
        prompt, response = job
        return rollouts.split("<|endoftext|>" + prompt + response, prompt), rollouts.encode(*job)

    expected = [work(job) for job in jobs]
    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(work, jobs * 3)) == expected * 3


def test_a_tokenizer_that_truncates_and_pads_by_itself_is_told_not_to(
    own_tokenizer: Any, bundled_tokenizer: Any
) -> None:
    own_tokenizer.backend_tokenizer.enable_truncation(3)
    own_tokenizer.backend_tokenizer.enable_padding(length=64)
    encoded, plain = (
        RolloutTokenizer(tokenizer, system_prompt="", standalone_prompt="Q:").encode(
            "one two three four five", " six seven"
        )
        for tokenizer in (own_tokenizer, bundled_tokenizer)
    )
    assert encoded == plain


def test_the_cache_of_prompts_is_bounded_in_bytes(
    bundled_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sar.tokenization, "_MAX_CACHED_BYTES", 2**20)
    tokenizer = RolloutTokenizer(bundled_tokenizer, system_prompt="")
    prompts = [f"{number} " + "12 + 3 = 15, " * 500 for number in range(40)]
    tracemalloc.start()
    try:
        expected = [tokenizer.encode(prompt, " 5") for prompt in prompts[:3]]
        before, _ = tracemalloc.get_traced_memory()
        for prompt in prompts:
            tokenizer.encode(prompt, " 5")
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 2 * 2**20
    assert [tokenizer.encode(prompt, " 5") for prompt in prompts[:3]] == expected


def test_a_prompt_larger_than_the_cache_is_encoded(
    bundled_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = RolloutTokenizer(bundled_tokenizer, system_prompt="").encode("2 + 3 =", " 5")
    monkeypatch.setattr(sar.tokenization, "_MAX_CACHED_BYTES", 10)
    assert RolloutTokenizer(bundled_tokenizer, system_prompt="").encode("2 + 3 =", " 5") == usual
