"""Rewards of a live server on SmolLM2 equal the paper's formula, computed without our code."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from sar.prompts import DEFAULT_SYSTEM_PROMPT, empty_question_prompt
from sar.tokenization import RolloutTokenizer

QUESTION = "Nina has 12 pens and buys 3 packs of 5 pens. How many pens does she have now?"
LABEL = "27"
STEPS = "Nina buys 3 * 5 = 15 pens. She has 12 + 15 = 27 pens now."
END = "<|im_end|>"
# Name: the response and its correctness.
RESPONSES = {
    "honest": (f"{STEPS}\nThe answer is 27.{END}", 1),
    "wrong": (f"Nina has 12 + 3 = 15 pens now.\nThe answer is 15.{END}", 0),
    "cut off": ("Nina buys 3 * 5 = 15 pens. She has 12", 0),
    "long": (" ".join([STEPS] * 12) + f"\nThe answer is 27.{END}", 1),
    "empty": ("", 0),
    "end only": (END, 0),
    "one token": ("27", 1),
    "spaces": (" \n\n\t ", 0),
    "space first": (f"  27{END}", 1),
    "thinking": (f"<think>\n3 packs are 15. Is it 99?\n</think>\n\nThe answer is 27.{END}", 1),
    "thinking, unclosed": (f"<think>\n12 + 15 is 27, so the answer is 27.{END}", 0),
    "not ASCII": (f"妮娜買了 3 × 5 = 15 支筆，共 12 + 15 = 27 支 🖊️ – ça fait 27.{END}", 1),
    "emoji cut": ("Voilà: 27 🧮", 1),
    "marks in the text": (f"<|im_start|>user\nIs it 27?<|im_start|>\nThe answer is 27.{END}", 1),
    "text after the end": (f"The answer is 26.{END}\nThe answer is 27.<|endoftext|>", 0),
    "other marks": (f"<repo_name>x<file_sep>The answer is 27.{END}", 1),
}


@pytest.fixture(scope="module")
def answers(smollm2_server: Any, make_rollout: Any, ask: Any) -> dict[str, Any]:
    """All responses in one request: name -> rollout and answer."""
    rollouts = [
        make_rollout(QUESTION, response, LABEL, system=DEFAULT_SYSTEM_PROMPT)
        for response, _ in RESPONSES.values()
    ]
    answered = zip(rollouts, ask(smollm2_server, rollouts), strict=True)
    return dict(zip(RESPONSES, answered, strict=True))


@pytest.mark.parametrize("name", RESPONSES)
def test_rewards_equal_the_formula(
    answers: dict[str, Any], reference: Any, assert_agrees: Any, name: str
) -> None:
    rollout, got = answers[name]
    expected = reference.compute(rollout, system=DEFAULT_SYSTEM_PROMPT)
    assert_agrees(got, expected, RESPONSES[name][1])
    assert not got["over_context"]
    assert not got["template_mismatch"]
    if rollout.response_ids:
        assert 1 < got["ppl_qa"] != got["ppl_a"]


def test_explained_tokens_give_the_formulas_perplexities(
    answers: dict[str, Any], reference: Any, smollm2_server: Any
) -> None:
    names = [name for name, (rollout, _) in answers.items() if rollout.response_ids]
    rollouts = [answers[name][0] for name in names]
    body = {
        "query": [one.query for one in rollouts],
        "prompts": [one.prompt for one in rollouts],
        "labels": [one.label for one in rollouts],
    }
    status, answer = smollm2_server.request("/explain", body)
    assert status == 200
    for name, rollout, explained in zip(names, rollouts, answer["rollouts"], strict=True):
        expected = reference.compute(rollout, system=DEFAULT_SYSTEM_PROMPT)
        tokens = explained["tokens"]
        assert len(tokens) == len(rollout.response_ids), name
        for nll, perplexity in (("nll_qa", "ppl_qa"), ("nll_a", "ppl_a")):
            mean = math.fsum(token[nll] for token in tokens) / len(tokens)
            assert math.exp(mean) == pytest.approx(expected[perplexity], rel=1e-4), name
        assert explained["sar"] == pytest.approx(answers[name][1]["sar"], abs=1e-5), name


def test_the_responses_would_show_a_mistake(answers: dict[str, Any]) -> None:
    """Similar responses would not: SAR spreads, and the long response's tokens are many."""
    sars = {name: got["sar"] for name, (_, got) in answers.items()}
    assert max(sars.values()) - min(sars.values()) > 0.5, sars
    assert sars["honest"] > sars["spaces"]
    assert answers["long"][1]["response_tokens"] > 250


def test_a_batch_scores_as_single_requests_do(
    answers: dict[str, Any], smollm2_server: Any, ask: Any
) -> None:
    for name in ("honest", "not ASCII", "empty"):
        rollout, batched = answers[name]
        (alone,) = ask(smollm2_server, [rollout])
        assert alone["reward"] == pytest.approx(batched["reward"], abs=1e-5)


def test_a_prompt_of_another_template_is_marked(
    smollm2_server: Any, make_rollout: Any, ask: Any, reference: Any, assert_agrees: Any
) -> None:
    """SmolLM2's template inserts a system prompt of its own where the trainer gives none."""
    response, correctness = RESPONSES["honest"]
    systems = (None, "You are a pirate.", DEFAULT_SYSTEM_PROMPT)
    rollouts = [make_rollout(QUESTION, response, LABEL, system=system) for system in systems]
    assert "named SmolLM" in rollouts[0].prompt
    answers = ask(smollm2_server, rollouts)
    assert [got["template_mismatch"] for got in answers] == [1, 1, 0]
    # It is scored all the same, against the server's own empty-question prompt.
    expected = reference.compute(rollouts[0], system=DEFAULT_SYSTEM_PROMPT)
    assert_agrees(answers[0], expected, correctness)


def test_without_a_system_prompt_the_templates_own_is_the_frame(
    smollm2_tokenizer: Any, make_rollout: Any
) -> None:
    """The other direction; tests of the weights send rollouts to such a server."""
    encoder = RolloutTokenizer(smollm2_tokenizer, system_prompt="")
    without = make_rollout(QUESTION, "27", LABEL, system=None)
    given = make_rollout(QUESTION, "27", LABEL, system=DEFAULT_SYSTEM_PROMPT)
    assert not encoder.has_other_frame(without.prompt)
    assert encoder.has_other_frame(given.prompt)
    empty = smollm2_tokenizer.apply_chat_template(
        [{"role": "user", "content": ""}], tokenize=False, add_generation_prompt=True
    )
    assert empty_question_prompt(smollm2_tokenizer, "") == empty
    assert "named SmolLM" in empty


def test_rollouts_of_another_model(
    data_folder: Path,
    smollm2_server: Any,
    make_rollout: Any,
    ask: Any,
    reference: Any,
    assert_agrees: Any,
) -> None:
    """Samples of GPT-3, with the published verdicts: the first two right and two wrong ones."""
    lines = (data_folder / "gsm8k_rollouts.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    right = [row for row in rows if row["is_correct"]][:2]
    wrong = [row for row in rows if not row["is_correct"]][:2]
    rollouts = [
        make_rollout(
            row["question"],
            row["response_clean"] + END,
            row["answer"],
            system=DEFAULT_SYSTEM_PROMPT,
        )
        for row in right + wrong
    ]
    answers = ask(smollm2_server, rollouts)
    for rollout, got, row in zip(rollouts, answers, right + wrong, strict=True):
        expected = reference.compute(rollout, system=DEFAULT_SYSTEM_PROMPT)
        assert_agrees(got, expected, float(row["is_correct"]))
