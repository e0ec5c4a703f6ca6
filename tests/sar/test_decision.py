"""Decisions and their JSON lines."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sar.decision import Decision, GroupPlace
from sar.grading.label import GraderName, Label, parse_label
from sar.grading.verdict import Reason, Verdict
from sar.reward import Likelihood, Reward, combine
from sar.terms.base import Sample

ROOT = Path(__file__).parents[2]


def decision(
    response: str = "The answer is 5.",
    *,
    prompt: str = "What is 2 + 3?",
    special_tokens: Sequence[str] = (),
    end_tokens: Sequence[str] = (),
    nll_qa: float = 0.25,
    nll_a: float = 0.75,
) -> Decision:
    likelihood = Likelihood(nll_qa, nll_a, num_response_tokens=9, over_context=False)
    return Decision.from_reward(
        combine(Verdict(Reason.CORRECT, "5"), likelihood, sar_weight=0.2, mode="train"),
        request_id="r1",
        prompt=prompt,
        response=response,
        special_tokens=special_tokens,
        label_as_sent="5",
        label=parse_label("5"),
        sar_weight=0.2,
        template_mismatch=False,
        model="demo",
        server_version="0.1.0",
        end_tokens=end_tokens,
    )


TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
LABELS = TEXTS | st.dictionaries(TEXTS, TEXTS | st.lists(TEXTS))
VALUES = {
    "str": TEXTS,
    "str | None": st.none() | TEXTS,
    "float | None": st.none() | NUMBERS,
    "str | int | None": st.none() | TEXTS | st.integers(),
    "str | dict[str, Any]": LABELS,
    "Annotated[tuple[str, ...], _CONVERTED]": st.lists(TEXTS).map(tuple),
    "int": st.integers(),
    "Annotated[int, Field(ge=0)] | None": st.none() | st.integers(0),
    "Annotated[int, Field(ge=1)] | None": st.none() | st.integers(1),
    "float": NUMBERS,
    "dict[str, float]": st.dictionaries(TEXTS, NUMBERS),
    "bool": st.booleans(),
    "Annotated[bool, _RENAMED]": st.booleans(),
    "Annotated[Reason, _CONVERTED]": st.sampled_from(Reason),
    "GraderName": st.sampled_from(get_args(GraderName)),
    "Mode": st.sampled_from(["train", "eval"]),
}
DECISIONS = st.builds(
    Decision, **{f.name: VALUES[str(f.type)] for f in fields(Decision) if f.name != "schema"}
)


@given(DECISIONS)
def test_a_decision_survives_its_line(one: Decision) -> None:
    line = one.to_json()
    assert not set(line) & set("\n\r\0")
    assert Decision.from_json(line) == one


def test_an_improbable_response_is_logged_with_finite_numbers() -> None:
    """Perplexities are capped where they are computed, so no number here is infinite."""
    one = decision(nll_qa=5000.0, nll_a=1e300)
    assert one.ppl_qa == one.ppl_a == pytest.approx(1e30)
    assert Decision.from_json(one.to_json()) == one


def test_what_no_term_needed_is_not_logged_and_what_one_needed_is_read_again() -> None:
    one = decision()
    assert not {"self_certainty", "reference_gain"} & set(json.loads(one.to_json()))
    needed = replace(one, self_certainty=0.0, reference_gain=-0.5)
    record = json.loads(needed.to_json())
    assert (record["self_certainty"], record["reference_gain"]) == (0.0, -0.5)
    likelihood = Decision.from_json(needed.to_json()).likelihood
    assert (likelihood.self_certainty, likelihood.reference_gain) == (0.0, -0.5)
    again = needed.decide_again(Verdict(Reason.WRONG), "math", "train", 0.2)
    assert again.likelihood == likelihood


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_neither_written_nor_read(value: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        replace(decision(), nll_qa=value).to_json()
    line = json.dumps({**json.loads(decision().to_json()), "nll_qa": value})
    with pytest.raises(ValueError, match=r"nll_qa is .*should be a finite number"):
        Decision.from_json(line)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"schema": 2}, "schema 2; this version reads 1"),
        ({"schema": None}, "schema None"),
        ({"prompt": 5}, "prompt is 5: Input should be a valid string"),
        ({"nll_a": "0.5"}, "nll_a is '0.5': Input should be a valid number"),
        ({"nll_a": True}, "nll_a is True: Input should be a valid number"),
        ({"nll_a": 10**400}, "nll_a is"),
        ({"over_context": 1}, "over_context is 1"),
        ({"num_response_tokens": 1.5}, "num_response_tokens is 1.5"),
        ({"reason": "right"}, "reason is 'right'"),
        ({"mode": "test"}, "mode is 'test': Input should be 'train' or 'eval'"),
        ({"grader": ["math"]}, "grader is"),
        ({"label": None}, "label is None"),
        ({"special_tokens": [1]}, "special_tokens is"),
        ({"terms": [0.5]}, "terms is [0.5]: Input should be an object"),
        ({"terms": {"copied": "much"}}, "terms is 'much'"),
        ({"group": 5}, "group is 5: Input should be a valid string"),
        ({"seat": -1}, "seat is -1: Input should be greater than or equal to 0"),
        ({"num_members": 0}, "num_members is 0: Input should be greater than or equal to 1"),
    ],
)
def test_an_error_names_the_wrong_field(change: dict[str, Any], complaint: str) -> None:
    line = json.dumps({**json.loads(decision().to_json()), **change})
    with pytest.raises(ValueError, match=re.escape(complaint)):
        Decision.from_json(line)


def test_an_error_names_a_missing_field_and_an_unknown_field_is_ignored() -> None:
    record = json.loads(decision().to_json())
    assert Decision.from_json(json.dumps({**record, "later": [1]})).to_json() == json.dumps(record)
    del record["nll_qa"]
    with pytest.raises(ValueError, match="nll_qa is missing"):
        Decision.from_json(json.dumps(record))


@pytest.mark.parametrize("over_context", [False, True])
def test_a_log_from_before_over_context_was_renamed(over_context: bool) -> None:
    one = replace(decision(), over_context=over_context)
    record = json.loads(one.to_json())
    record["truncated"] = record.pop("over_context")
    assert Decision.from_json(json.dumps(record)) == one
    del record["truncated"]
    with pytest.raises(ValueError, match="over_context is missing"):
        Decision.from_json(json.dumps(record))


@pytest.mark.parametrize("line", ["", "5", "[]", "{", "[" * 100_000, "null", '{"schema": 1}'])
def test_other_lines_are_no_decisions(line: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  each says something else
        Decision.from_json(line)


def test_the_graded_text_is_the_servers(bundled_tokenizer: Any) -> None:
    from sar.tokenization import RolloutTokenizer

    tokenizer = RolloutTokenizer(bundled_tokenizer, system_prompt="")
    prompt = "Q?\n<think>\n"
    for special in bundled_tokenizer.all_special_tokens:
        response = f"a{special}b <think>c</think> so 5.{special}{special}"
        assert tokenizer.find_special_tokens(response) == (special,)
        logged = decision(
            response,
            special_tokens=tokenizer.find_special_tokens(response),
            end_tokens=tokenizer.end_tokens,
            prompt=prompt,
        )
        again = Decision.from_json(logged.to_json())
        assert again.graded_text == tokenizer.make_graded_text(prompt, response)
    assert tokenizer.find_special_tokens("nothing") == ()


def test_a_log_older_than_end_tokens_is_cut_at_the_common_ones() -> None:
    record = json.loads(
        decision(
            "5<|im_start|>6<|im_end|>7", special_tokens=("<|im_start|>", "<|im_end|>")
        ).to_json()
    )
    del record["end_tokens"]
    assert Decision.from_json(json.dumps(record)).graded_text == "5\n6"


def test_without_a_reward_file_a_line_is_as_it_was_before_there_were_any() -> None:
    one = decision()
    assert not {"terms", "group", "seat", "num_members"} & set(json.loads(one.to_json()))
    again = Decision.from_json(one.to_json())
    assert (again.terms, again.group, again.seat, again.num_members) == ({}, "", None, None)


def test_a_reward_files_terms_and_group_are_logged() -> None:
    likelihood = Likelihood(0.25, 0.75, num_response_tokens=9, over_context=False)
    terms = {"copied": 0.25, "o1_pruner": -1.0}
    one = Decision.from_reward(
        Reward(0.5, Verdict(Reason.WRONG, "6"), likelihood, terms),
        request_id="r1",
        prompt="<think>",
        response="So 6.</s>",
        special_tokens=["</s>"],
        label_as_sent={"answer": "A", "choices": ["5", "6"]},
        label=parse_label({"answer": "A", "choices": ["5", "6"]}),
        sar_weight=0.2,
        template_mismatch=False,
        model="demo",
        server_version="0.1.0",
        place=GroupPlace("g1", 0, 3),
    )
    record = json.loads(one.to_json())
    assert (record["terms"], record["group"], record["reward"]) == (terms, "g1", 0.5)
    assert (record["seat"], record["num_members"]) == (0, 3)
    again = Decision.from_json(one.to_json())
    assert again == one
    reward = Reward(0.1, one.verdict, one.likelihood, {})
    assert one.with_reward(reward, "math", "train").seat == 0
    moved = one.with_reward(reward, "math", "train", place=GroupPlace("g2", 1, 2))
    assert (moved.group, moved.seat, moved.num_members) == ("g2", 1, 2)
    label = Label("A", "choice", "train", ("5", "6"))
    assert again.sample == Sample(
        "<think>", "<think>So 6.", label, Verdict(Reason.WRONG, "6"), likelihood
    )


def test_the_documentation_names_every_field() -> None:
    page = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
    table = page.partition("## The reward log")[2].partition("###")[0]
    names = {
        name
        for row in re.findall(r"^\| (`.*?) \|", table, flags=re.M)
        for name in re.findall(r"`(\w+)`", row)
    }
    assert names == {field.name for field in fields(Decision)}


def test_special_tokens_that_start_alike_are_removed_longest_first() -> None:
    one = decision("x<a><a>b<a>", special_tokens=("<a>", "<a>b"))
    assert one.graded_text == "x"
