"""The agent for OpenRLHF: its executor and a live server are real, vLLM is a stand-in.

The stand-in answers as vLLM 0.29.0 does (vllm/sampling_params.py, vllm/logprobs.py), over the
bundled model.
"""

from __future__ import annotations

import asyncio
import dataclasses
import importlib.util
import json
import math
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sar.models.problems import ArithmeticProblem, generate
from sar.prompts import DEFAULT_SYSTEM_PROMPT, render_prompt

ROOT = Path(__file__).parents[2]
AGENT = ROOT / "recipes" / "openrlhf_agent.py"
CONTEXT_TOKENS = 1024  # of the bundled model
PROBLEMS = list(islice(generate(seed=31, held_out=True), 3))
GRADING = {"correctness", "no_answer", "grader_timeout", "grader_crashed", "label_unreadable"}
OWN = {"sar", "ppl_qa", "ppl_a", "response_tokens", "over_context", "template_mismatch"}


@dataclasses.dataclass
class SamplingParams:
    temperature: float = 1.0
    max_tokens: int | None = 300
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    flat_logprobs: bool = False
    detokenize: bool = True
    skip_reading_prefix_cache: bool | None = None

    def __post_init__(self) -> None:
        if self.skip_reading_prefix_cache is None:
            self.skip_reading_prefix_cache = self.prompt_logprobs is not None


class Engine:
    """Stands in for OpenRLHF's rollout actor: replays or samples responses, and scores prompts."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        response_ids: Sequence[int] | None,
        logprobs_mode: str = "raw_logprobs",
    ) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._response_ids = response_ids
        self.max_model_len = CONTEXT_TOKENS
        self.llm = SimpleNamespace(model_config=SimpleNamespace(logprobs_mode=logprobs_mode))
        self.asked: list[list[int]] = []
        """Token ids that it was asked to score."""

    async def generate(
        self, prompt_token_ids: list[int], sampling_params: Any, multi_modal_data: Any = None
    ) -> Any:
        await asyncio.sleep(0)
        if len(prompt_token_ids) >= self.max_model_len:
            raise ValueError(f"a prompt of {len(prompt_token_ids)} tokens leaves no room")
        if sampling_params.prompt_logprobs is not None:
            return self._scored(prompt_token_ids, sampling_params)
        ids = self._response_ids
        if ids is None:
            ids = self._sampled(prompt_token_ids, sampling_params)
        ids = list(ids)[: sampling_params.max_tokens]
        finished = ids[-1:] == [self._tokenizer.eos_token_id]
        logprobs = None
        if sampling_params.logprobs is not None:
            logprobs = self._logprobs_of_sampled(prompt_token_ids, ids, sampling_params)
        reason = "stop" if finished else "length"
        one = SimpleNamespace(token_ids=ids, finish_reason=reason, logprobs=logprobs)
        return SimpleNamespace(outputs=[one], prompt_logprobs=None)

    def _logprobs_of_sampled(
        self, prompt_ids: list[int], ids: list[int], params: Any
    ) -> list[dict[int, Any]]:
        """vLLM's raw log-probabilities, or those after the temperature."""
        is_raw = self.llm.model_config.logprobs_mode == "raw_logprobs"
        temperature = 1.0 if is_raw else params.temperature
        logprobs = logprobs_of(self._model, prompt_ids + ids, temperature)[len(prompt_ids) - 1 :]
        return [
            {one: SimpleNamespace(logprob=value)} for one, value in zip(ids, logprobs, strict=True)
        ]

    def _sampled(self, ids: list[int], params: Any) -> list[int]:
        with torch.inference_mode():
            out = self._model.generate(
                torch.tensor([ids]),
                attention_mask=torch.ones(1, len(ids), dtype=torch.long),
                max_new_tokens=params.max_tokens,
                do_sample=True,
                temperature=params.temperature,
                top_k=0,
            )
        sampled: list[int] = out[0, len(ids) :].tolist()
        return sampled

    def _scored(self, ids: list[int], params: Any) -> Any:
        assert params.flat_logprobs
        assert params.skip_reading_prefix_cache, "cached tokens have no log-probability"
        assert (params.prompt_logprobs, params.max_tokens, params.logprobs) == (0, 1, None)
        self.asked.append(ids)
        flat = SimpleNamespace(token_ids=ids[1:], logprobs=logprobs_of(self._model, ids))
        return SimpleNamespace(outputs=[SimpleNamespace(token_ids=[0])], prompt_logprobs=flat)


def logprobs_of(model: Any, ids: list[int], temperature: float = 1.0) -> list[float]:
    """Log-probabilities of every token except the first."""
    with torch.inference_mode():
        logits_TV = model(torch.tensor([ids])).logits[0, :-1]
        logprobs_TV = (logits_TV / temperature).log_softmax(-1)
    logprobs: list[float] = logprobs_TV[range(len(ids) - 1), ids[1:]].tolist()
    return logprobs


@pytest.fixture(scope="module")
def model(bundled_model_path: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(bundled_model_path).eval()


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, server: Any) -> None:
    for name in ("SAR_WEIGHT", "REWARD", "SYSTEM_PROMPT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("REWARD_URLS", server.url + "/get_reward")


def load() -> Any:
    """Source: OpenRLHF 0.11.2, openrlhf/trainer/ray/vllm_engine.py, _load_agent_executor."""
    spec = importlib.util.spec_from_file_location("agent_module", AGENT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.AgentExecutor()


def prompt_of(tokenizer: Any, question: str, system_prompt: str = DEFAULT_SYSTEM_PROMPT) -> str:
    return render_prompt(tokenizer, question, system_prompt)


def execute(
    engine: Engine,
    tokenizer: Any,
    prompt: str,
    label: str,
    *,
    max_length: int = CONTEXT_TOKENS,
    executor: Any = None,
    **params: Any,
) -> dict[str, Any]:
    engine.max_model_len = max_length
    running = (executor or load()).execute(
        prompt=prompt,
        label=label,
        sampling_params=SamplingParams(**params),
        max_length=max_length,
        hf_tokenizer=tokenizer,
        llm_engine=engine,
    )
    return asyncio.run(running)


def of_server(server: Any, tokenizer: Any, output: dict[str, Any]) -> dict[str, float]:
    """The server's own answer for the same rollout, sent by OpenRLHF's client."""
    query = tokenizer.decode(output["observation_tokens"], skip_special_tokens=False)
    body = {"query": [query], "prompts": [output["prompt"]], "labels": [output["label"]]}
    status, answer = server.request("/get_reward", body)
    assert status == 200, answer
    logs = {name: values[0] for name, values in answer["extra_logs"].items()}
    return {"reward": answer["rewards"][0], "scores": answer["scores"][0], **logs}


def label(answer: str, **fields: Any) -> str:
    return json.dumps({"answer": answer, **fields})


Case = tuple[str, str, dict[str, Any]]
"""The policy's responses to the first problem, their labels, and OpenRLHF's settings."""
FIRST: ArithmeticProblem = PROBLEMS[0]
ANSWER = str(FIRST.answer)
END = "<|im_end|>"
CASES: dict[str, Case] = {
    "right": (FIRST.concise + END, ANSWER, {}),
    "wrong": (FIRST.wrong_end + END, ANSWER, {"logprobs": 1}),
    "unrelated": (FIRST.unrelated + END, label(ANSWER, mode="train"), {}),
    "cut off": (FIRST.padded, ANSWER, {"max_tokens": 12}),
    "empty": ("", ANSWER, {}),
    "evaluated": (FIRST.concise + END, label(ANSWER, mode="eval"), {"temperature": 0.0}),
    "choice": (f"Answer: B{END}", label("B", grader="choice", choices=["1", "2"]), {}),
    "prompt cut": (FIRST.concise + END, ANSWER, {"max_length": 190, "max_tokens": 150}),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_rewards_are_the_servers(
    name: str, server: Any, model: Any, bundled_tokenizer: Any
) -> None:
    response, truth, settings = CASES[name]
    engine = Engine(model, bundled_tokenizer, bundled_tokenizer.encode(response))
    prompt = prompt_of(bundled_tokenizer, FIRST.question)
    output = execute(engine, bundled_tokenizer, prompt, truth, **settings)

    expected = of_server(server, bundled_tokenizer, output)
    logs = output["extra_logs"]
    assert output["reward"] == pytest.approx(expected["reward"], abs=1e-3)
    assert output["scores"] == expected["scores"]
    assert set(logs) == GRADING | OWN
    assert logs == pytest.approx({n: expected[n] for n in logs}, abs=1e-3, rel=1e-5)
    assert all(type(v) is float for v in (output["reward"], output["scores"], *logs.values()))
    assert output["truncated"] == (name in ("cut off", "empty"))
    assert (output["rollout_log_probs"] is not None) == (name == "wrong")
    # Only the pass after the empty-question prompt.
    assert len(engine.asked) == (0 if name == "empty" else 1)
    assert bool(logs["template_mismatch"]) == (name == "prompt cut")
    if name == "evaluated":
        assert output["reward"] == 1.0


def test_the_very_token_ids_are_scored(
    server: Any, bundled_tokenizer: Any, model: Any, bundled_model_path: Path
) -> None:
    """Sampled token ids, which re-tokenizing may not reproduce, against a float64 computation."""
    from transformers import AutoModelForCausalLM

    exact = AutoModelForCausalLM.from_pretrained(bundled_model_path, dtype=torch.float64).eval()
    frame = bundled_tokenizer.encode(prompt_of(bundled_tokenizer, ""))
    torch.manual_seed(0)
    num_other = 0
    for problem in PROBLEMS:
        engine = Engine(model, bundled_tokenizer, None)
        prompt = prompt_of(bundled_tokenizer, problem.question)
        output = execute(
            engine, bundled_tokenizer, prompt, str(problem.answer), temperature=1.7, max_tokens=40
        )
        ((start, end),) = output["action_ranges"]
        ids = output["observation_tokens"][start:end]
        mean_qa, mean_a = (
            sum(logprobs_of(exact, context + ids)[-len(ids) :]) / len(ids)
            for context in (output["observation_tokens"][:start], frame)
        )
        ppl_qa, ppl_a = (float(torch.tensor(-mean).exp()) for mean in (mean_qa, mean_a))
        sar = max(-1.0, 1 - ppl_qa / ppl_a)
        logs = output["extra_logs"]
        assert (logs["ppl_qa"], logs["ppl_a"]) == pytest.approx((ppl_qa, ppl_a), rel=1e-3)
        assert output["reward"] == pytest.approx(output["scores"] + 0.2 * sar, abs=1e-3)
        assert logs["response_tokens"] == len(ids)
        text = bundled_tokenizer.decode(ids, skip_special_tokens=False)
        num_other += bundled_tokenizer.encode(text) != ids
    assert num_other > 0


def drop_a_token(logprobs: list[dict[int, Any]]) -> list[dict[int, Any]]:
    return [{} if n == 3 else entry for n, entry in enumerate(logprobs)]


def make_one_infinite(logprobs: list[dict[int, Any]]) -> list[dict[int, Any]]:
    broken = {token: SimpleNamespace(logprob=-math.inf) for token in logprobs[3]}
    return [broken if n == 3 else entry for n, entry in enumerate(logprobs)]


@pytest.mark.parametrize(
    ("mode", "change"),
    [
        ("processed_logprobs", None),  # OpenRLHF's --algo.advantage.is_correction_level
        ("raw_logprobs", drop_a_token),
        ("raw_logprobs", make_one_infinite),
        ("raw_logprobs", lambda logprobs: logprobs[:-1]),
        ("raw_logprobs", lambda logprobs: None),
    ],
)
def test_without_the_models_own_logprobs_the_response_gets_a_pass(
    mode: str, change: Any, server: Any, model: Any, bundled_tokenizer: Any, monkeypatch: Any
) -> None:
    ids = bundled_tokenizer.encode(FIRST.wrong_end + END)
    engine = Engine(model, bundled_tokenizer, ids, mode)
    if change:
        intact = engine._logprobs_of_sampled
        monkeypatch.setattr(engine, "_logprobs_of_sampled", lambda *given: change(intact(*given)))
    prompt = prompt_of(bundled_tokenizer, FIRST.question)
    params: dict[str, Any] = {"temperature": 0.5, "logprobs": 1 if change is None else None}
    output = execute(engine, bundled_tokenizer, prompt, ANSWER, **params)
    logs, expected = output["extra_logs"], of_server(server, bundled_tokenizer, output)
    assert len(engine.asked) == 2
    assert logs["ppl_qa"] == pytest.approx(expected["ppl_qa"], rel=1e-3)
    # The test can tell the two distributions apart.
    cooled = logprobs_of(model, output["observation_tokens"], temperature=0.5)[-len(ids) :]
    assert abs(math.exp(-sum(cooled) / len(ids)) - logs["ppl_qa"]) > 0.01


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
def test_raw_logprobs_need_no_pass_at_any_temperature(
    temperature: float, server: Any, model: Any, bundled_tokenizer: Any
) -> None:
    engine = Engine(model, bundled_tokenizer, bundled_tokenizer.encode(FIRST.wrong_end + END))
    prompt = prompt_of(bundled_tokenizer, FIRST.question)
    output = execute(engine, bundled_tokenizer, prompt, ANSWER, temperature=temperature)
    expected = of_server(server, bundled_tokenizer, output)
    assert len(engine.asked) == 1
    assert output["extra_logs"]["ppl_qa"] == pytest.approx(expected["ppl_qa"], rel=1e-3)
    # The trainer did not ask for them, and corrects with them if it gets them.
    assert output["rollout_log_probs"] is None


def test_one_token_too_many_is_cut(model: Any, bundled_tokenizer: Any) -> None:
    """vLLM cannot score all of a rollout that fills its context."""
    prompt = prompt_of(bundled_tokenizer, FIRST.question)
    num_prompt = len(bundled_tokenizer.encode(prompt))
    response = bundled_tokenizer.encode(FIRST.padded)
    engine = Engine(model, bundled_tokenizer, response)
    output = execute(
        engine, bundled_tokenizer, prompt, ANSWER,
        max_length=num_prompt + len(response), max_tokens=len(response),
    )  # fmt: skip
    assert len(output["observation_tokens"]) == num_prompt + len(response)
    assert output["extra_logs"]["over_context"] == 1.0
    assert output["extra_logs"]["response_tokens"] == len(response)
    assert [ids[-len(response) + 1 :] for ids in engine.asked] == [response[:-1]]


def test_a_prompt_shorter_than_the_generated_from_gets_a_pass(
    model: Any, bundled_tokenizer: Any
) -> None:
    """Of a full context, the response is not cut below one half, so the prompt's start is."""
    prompt = prompt_of(bundled_tokenizer, FIRST.question * 3)
    prompt_ids, ids = bundled_tokenizer.encode(prompt), bundled_tokenizer.encode("Answer: 3")
    engine = Engine(model, bundled_tokenizer, ids)
    length = len(prompt_ids) + len(ids)
    output = execute(
        engine, bundled_tokenizer, prompt, ANSWER, max_length=length, max_tokens=len(ids)
    )
    assert output["extra_logs"]["over_context"] == 1.0
    assert engine.asked[0] == prompt_ids[1:] + ids
    assert len(engine.asked) == 2


def test_grading_with_a_server_of_another_tokenizer(
    model: Any, bundled_model_path: Path, tmp_path: Path
) -> None:
    """The server's model does not know the policy's end of turn."""
    from transformers import AutoTokenizer

    for path in bundled_model_path.iterdir():
        if path.suffix in (".json", ".jinja"):
            text = path.read_text().replace(END, "<end_of_turn>")
            (tmp_path / path.name).write_text(text)
    policy = AutoTokenizer.from_pretrained(tmp_path)
    assert policy.eos_token == "<end_of_turn>"
    ids = policy.encode("It is a cat<end_of_turn>")
    assert ids[-1] == policy.eos_token_id
    prompt = prompt_of(policy, FIRST.question)
    truth = label("It is a cat", grader="exact")
    output = execute(Engine(model, policy, ids), policy, prompt, truth)
    assert output["scores"] == 1.0
    assert output["extra_logs"]["response_tokens"] == len(ids)
    assert output["extra_logs"]["template_mismatch"] == 0.0


def test_settings(
    model: Any, bundled_tokenizer: Any, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    ids = bundled_tokenizer.encode(FIRST.concise + END)
    engine = Engine(model, bundled_tokenizer, ids)
    other = prompt_of(bundled_tokenizer, FIRST.question, "Be brief.")
    executor = load()
    for _ in range(2):
        output = execute(engine, bundled_tokenizer, other, ANSWER, executor=executor)
        assert output["extra_logs"]["template_mismatch"] == 1.0
    assert caplog.text.count("check SYSTEM_PROMPT") == 1

    monkeypatch.setenv("SYSTEM_PROMPT", "Be brief.")
    monkeypatch.setenv("SAR_WEIGHT", "0.5")
    output = execute(engine, bundled_tokenizer, other, ANSWER)
    assert output["extra_logs"]["template_mismatch"] == 0.0
    assert output["reward"] == pytest.approx(1 + 0.5 * output["extra_logs"]["sar"])
