"""The term `format`: a pattern of the user's own, or thinking and then an answer."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from sar.grading.graded_text import make_graded_text
from sar.grading.label import Label
from sar.grading.verdict import Reason, Verdict
from sar.reward import Likelihood
from sar.terms.base import Sample, TermError
from sar.terms.composition import Composition, WeightedTerm
from sar.terms.verdict import Format


def make_sample(response: str) -> Sample:
    likelihood = Likelihood(0.5, 1.0, 7, False)
    return Sample("2+3?", response, Label("5", "math"), Verdict(Reason.CORRECT), likelihood)


@pytest.mark.parametrize(
    ("response", "value"),
    [
        ("<think>2 and 3</think>5", 1.0),
        ("\n <think>\n2 and 3\n</think>\n\n5\n", 1.0),
        ("", 0.0),
        ("5", 0.0),
        ("<think>2 and 3", 0.0),
        ("2 and 3</think>5", 0.0),
        ("<think>2 and 3</think>", 0.0),
        ("<think>2 and 3</think> \n", 0.0),
        ("<think> \n</think>5", 0.0),
        ("Well. <think>2 and 3</think>5", 0.0),
        ("<think>2</think><think>3</think>5", 0.0),
        ("<think>2<think>3</think>5", 0.0),
        ("<think>2</think>3</think>5", 0.0),
        ("</think>2<think>5", 0.0),
    ],
)
def test_thinking_and_then_an_answer(response: str, value: float) -> None:
    assert Format(style="think").score(make_sample(response)) == value


pieces = st.lists(st.sampled_from(["<think>", "</think>", "a", " ", "\n", "<", "\ud800"]))


@given(pieces)
def test_the_style_is_five_parts(parts: list[str]) -> None:
    response = "".join(parts)
    match re.split("(</?think>)", response):
        case [before, "<think>", thinking, "</think>", answer]:
            expected = before.strip() == "" != thinking.strip() and answer.strip() != ""
        case _:
            expected = False
    assert Format(style="think").score(make_sample(response)) == float(expected)


def test_a_tag_that_the_prompt_opened_counts() -> None:
    text = make_graded_text("2 and 3</think>5", prompt="2+3?\nAssistant: <think>\n")
    assert Format(style="think").score(make_sample(text)) == 1.0


@pytest.mark.parametrize(
    ("pattern", "response", "value"),
    [
        (r"\\boxed\{", r"It is \boxed{5}.", 1.0),
        (r"\\boxed\{", "It is 5.", 0.0),
        (r"\AStep 1:.*\d\Z", "Step 1: 2\nStep 2: 5", 1.0),
        (r"\AStep 1:.*\d\Z", "First.\nStep 1: 2\nStep 2: 5", 0.0),
        (r"\d", "", 0.0),
    ],
)
def test_a_response_must_contain_the_pattern(pattern: str, response: str, value: float) -> None:
    assert Format(pattern=pattern).score(make_sample(response)) == value


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "'think', or set `pattern`"),
        ({"pattern": "a", "style": "think"}, "left out, as `pattern` is set"),
        ({"pattern": "(a"}, "a regular expression: missing"),
        ({"pattern": "a{99999999999999999999}"}, "a regular expression: "),
        ({"pattern": ""}, "at least 1 character"),
        ({"pattern": 3}, "valid string"),
        ({"style": "thinking"}, "'think'"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(message)):
        Format(**options)  # type: ignore[arg-type]


def test_a_pattern_without_end_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sar.terms.verdict._MAX_PATTERN_S", 0.2)
    term = WeightedTerm("boxed", Format(pattern=r"(a|aa)+\1b|(a*)*c\2d"))
    start = time.monotonic()
    with pytest.raises(TermError, match=r"'boxed' failed: .*pattern took 0.2 s .* 200 "):
        Composition((term,)).score(make_sample("a" * 200))
    assert time.monotonic() - start < 60
