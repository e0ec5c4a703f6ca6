"""The agent for OpenRLHF with a reward file: single rollouts, groups, GDPO, mistakes.

OpenRLHF's executor and the server that grades are real. The engine is a stand-in that replays
responses and likelihoods.
"""

from __future__ import annotations

import asyncio
import importlib.util
import itertools
import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sar.prompts import DEFAULT_SYSTEM_PROMPT, render_prompt

ROOT = Path(__file__).parents[2]
AGENT = ROOT / "recipes" / "openrlhf_agent.py"
QUESTION = "Tom has 2 apples and gets 3. How many has he?"
RESPONSES = ["2 + 3 = 5. Answer: 5", "Answer: 5", "2 + 3 = 6, I think. Answer: 6", "Answer: 5"]
NLLS = [0.3, 0.6, 0.9, 0.6]  # of a token after the question; 1 after the empty question
OWN_TERMS = """
from sar.terms.base import GroupTerm, Term

class Words(Term):
    def score(self, sample):
        assert sample.prompt.startswith("<|im_start|>") and "Tom" in sample.prompt
        assert "<|im_end|>" not in sample.response
        return float(len(sample.response.split()))

class Longer(GroupTerm):
    def score_group(self, group):
        mean = sum(one.num_tokens for one in group) / len(group)
        return [one.num_tokens - mean for one in group]

class Broken(Term):
    def score(self, sample):
        return float("nan")
"""


class Engine:
    """Writes one response after the other, and scores prompts."""

    def __init__(self, tokenizer: Any, responses: Sequence[str] = RESPONSES) -> None:
        self._turns = itertools.cycle(
            (tokenizer.encode(text + "<|im_end|>"), nll)
            for text, nll in zip(responses, itertools.cycle(NLLS))
        )
        model_config = SimpleNamespace(logprobs_mode="raw_logprobs")
        self.llm = SimpleNamespace(model_config=model_config)

    async def generate(self, ids: list[int], params: Any, multi_modal_data: Any = None) -> Any:
        if getattr(params, "prompt_logprobs", None) is not None:
            flat = SimpleNamespace(token_ids=ids[1:], logprobs=[-1.0] * (len(ids) - 1))
            return SimpleNamespace(prompt_logprobs=flat)
        response, nll = next(self._turns)
        await asyncio.sleep(0.01 * nll)
        logprobs = [{one: SimpleNamespace(logprob=-nll)} for one in response]
        one = SimpleNamespace(token_ids=response, finish_reason="stop", logprobs=logprobs)
        return SimpleNamespace(outputs=[one])


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, server: Any, tmp_path: Path) -> None:
    for name in ("SAR_WEIGHT", "REWARD", "SYSTEM_PROMPT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("REWARD_URLS", server.url + "/get_reward")
    (tmp_path / "agents_own_terms.py").write_text(OWN_TERMS)
    monkeypatch.syspath_prepend(tmp_path)


def load() -> Any:
    """Source: OpenRLHF 0.11.2, openrlhf/trainer/ray/vllm_engine.py, _load_agent_executor."""
    spec = importlib.util.spec_from_file_location("agent_module", AGENT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.AgentExecutor()


def generate(tokenizer: Any, num_samples: int, *, num_calls: int = 1, mode: str = "train") -> Any:
    """As OpenRLHF's `generate_responses`, which a worker runs for several prompts at a time."""
    executor, engine = load(), Engine(tokenizer)

    async def generate_responses() -> Any:
        arguments = {
            "prompt": render_prompt(tokenizer, QUESTION, DEFAULT_SYSTEM_PROMPT),
            "label": json.dumps({"answer": "5", "mode": mode}),
            "sampling_params": SimpleNamespace(max_tokens=100, logprobs=None),
            "max_length": 1024, "hf_tokenizer": tokenizer, "llm_engine": engine, "images": None,
        }  # fmt: skip
        return await asyncio.gather(*(executor.execute(**arguments) for _ in range(num_samples)))

    async def run() -> Any:
        return await asyncio.gather(*(generate_responses() for _ in range(num_calls)))

    return asyncio.run(asyncio.wait_for(run(), 300))


def write(folder: Path, monkeypatch: pytest.MonkeyPatch, head: str, *terms: str) -> Path:
    path = folder / "reward.toml"
    path.write_text(head + "\n" + "".join(f"[[terms]]\n{term}\n" for term in terms))
    monkeypatch.setenv("REWARD", str(path))
    return path


def sar_of(output: dict[str, Any]) -> float:
    return 1 - math.exp(math.log(output["extra_logs"]["ppl_qa"]) - 1.0)


WORDS = 'term = "agents_own_terms:Words"\nweight = -0.1'
LONGER = 'term = "agents_own_terms:Longer"\nweight = 0.5\nonly_if = "correct"'


def test_terms_of_single_rollouts(
    bundled_tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, monkeypatch, "", 'term = "correctness"', 'term = "sar"\nweight = 2.0', WORDS)
    (outputs,) = generate(bundled_tokenizer, 3)
    assert [one["scores"] for one in outputs] == [1.0, 1.0, 0.0]
    for output, response in zip(outputs, RESPONSES, strict=False):
        logs = output["extra_logs"]
        assert logs["term_correctness"] == output["scores"]
        assert logs["term_sar"] == logs["sar"] == pytest.approx(sar_of(output))
        assert logs["term_words"] == len(response.split())
        expected = output["scores"] + 2.0 * logs["sar"] - 0.1 * logs["term_words"]
        assert output["reward"] == pytest.approx(expected)


def test_terms_that_compare_rollouts(
    bundled_tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, monkeypatch, "group_size = 4", 'term = "correctness"', LONGER)
    calls = generate(bundled_tokenizer, 4, num_calls=5)
    for outputs in calls:  # the same prompt and label: the groups are not mixed up
        lengths = [one["extra_logs"]["response_tokens"] for one in outputs]
        for output, length in zip(outputs, lengths, strict=True):
            longer = length - statistics.mean(lengths)
            assert output["extra_logs"]["term_longer"] == pytest.approx(longer)
            expected = output["scores"] * (1 + 0.5 * longer)
            assert output["reward"] == pytest.approx(expected)


def test_gdpo(bundled_tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    head = 'group_size = 4\nnormalize = "gdpo"'
    write(tmp_path, monkeypatch, head, 'term = "correctness"', 'term = "sar"\nweight = 0.2')
    (outputs,) = generate(bundled_tokenizer, 4)
    expected = [0.0] * 4
    for weight, name in ((1.0, "correctness"), (0.2, "sar")):
        values = [one["extra_logs"][name] for one in outputs]
        mean, deviation = statistics.fmean(values), statistics.stdev(values)
        for n, value in enumerate(values):
            expected[n] += weight * (value - mean) / (deviation + 1e-4)
    assert [one["reward"] for one in outputs] == pytest.approx(expected, abs=1e-6)
    assert sum(expected) == pytest.approx(0, abs=1e-9)
    assert [one["scores"] for one in outputs] == [1.0, 1.0, 0.0, 1.0]


def test_an_evaluation_is_correctness_and_waits_for_nobody(
    bundled_tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = 'term = "agents_own_terms:Broken"'
    write(tmp_path, monkeypatch, "group_size = 4", LONGER, broken)
    (outputs,) = generate(bundled_tokenizer, 3, mode="eval")
    for output in outputs:
        assert output["reward"] == output["scores"]
        assert output["extra_logs"]["term_longer"] == output["extra_logs"]["term_broken"] == 0.0


def test_a_group_of_another_size_names_the_setting(
    bundled_tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, monkeypatch, "group_size = 4", LONGER)
    with pytest.raises((ValueError, RuntimeError), match=r"has 3 rollouts, .*set N_SAMPLES=4"):
        generate(bundled_tokenizer, 3)


def test_a_term_that_fails_ends_the_run(
    bundled_tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, monkeypatch, "group_size = 4", LONGER, 'term = "agents_own_terms:Broken"')
    with pytest.raises(RuntimeError, match="term 'broken' failed: ValueError: its value is nan"):
        generate(bundled_tokenizer, 4)


@pytest.mark.parametrize(
    ("text", "weight", "said"),
    [
        ('[[terms]]\nterm = "sars"', "", r"reward\.toml: terms\[1\] 'sars' is unknown"),
        ('[[terms]]\nterm = "self_certainty"', "", "which the agent of ON_POLICY=1 does not"),
        ('[[terms]]\nterm = "sar"', "0.2", "SAR_WEIGHT=0.2 and REWARD=.*set one of them"),
    ],
)
def test_a_wrong_file_ends_the_start(
    text: str, weight: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, monkeypatch, text)
    monkeypatch.setenv("SAR_WEIGHT", weight)
    with pytest.raises(Exception, match=said) as error:
        load()
    assert type(error.value).__name__ in ("ValueError", "RewardFileError", "LaunchError")


def test_a_file_that_says_the_default_changes_no_reward(
    bundled_tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (without,) = generate(bundled_tokenizer, 4)
    assert not [name for name in without[0]["extra_logs"] if name.startswith("term_")]
    write(tmp_path, monkeypatch, "", 'term = "correctness"', 'term = "sar"\nweight = 0.2')
    (composed,) = generate(bundled_tokenizer, 4)
    assert [one["reward"] for one in composed] == [one["reward"] for one in without]
