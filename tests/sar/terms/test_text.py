"""The terms `copied` and `repetition` against formulas written here, and on real responses."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean, quantiles

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sar.grading.label import Label
from sar.grading.verdict import Reason, Verdict
from sar.prompts import DEFAULT_SYSTEM_PROMPT, INSTRUCTION
from sar.reward import Likelihood
from sar.terms.base import Sample
from sar.terms.text import Copied, Repetition

QUESTION = (
    "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May."
    " How many clips did Natalia sell altogether in April and May?"
)


def copied(prompt: str, response: str, n: int = 10) -> float:
    return Copied(n=n).score(make_sample(prompt, response))


def repetition(response: str, n: int = 40) -> float:
    return Repetition(n=n).score(make_sample("", response))


def make_sample(prompt: str, response: str) -> Sample:
    likelihood = Likelihood(0.5, 1.0, 7, False)
    return Sample(prompt, response, Label("5", "math"), Verdict(Reason.CORRECT), likelihood)


def render(question: str) -> str:
    return (
        f"<|im_start|>system\n{DEFAULT_SYSTEM_PROMPT}<|im_end|>\n<|im_start|>user\n{question} "
        f"{INSTRUCTION}<|im_end|>\n<|im_start|>assistant\n"
    )


words = st.lists(st.sampled_from("ab"), max_size=25)


@given(words, words, st.integers(1, 6))
def test_copied_is_the_share_in_spans_of_the_prompt(
    prompt: list[str], response: list[str], n: int
) -> None:
    spans = [prompt[i : i + n] for i in range(len(prompt) - n + 1)]
    covered = {
        position
        for start in range(len(response) - n + 1)
        if response[start : start + n] in spans
        for position in range(start, start + n)
    }
    expected = len(covered) / len(response) if response else 0.0
    assert copied(" ".join(prompt), " ".join(response), n) == pytest.approx(expected)


@given(st.text("ab", max_size=40), st.integers(1, 9))
def test_repetition_is_the_share_that_occurred_before(response: str, n: int) -> None:
    grams = [response[i : i + n] for i in range(len(response) - n + 1)]
    again = [gram in grams[:i] for i, gram in enumerate(grams)]
    assert repetition(response, n) == pytest.approx(fmean(again) if again else 0.0)


@pytest.mark.parametrize(
    ("response", "low", "high"),
    [
        (QUESTION, 1.0, 1.0),
        (QUESTION.upper().replace(" ", "\n\n"), 1.0, 1.0),
        (f"**{QUESTION}**", 1.0, 1.0),
        (f"{QUESTION} {QUESTION}", 1.0, 1.0),
        (DEFAULT_SYSTEM_PROMPT, 1.0, 1.0),
        (f"{QUESTION}\n48 / 2 = 24 and 48 + 24 = 72. The answer is 72.", 0.6, 0.8),
        ("In May Natalia sold 48 / 2 = 24 clips. In April and May she sold 72.", 0.0, 0.0),
        ("Natalia sold clips to 48 of her friends.", 0.0, 0.0),
        ("72", 0.0, 0.0),
        ("", 0.0, 0.0),
    ],
)
def test_a_restated_question_is_copied_and_an_answer_is_not(
    response: str, low: float, high: float
) -> None:
    assert low <= copied(render(QUESTION), response) <= high


def test_a_letter_is_a_unit_in_scripts_without_spaces() -> None:
    chinese = "小明有五个苹果，妈妈又给他买了三个苹果，他一共有几个？"
    assert copied(render(chinese), chinese) == 1.0
    assert copied(render(chinese), "五加三等于八，所以他一共有八个苹果。") == 0.0
    assert copied("สวัสดีครับ", "ครับ", n=4) == 1.0
    assert copied("나는 사과를 다섯 개 먹었다", "사과를 다섯", n=2) == 1.0
    assert copied("나는 사과를 다섯 개 먹었다", "사과 다섯", n=1) == 0.5


def test_a_word_keeps_its_combining_marks() -> None:
    assert copied("हिन्दी", "ह न द", n=1) == 0.0
    assert copied("cafe\u0301 noir", "CAFE\u0301", n=1) == 1.0


def test_loops_of_any_kind_are_repetition() -> None:
    for loop in ("The answer is 5. ", "!", "a", "\n", "🙂", "小"):
        assert repetition(loop * 400) > 0.9
    assert repetition(QUESTION) == 0.0
    assert repetition("x" * 40) == 0.0
    assert repetition("x" * 41) == 0.5


def test_honest_responses_are_neither_copied_nor_repetition(data_folder: Path) -> None:
    """`pytest -s` shows the distributions behind the default n."""
    lines = (data_folder / "gsm8k_rollouts.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    for n in (5, 8, 10, 12):
        values = [copied(render(row["question"]), row["response_clean"], n) for row in rows]
        show(f"copied      n = {n:2d}", values)
        if n == 10:
            assert values.count(0.0) == 349
            assert fmean(values) == pytest.approx(0.033, abs=0.001)
        again = [copied(render(row["question"]), row["question"], n) for row in rows]
        assert min(again) == 1.0
    for n in (20, 30, 40, 60):
        values = [repetition(row["response_clean"], n) for row in rows]
        show(f"repetition  n = {n:2d}", values)
        if n == 40:
            assert values.count(0.0) == 371
            assert fmean(values) == pytest.approx(0.004, abs=0.001)


def show(name: str, values: list[float]) -> None:
    percentiles = quantiles(values, n=100)
    print(
        f"{name}  zero {values.count(0.0)} of {len(values)}, mean {fmean(values):.3f}, "
        f"p90 {percentiles[89]:.3f}, p99 {percentiles[98]:.3f}, most {max(values):.3f}"
    )
