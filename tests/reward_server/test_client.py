"""OpenRLHF's unmodified client against a live server. Rewards are checked by computing them again.

Only the rollout engine is replaced, because vLLM needs a GPU. The replacement generates with the
bundled model in transformers, or plays back given token ids.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import Iterator
from itertools import islice
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from openrlhf.utils import agent

from sar.models import BUNDLED_MODEL
from sar.models.problems import ArithmeticProblem, generate
from sar.prompts import DEFAULT_SYSTEM_PROMPT

CONTEXT_TOKENS = 1024  # of the bundled model
SAR_WEIGHT = 0.2
PROBLEMS = list(islice(generate(seed=20260901, held_out=True), 256))
EXTRA_LOGS = {
    "correctness", "sar", "ppl_qa", "ppl_a", "response_tokens", "over_context", "no_answer",
    "grader_timeout", "grader_crashed", "label_unreadable", "template_mismatch", "policy_version",
    "policy_age_s",
}  # fmt: skip


class GeneratingEngine:
    """Has vLLM's `generate`; generates with the bundled model, one prompt at a time."""

    def __init__(self, model: Any, tokenizer: Any, temperature: float) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._temperature = temperature
        self.generated: list[tuple[list[int], list[int]]] = []

    async def generate(
        self, token_ids: list[int], sampling_params: Any, multi_modal_data: Any = None
    ) -> Any:
        sampling = (
            {"do_sample": True, "temperature": self._temperature, "top_k": 0}
            if self._temperature
            else {"do_sample": False}
        )
        with torch.inference_mode():
            out = self._model.generate(
                torch.tensor([token_ids]),
                attention_mask=torch.ones(1, len(token_ids), dtype=torch.long),
                max_new_tokens=sampling_params.max_tokens,
                output_logits=True,
                return_dict_in_generate=True,
                **sampling,
            )
        ids = out.sequences[0, len(token_ids) :].tolist()
        self.generated.append((token_ids, ids))
        logprobs = [
            {token: SimpleNamespace(logprob=logits.log_softmax(-1)[0, token].item())}
            for token, logits in zip(ids, out.logits, strict=True)
        ]
        return _engine_output(self._tokenizer, ids, logprobs)


class PlaybackEngine:
    """Has vLLM's `generate`; answers each prompt with the given token ids."""

    def __init__(self, tokenizer: Any, response_ids: list[int]) -> None:
        self._tokenizer = tokenizer
        self._response_ids = response_ids
        self.generated: list[tuple[list[int], list[int]]] = []

    async def generate(
        self, token_ids: list[int], sampling_params: Any, multi_modal_data: Any = None
    ) -> Any:
        self.generated.append((token_ids, self._response_ids))
        return _engine_output(self._tokenizer, list(self._response_ids), None)


def _engine_output(tokenizer: Any, ids: list[int], logprobs: Any) -> Any:
    finished = bool(ids) and ids[-1] == tokenizer.eos_token_id
    return SimpleNamespace(
        outputs=[
            SimpleNamespace(
                token_ids=ids,
                text=tokenizer.decode(ids, skip_special_tokens=False),
                finish_reason="stop" if finished else "length",
                logprobs=logprobs,
            )
        ]
    )


class Reference:
    """Computes rewards by their definition, in float64, with one forward pass per perplexity."""

    def __init__(self, tokenizer: Any) -> None:
        from transformers import AutoModelForCausalLM

        self._model = AutoModelForCausalLM.from_pretrained(BUNDLED_MODEL, dtype=torch.float64)
        self._standalone_ids = tokenizer.encode(_prompt(tokenizer, ""), add_special_tokens=False)

    def expected(
        self, prompt_ids: list[int], response_ids: list[int], *, correct: bool
    ) -> dict[str, float]:
        room = CONTEXT_TOKENS - max(len(prompt_ids), len(self._standalone_ids))
        kept_ids = response_ids[:room]
        ppl_qa = self._perplexity(prompt_ids, kept_ids)
        ppl_a = self._perplexity(self._standalone_ids, kept_ids)
        sar = min(1.0, max(-1.0, (ppl_a - ppl_qa) / ppl_a))
        return {
            "reward": correct + SAR_WEIGHT * sar,
            "scores": float(correct),
            "correctness": float(correct),
            "sar": sar,
            "ppl_qa": ppl_qa,
            "ppl_a": ppl_a,
            "response_tokens": len(response_ids),
            "over_context": int(len(kept_ids) < len(response_ids)),
        }

    def _perplexity(self, context_ids: list[int], response_ids: list[int]) -> float:
        if not response_ids:
            return 1.0
        with torch.inference_mode():
            logits_TV = self._model(torch.tensor([context_ids + response_ids])).logits[0]
        logprobs_TV = logits_TV.double().log_softmax(-1)
        logprobs = [
            logprobs_TV[len(context_ids) + t - 1, token].item()
            for t, token in enumerate(response_ids)
        ]
        return math.exp(-math.fsum(logprobs) / len(logprobs))


def _prompt(tokenizer: Any, question: str) -> str:
    turns = [
        {"role": "system", "content": DEFAULT_SYSTEM_PROMPT},
        {"role": "user", "content": question},
    ]
    text: str = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    return text


def _execute(
    url: str,
    tokenizer: Any,
    engine: Any,
    *,
    question: str,
    label: str,
    max_tokens: int | None = None,
    max_length: int = CONTEXT_TOKENS,
) -> Any:
    """The coroutine that a trainer's worker awaits for one rollout."""
    return agent.SingleTurnAgentExecutor(f"{url}/get_reward").execute(
        _prompt(tokenizer, question),
        label,
        SimpleNamespace(max_tokens=max_tokens, logprobs=1),
        max_length,
        tokenizer,
        engine,
    )


def _play_back(
    server: Any, tokenizer: Any, response_ids: list[int], **rollout: Any
) -> tuple[dict[str, Any], list[int]]:
    """Sends a response of these ids. Returns the output, and the prompt's ids for the policy."""
    engine = PlaybackEngine(tokenizer, response_ids)
    output = asyncio.run(_execute(server.url, tokenizer, engine, **rollout))
    ((prompt_ids, _),) = engine.generated
    return output, prompt_ids


def _assert_agrees(output: dict[str, Any], expected: dict[str, float]) -> None:
    logs = {name: values[0] for name, values in output["extra_logs"].items()}
    assert set(logs) == EXTRA_LOGS
    got = {"reward": output["reward"][0], "scores": output["scores"][0], **logs}
    assert {name: got[name] for name in expected} == pytest.approx(expected, rel=1e-3, abs=1e-3)
    assert all(math.isfinite(value) for value in got.values())
    assert not logs["grader_timeout"]
    assert not logs["grader_crashed"]
    assert not logs["label_unreadable"]


def _is_correct(tokenizer: Any, response_ids: list[int], problem: ArithmeticProblem) -> bool:
    """Compares the last `Answer:`, or the last number of a response that was cut off before it."""
    text = tokenizer.decode(response_ids, skip_special_tokens=True)
    found = re.findall(r"Answer: (\d+)", text) or re.findall(r"\d+", text)
    return bool(found) and int(found[-1]) == problem.answer


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Two processes that each use all cores block each other, and take ten times as long."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


@pytest.fixture(scope="module")
def model() -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(BUNDLED_MODEL, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def reference(bundled_tokenizer: Any) -> Reference:
    return Reference(bundled_tokenizer)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("max_tokens", [None, 12])
def test_generated_rollouts_get_the_defined_reward(
    server: Any,
    bundled_tokenizer: Any,
    model: Any,
    reference: Reference,
    temperature: float,
    max_tokens: int | None,
) -> None:
    torch.manual_seed(0)
    engine = GeneratingEngine(model, bundled_tokenizer, temperature)
    finished, correct = [], []
    for problem in PROBLEMS[:6]:
        rollout = _execute(
            server.url,
            bundled_tokenizer,
            engine,
            question=problem.question,
            label=str(problem.answer),
            max_tokens=max_tokens,
        )
        output = asyncio.run(rollout)
        prompt_ids, response_ids = engine.generated[-1]
        finished.append(not output["truncated"])
        correct.append(_is_correct(bundled_tokenizer, response_ids, problem))
        _assert_agrees(output, reference.expected(prompt_ids, response_ids, correct=correct[-1]))
        assert output["extra_logs"]["no_answer"] == [0] or max_tokens
        assert output["extra_logs"]["template_mismatch"] == [0]
        # ppl_qa is what the engine itself saw while it generated.
        rollout_logprobs = output["rollout_log_probs"][len(prompt_ids) :]
        assert math.exp(-sum(rollout_logprobs) / len(response_ids)) == pytest.approx(
            output["extra_logs"]["ppl_qa"][0], rel=1e-3
        )
    # Make sure that the cases in this test's name occurred.
    assert all(finished) if max_tokens is None else not any(finished)
    assert any(correct) or max_tokens


def test_a_prompt_cut_on_the_left_is_scored_as_the_policy_saw_it(
    server: Any, bundled_tokenizer: Any, reference: Reference
) -> None:
    for problem in PROBLEMS[:8]:
        response_ids = bundled_tokenizer.encode(problem.concise + "<|im_end|>")
        for kept_tokens in (7, 20, 41):
            output, prompt_ids = _play_back(
                server,
                bundled_tokenizer,
                response_ids,
                question=problem.question,
                label=str(problem.answer),
                max_tokens=200,
                max_length=200 + kept_tokens,
            )
            assert len(prompt_ids) == kept_tokens
            _assert_agrees(output, reference.expected(prompt_ids, response_ids, correct=True))


@pytest.mark.parametrize("finish", ["nothing", "eos"])
def test_an_empty_response_earns_nothing(
    server: Any, bundled_tokenizer: Any, reference: Reference, finish: str
) -> None:
    response_ids = [bundled_tokenizer.eos_token_id] if finish == "eos" else []
    output, prompt_ids = _play_back(
        server, bundled_tokenizer, response_ids, question=PROBLEMS[0].question, label="5"
    )
    _assert_agrees(output, reference.expected(prompt_ids, response_ids, correct=False))
    assert output["extra_logs"]["no_answer"] == [1]
    if finish == "nothing":
        assert output["reward"] == [0.0]
        assert output["extra_logs"]["sar"] == [0.0]


@pytest.mark.parametrize(
    ("text", "correct"),
    [
        ("Answer: {answer}", True),
        (" Answer: {answer}<|im_end|>", True),
        ("\nAnswer: {answer}\n<|im_end|>", True),
        ("<|im_start|>Answer: {answer}<|im_end|>", True),
        # What follows the end-of-sequence token is not graded.
        ("Answer: {wrong}<|im_end|>\n<|im_start|>assistant\nAnswer: {answer}<|im_end|>", False),
        ("Answer: {answer}<|im_end|>\n<|im_start|>assistant\nAnswer: {wrong}<|im_end|>", True),
        ("Answer: {answer}<|im_end|><|im_end|>", True),
        ("<|endoftext|>Answer: {answer}<|endoftext|><|im_end|>", True),
        ("The answer is \\boxed<|im_start|>{{{answer}}}<|im_end|>", True),
        ("Größe 7 → π ≈ 22/7, 答案 🙂.\nAnswer: {answer}<|im_end|>", True),
    ],
)
def test_special_tokens_are_scored_and_not_graded(
    server: Any, bundled_tokenizer: Any, reference: Reference, text: str, correct: bool
) -> None:
    problem = PROBLEMS[1]
    filled = text.format(answer=problem.answer, wrong=problem.answer + 1)
    response_ids = bundled_tokenizer.encode(filled, add_special_tokens=False)
    output, prompt_ids = _play_back(
        server,
        bundled_tokenizer,
        response_ids,
        question=problem.question,
        label=str(problem.answer),
    )
    _assert_agrees(output, reference.expected(prompt_ids, response_ids, correct=correct))


@pytest.mark.parametrize("ends_right", [True, False])
def test_a_response_beyond_the_context_is_cut_for_sar_and_graded_whole(
    server: Any, bundled_tokenizer: Any, reference: Reference, ends_right: bool
) -> None:
    problem = PROBLEMS[2]
    filler = " ".join(p.padded for p in PROBLEMS if p.answer != problem.answer)
    last = problem.answer if ends_right else problem.answer + 1
    response_ids = bundled_tokenizer.encode(f"{filler}\nAnswer: {last}<|im_end|>")
    assert len(response_ids) > 2 * CONTEXT_TOKENS
    output, prompt_ids = _play_back(
        server,
        bundled_tokenizer,
        response_ids,
        question=problem.question,
        label=str(problem.answer),
    )
    expected = reference.expected(prompt_ids, response_ids, correct=ends_right)
    assert expected["over_context"] == 1
    _assert_agrees(output, expected)


@pytest.mark.parametrize(
    ("label", "right", "wrong"),
    [
        ({"answer": "B", "grader": "choice"}, "The answer is (B).", "The answer is (C)."),
        (
            {"answer": "the blue one", "choices": ["the red one", "the blue one"]},
            "Answer: B",
            "Answer: A",
        ),
        ({"answer": "False", "grader": "boolean"}, "So it is false.", "So it is true."),
        ({"answer": "Lisbon", "grader": "exact"}, "Answer: lisbon", "Answer: Porto"),
        ({"answer": "1/2", "grader": "math"}, "Answer: 0.5", "Answer: 0.6"),
    ],
)
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_json_labels_choose_grader_and_mode(
    server: Any,
    bundled_tokenizer: Any,
    reference: Reference,
    label: dict[str, Any],
    right: str,
    wrong: str,
    mode: str,
) -> None:
    for text, correct in ((right, True), (wrong, False)):
        response_ids = bundled_tokenizer.encode(text + "<|im_end|>", add_special_tokens=False)
        output, prompt_ids = _play_back(
            server,
            bundled_tokenizer,
            response_ids,
            question=PROBLEMS[3].question,
            label=json.dumps({**label, "mode": mode}),
        )
        expected = reference.expected(prompt_ids, response_ids, correct=correct)
        assert expected["sar"] != pytest.approx(0.0, abs=0.01)
        if mode == "eval":
            expected["reward"] = float(correct)
        _assert_agrees(output, expected)
