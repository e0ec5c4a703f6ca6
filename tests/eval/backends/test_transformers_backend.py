"""The transformers backend with the bundled model, on a CPU; and killing a run of it."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import scipy.stats
import torch

from eval.backends.base import Request, Sampling
from eval.backends.chat_tokenizer import ChatTokenizer
from eval.backends.transformers_backend import SeededSampler, TransformersBackend, _make_warper
from eval.errors import UserError
from sar.models.problems import generate
from sar.prompts import DEFAULT_SYSTEM_PROMPT, render_prompt

ROOT = Path(__file__).parents[3]
GREEDY = Sampling(0.0, 1.0, 80)
WARM = Sampling(1.0, 1.0, 40)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that spin while they wait are far slower where other processes want the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def load(bundled_model_path: Path) -> Callable[..., TransformersBackend]:
    def load(sampling: Sampling, batch_size: int = 8) -> TransformersBackend:
        return TransformersBackend.from_pretrained(
            str(bundled_model_path), sampling=sampling, batch_size=batch_size, device="cpu"
        )

    return load


def _requests(backend: TransformersBackend, count: int, seed: int | None = None) -> list[Request]:
    problems = list(islice(generate(5, held_out=True), count))
    return [
        Request(
            key=(i, problem.answer),
            system_prompt=DEFAULT_SYSTEM_PROMPT,
            user_turn=problem.question,
            prompt=backend.render_prompt(DEFAULT_SYSTEM_PROMPT, problem.question),
            seed=None if seed is None else seed + i,
        )
        for i, problem in enumerate(problems)
    ]


def test_greedy_solves_problems_and_stops(load: Callable[..., TransformersBackend]) -> None:
    backend = load(GREEDY)
    completions = list(backend.generate(_requests(backend, 20)))
    assert sorted(c.request.key[0] for c in completions) == list(range(20))
    solved = [str(c.response).endswith(f"Answer: {c.request.key[1]}") for c in completions]
    assert sum(solved) >= 16
    assert {c.finish_reason for c in completions} == {"stop"}
    tokenizer = backend._tokenizer
    for c in completions:
        # The end-of-sequence token counts, and is not read.
        assert c.response is not None
        assert c.num_tokens == len(tokenizer.encode(c.response)) + 1
        assert "<|" not in c.response


def test_a_batch_gives_the_same_responses_as_single_prompts(
    load: Callable[..., TransformersBackend],
) -> None:
    """Left padding and positions: the rows of a batch do not see each other."""
    alone, together = load(GREEDY, 1), load(GREEDY, 9)
    expected = {c.request.key: c for c in alone.generate(_requests(alone, 9))}
    for completion in together.generate(_requests(together, 9)):
        assert completion == expected[completion.request.key]


def test_truncated_at_max_tokens(load: Callable[..., TransformersBackend]) -> None:
    backend = load(Sampling(0.0, 1.0, 5))
    for completion in backend.generate(_requests(backend, 4)):
        assert (completion.num_tokens, completion.finish_reason) == (5, "length")


def test_context_ends_before_max_tokens(load: Callable[..., TransformersBackend]) -> None:
    backend = load(Sampling(0.0, 1.0, 4096))
    ids = [5] * 1000
    text = backend._tokenizer.decode(ids)
    num_prompt_tokens = len(backend._tokenizer.encode(text))
    assert num_prompt_tokens > 900
    (completion,) = backend.generate([Request(0, "", "", text, None)])
    assert completion.error is None
    assert completion.num_tokens is not None
    assert completion.num_tokens <= 1024 - num_prompt_tokens
    long = Request(1, "", "", text * 2, None)
    short = _requests(backend, 1)[0]
    by_key = {c.request.key: c for c in backend.generate([short, long])}
    assert "leaves no room for a response in the model's context of 1024" in (by_key[1].error or "")
    assert by_key[1].response is None
    assert by_key[short.key].finish_reason == "stop"


def test_a_sample_depends_only_on_its_seed(load: Callable[..., TransformersBackend]) -> None:
    """The same in any batch and order; another with another seed."""
    small, large = load(WARM, 2), load(WARM, 8)
    first = {c.request.key: c.response for c in small.generate(_requests(small, 8, seed=1))}
    again = {c.request.key: c.response for c in large.generate(_requests(large, 8, seed=1)[::-1])}
    other = {c.request.key: c.response for c in large.generate(_requests(large, 8, seed=100))}
    assert first == again
    assert first != other


def test_out_of_memory_halves_the_batch(
    load: Callable[..., TransformersBackend], monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = load(GREEDY, 8)
    expected = {c.request.key: c for c in backend.generate(_requests(backend, 8))}
    rows: list[int] = []
    new_tokens = backend._generate_tokens

    def short_of_memory(batch: Any) -> torch.Tensor:
        rows.append(len(batch))
        if len(batch) > 2 or any(e.request.key[0] == 3 for e in batch):
            raise torch.OutOfMemoryError("out of memory")
        return new_tokens(batch)

    monkeypatch.setattr(backend, "_generate_tokens", short_of_memory)
    found = {c.request.key: c for c in backend.generate(_requests(backend, 8))}
    assert max(rows) == 8
    assert found.keys() == expected.keys()
    failed = [c for c in found.values() if c.error]
    assert [c.request.key[0] for c in failed] == [3]
    assert failed[0].error == "OutOfMemoryError: out of memory"
    assert all(c == expected[c.request.key] for c in found.values() if not c.error)


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.5, 1.0), (2.0, 0.8)])
def test_samples_follow_the_models_distribution(temperature: float, top_p: float) -> None:
    logits_V = torch.tensor([2.0, 1.0, 0.0, -1.0, 0.5])
    probabilities_V = torch.softmax(logits_V / temperature, -1)
    ordered, indices = probabilities_V.sort(descending=True)
    kept = indices[: int((ordered.cumsum(0) - ordered < top_p).sum())]
    num_draws = 4000
    warp = _make_warper(Sampling(temperature, top_p, 1))
    sampler = SeededSampler(list(range(num_draws)), warp, torch.device("cpu"))
    no_ids = torch.empty(0)
    draws = Counter(sampler(no_ids, logits_V.repeat(num_draws, 1)).argmax(-1).tolist())
    assert draws.keys() == set(kept.tolist())
    expected = probabilities_V[kept] / probabilities_V[kept].sum() * num_draws
    observed = [draws[i] for i in kept.tolist()]
    expected_sum = expected.double() * (sum(observed) / expected.double().sum())
    assert scipy.stats.chisquare(observed, expected_sum.numpy()).pvalue > 1e-4
    assert math.isclose(sum(observed), num_draws)


def test_sampling_settings_of_a_checkpoint_are_ignored(
    bundled_model_path: Path, tmp_path: Path, load: Callable[..., TransformersBackend]
) -> None:
    for path in bundled_model_path.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    settings = {
        "do_sample": True, "temperature": 5.0, "top_k": 3, "repetition_penalty": 9.0,
        "eos_token_id": [2, 3], "max_new_tokens": 3,
    }  # fmt: skip
    (tmp_path / "generation_config.json").write_text(json.dumps(settings))
    changed = TransformersBackend.from_pretrained(str(tmp_path), sampling=GREEDY, device="cpu")
    plain = load(GREEDY)
    responses = [
        {c.request.key: c.response for c in backend.generate(_requests(backend, 6))}
        for backend in (changed, plain)
    ]
    assert responses[0] == responses[1]
    assert changed._eos_ids == {2, 3}


def test_prompts(bundled_tokenizer: Any) -> None:
    tokenizer = ChatTokenizer(bundled_tokenizer)
    rendered = render_prompt(bundled_tokenizer, "1+1?", "Be brief.")
    assert tokenizer.render_prompt("Be brief.", "1+1?") == rendered
    with pytest.raises(UserError, match="--no-enable-thinking: the model's chat template does not"):
        ChatTokenizer(bundled_tokenizer, enable_thinking=False)


class ThinkingTokenizer:
    """A template with the switch, and tags as special tokens."""

    chat_template = "{% if enable_thinking %}...{% endif %}"
    all_special_ids: tuple[int, ...] = (0, 1, 2)
    eos_token_id = 0
    pad_token_id = None

    words = ("<end>", "<think>", "</think>", "so", "2")

    @property
    def added_tokens_decoder(self) -> dict[int, SimpleNamespace]:
        return {
            i: SimpleNamespace(content=word, special=True) for i, word in enumerate(self.words[:3])
        }

    def apply_chat_template(self, turns: Any, **settings: Any) -> str:
        return f"{turns[-1]['content']} {settings.get('enable_thinking')}"

    def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
        assert not skip_special_tokens
        return " ".join(self.words[i] for i in ids)


@pytest.mark.parametrize("enabled", [None, True, False])
def test_thinking_switch(enabled: bool | None) -> None:
    assert ChatTokenizer(ThinkingTokenizer(), enabled).render_prompt("", "Q") == f"Q {enabled}"


def test_thinking_tags_are_read_and_other_special_tokens_are_not() -> None:
    tokenizer = ChatTokenizer(ThinkingTokenizer())
    assert tokenizer.decode([1, 3, 2, 4, 0]) == "<think> so </think> 2"
    assert tokenizer.pad_token_id == 0


def test_a_response_ends_at_its_end_token_and_no_token_joins_two_texts(
    bundled_tokenizer: Any,
) -> None:
    ids = bundled_tokenizer.encode("7<|im_start|><|im_start|>3<|im_end|>4")
    assert ChatTokenizer(bundled_tokenizer).decode(ids) == "7\n3"


@pytest.mark.parametrize(
    ("path", "device", "complaint"),
    [
        ("tests", "cpu", "cannot load the tokenizer of .*/tests: "),
        ("tests", "cuda:99", "--device cuda:99: no device"),
    ],
)
def test_a_missing_model_or_device(path: str, device: str, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        TransformersBackend.from_pretrained(str(ROOT / path), sampling=GREEDY, device=device)


def _command(output: Path, *flags: str) -> list[str]:
    return [
        sys.executable, "-m", "eval", "run", "--benchmarks", "demo", "--limit", "96",
        "--batch-size", "4", "--max-tokens", "60", "--output", str(output), *flags,
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    "stop", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_a_killed_process_can_be_resumed(tmp_path: Path, stop: signal.Signals) -> None:
    environ = {**os.environ, "HF_HUB_OFFLINE": "1"}
    path = tmp_path / "demo.jsonl"
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            _command(tmp_path), cwd=ROOT, env=environ, stdout=log, stderr=log
        )
        deadline = time.monotonic() + 60
        while not (path.exists() and path.read_bytes().count(b"\n") >= 6):
            assert process.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(stop)
        assert process.wait(60) == (130 if stop is signal.SIGTERM else -signal.SIGKILL)
    before = path.read_bytes()
    whole = before[: before.rindex(b"\n") + 1]
    again = subprocess.run(
        _command(tmp_path), cwd=ROOT, env=environ, capture_output=True, text=True, timeout=600
    )
    assert again.returncode == 0, again.stderr
    assert path.read_bytes().startswith(whole)
    keys = [json.loads(line)["id"] for line in path.read_text().splitlines()]
    assert Counter(keys) == Counter(str(i) for i in range(96))  # each once
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["benchmarks"]["demo"]["metrics"]["accuracy"]["value"] > 0.7
