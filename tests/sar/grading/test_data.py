"""The graders on real data: model responses with known verdicts, solutions, and real options.

The tests use the grader pool, as the server does. They need the samples in shared/data.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from sar.grading.label import parse_label
from sar.grading.processes.pool import GraderPool
from sar.grading.verdict import Reason, Verdict


@pytest.fixture(scope="module")
def graders() -> Iterator[GraderPool]:
    pool = GraderPool(2, 10.0)
    yield pool
    pool.close()


def _rows(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def _verdicts(graders: GraderPool, pairs: Sequence[tuple[str, Any]]) -> list[Verdict]:
    pending = [graders.submit(response, parse_label(label)) for response, label in pairs]
    verdicts = [p.result() for p in pending]
    assert not [v for v in verdicts if v.reason in (Reason.TIMEOUT, Reason.CRASHED)]
    return verdicts


def _disagreements(
    graders: GraderPool, cases: Sequence[tuple[str, Any, bool]]
) -> list[tuple[str, Any, bool, str | None]]:
    """Returns (end of response, label, expected, extracted answer) of each unexpected verdict."""
    verdicts = _verdicts(graders, [(response, label) for response, label, _ in cases])
    return [
        (response[-80:], label, wanted, verdict.answer)
        for (response, label, wanted), verdict in zip(cases, verdicts, strict=True)
        if (verdict.reason is Reason.CORRECT) != wanted
    ]


@pytest.mark.parametrize("column", ["response", "response_clean"])
def test_all_rollouts_of_known_verdict_agree(
    graders: GraderPool, data_folder: Path, column: str
) -> None:
    rows = _rows(data_folder, "gsm8k_rollouts.jsonl")
    assert len(rows) == 400
    assert sum(row["is_correct"] for row in rows) == 200
    cases = [(row[column], row["answer"], row["is_correct"]) for row in rows]
    assert _disagreements(graders, cases) == []


def test_gsm8k_solutions_are_right_for_their_question_only(
    graders: GraderPool, data_folder: Path
) -> None:
    rows = _rows(data_folder, "gsm8k.jsonl")
    assert len(rows) == 1319
    answers = [row["answer"].rpartition("#### ")[2] for row in rows]
    cases: list[tuple[str, Any, bool]] = []
    for index, answer in enumerate(answers):
        following = answers[(index + 1) % len(answers)]
        last_line = f"#### {answer}"
        cases.append((last_line, answer, True))
        cases.append((rows[index]["answer"], answer, True))
        if float(answer.replace(",", "")) != float(following.replace(",", "")):
            cases.append((last_line, following, False))
    assert len(cases) > 3 * 1319 * 0.97
    assert _disagreements(graders, cases) == []


def test_gsm8k_solutions_without_their_marker_are_still_read(
    graders: GraderPool, data_folder: Path, record_property: Any
) -> None:
    """Most solutions end with their result, like a policy that knows no answer format."""
    rows = _rows(data_folder, "gsm8k.jsonl")
    cases = []
    for row in rows:
        reasoning, _, answer = row["answer"].partition("\n#### ")
        cases.append((re.sub(r"<<[^>]*>>", "", reasoning), answer, True))
    rate = 1 - len(_disagreements(graders, cases)) / len(cases)
    record_property("rate", rate)
    print(f"gsm8k reasoning without its #### line: {rate:.1%}")
    assert rate > 0.85


def test_openr1_solutions_agree_with_their_answer(
    graders: GraderPool, data_folder: Path, record_property: Any
) -> None:
    """Textbook solutions in many styles; some do not end with an answer."""
    rows = _rows(data_folder, "openr1.jsonl")
    assert len(rows) == 54
    cases = [(row["solution"], row["answer"], True) for row in rows]
    missed = _disagreements(graders, cases)
    rate = 1 - len(missed) / len(cases)
    record_property("rate", rate)
    print(f"openr1 solutions: {rate:.1%}")
    for case in missed:
        print("missed", ascii(case))
    assert rate >= 0.6
    boxed = [
        (f"{row['solution']}\n\nThe answer is $\\boxed{{{row['answer']}}}$.", row["answer"], True)
        for row in rows
    ]
    assert _disagreements(graders, boxed) == []
    others = [row["answer"] for row in rows[1:] + rows[:1]]
    wrong = [
        (rf"So we get $\boxed{{{row['answer']}}}$.", other, False)
        for row, other in zip(rows, others, strict=True)
        if row["answer"] != other
    ]
    assert len(wrong) > 45
    assert _disagreements(graders, wrong) == []


PRONTOQA_TEMPLATES = [
    "{context} Therefore, the statement is {word}.",
    "Let us go step by step. {context}\n\nAnswer: {word}",
    "{context}\n\n**{word}**",
    r"{context} The answer is \boxed{{\text{{{word}}}}}.",
    "<think>{context} Is it {other}? No.</think>\nThe answer is {word}.",
]


@pytest.mark.parametrize("template", PRONTOQA_TEMPLATES)
def test_prontoqa_statements(graders: GraderPool, data_folder: Path, template: str) -> None:
    cases: list[tuple[str, Any, bool]] = []
    for row in _rows(data_folder, "prontoqa.jsonl"):
        truth = {"A": "True", "B": "False"}[row["answer"]]
        for word, other in (("True", "False"), ("False", "True")):
            response = template.format(context=row["context"], word=word, other=other)
            cases.append((response, truth, word == truth))
            cases.append((response.replace(word, word.lower()), truth, word == truth))
    assert len(cases) == 800
    assert _disagreements(graders, cases) == []


@pytest.mark.parametrize(
    "template",
    [
        "The answer is {letter}.",
        "{context} So the best conclusion is ({letter}) {text}.",
        "Going through the options:\n{options}\n\nAnswer: {letter}",
        r"{context} \boxed{{{letter}}}",
        "The correct conclusion is: {text}",
        "{context}\n\nAnswer: {text}",
    ],
)
def test_logicbench_options(graders: GraderPool, data_folder: Path, template: str) -> None:
    cases: list[tuple[str, Any, bool]] = []
    for row in _rows(data_folder, "logicbench.jsonl"):
        texts = list(row["choices"].values())
        gold = list(row["choices"]).index(row["answer"])
        label = json.dumps({"answer": "ABCDE"[gold], "choices": texts})
        folded = [re.sub(r"\W+", " ", text).strip().casefold() for text in texts]
        options = "\n".join(
            f"{letter}) {text}" for letter, text in zip("ABCDE", texts, strict=False)
        )
        for index, text in enumerate(texts):
            if "{text}" in template and folded.count(folded[index]) > 1:
                continue  # two options have this text
            response = template.format(
                letter="ABCDE"[index], text=text, options=options, context=row["context"]
            )
            cases.append((response, label, index == gold))
    assert len(cases) > 780
    assert _disagreements(graders, cases) == []


@pytest.mark.parametrize(
    "template",
    [
        "{word}.",
        "The answer is {word}.",
        "{context}\n\nFinal answer: {word}",
        "{word}, because so.",
    ],
)
def test_logicbench_yes_and_no(graders: GraderPool, data_folder: Path, template: str) -> None:
    cases: list[tuple[str, Any, bool]] = []
    for row in _rows(data_folder, "logicbench_bqa.jsonl"):
        for pair in row["qa_pairs"]:
            for word in ("yes", "no"):
                response = template.format(word=word.capitalize(), context=row["context"])
                cases.append((response, pair["answer"], pair["answer"] == word))
    assert len(cases) > 500
    assert _disagreements(graders, cases) == []
