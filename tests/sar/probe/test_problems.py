"""Problems for the battery: the bundled ones, the user's file, and what is wrong with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sar.grading.grade import grade
from sar.probe.problems import Problem, ProblemError, list_bundled, read_number, read_problems

GOOD = {"question": "How many are 30 and 12?", "label": "42", "response": "Both make 42."}


def write(path: Path, *lines: object) -> Path:
    texts = (line if isinstance(line, str) else json.dumps(line) for line in lines)
    path.write_text("".join(text + "\n" for text in texts), encoding="utf-8")
    return path


def test_bundled_problems_are_always_the_same_and_hide_their_answer() -> None:
    problems = list_bundled(50)
    assert problems[:20] == list_bundled(50)[:20]
    assert len({one.question for one in problems}) == 50
    for one in problems:
        assert one.right not in one.question.replace(".", " ").replace("?", " ").split()
        assert grade(one.honest, one.label).correctness
        assert one.attempt
        assert one.other
        for wrong in (one.attempt, one.other, one.wrong):
            assert not grade(wrong, one.label).correctness


def test_rows_of_every_kind_become_problems(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    problems = read_problems(write(tmp_path / "rows.jsonl", *rows), grade, 100)
    assert [one.label.grader for one in problems] == ["math"] * 4 + ["choice"] * 2 + [
        "boolean",
        "boolean",
        "exact",
    ]
    assert [one.question for one in problems] == [row["question"] for row in rows]
    assert [(one.right, one.wrong) for one in problems] == [
        ("48", "49"),
        ("1.75", "2.75"),
        ("x^2 - x - 6", "1729"),
        ("72", "73"),
        ("B", "C"),
        ("D", "A"),
        ("True", "False"),
        ("False", "True"),
        ("bern", "1729"),
    ]
    for one in problems:
        assert one.attempt
        assert not grade(one.attempt, one.label).correctness
        assert one.other not in (None, one.honest)


def test_one_problem_has_no_other(tmp_path: Path) -> None:
    (problem,) = read_problems(write(tmp_path / "a.jsonl", GOOD), grade, 5)
    assert problem.other is None
    assert problem.attempt == "Both make 43."


def test_empty_lines_are_skipped_and_reading_stops_at_the_limit(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", "", GOOD, GOOD, "not json")
    assert len(read_problems(file, grade, 2)) == 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ([1], "not an object"),
        ({"question": "a", "label": "1"}, "response is missing"),
        ({**GOOD, "question": " "}, "question is ' '"),
        ({**GOOD, "response": 5}, "response is 5"),
        ({**GOOD, "label": ""}, "label: the label's answer is empty"),
        ({**GOOD, "label": {"answer": "42", "mode": "eval"}}, "mode is 'eval'"),
        ({**GOOD, "label": "43"}, "graded wrong (answer '42', label '43')"),
        ({**GOOD, "response": "I do not know."}, "graded no_answer"),
    ],
)
def test_a_wrong_line_is_named(line: object, message: str, tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", GOOD, line)
    with pytest.raises(ProblemError) as error:
        read_problems(file, grade, 5)
    assert str(error.value).startswith(f"{file}:2: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_without_a_problem_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ProblemError, match="no problem in it"):
        read_problems(write(tmp_path / "a.jsonl", ""), grade, 5)


def test_a_question_that_names_its_answer_is_known(rows: list[dict[str, Any]]) -> None:
    def shows(question: str, label: Any, right: str) -> bool:
        from sar.grading.label import parse_label

        problem = Problem(question, "", label, parse_label(label), "", right, "", None)
        return problem.shows_answer

    assert shows("Is it 1,200 or 5?", "1200", "1200")
    assert not shows("Is it 12 or 1.5 or 15?", "5", "5")
    assert shows("Is it true that it rains?", "True", "True")
    assert not shows("Does it rain?", "True", "True")
    assert not shows("Which? A. red B. blue", "B", "B")


@pytest.mark.parametrize(
    ("text", "value"), [("1,200", 1200), ("$2.5$", 2.5), ("-3.", -3), ("1/2", None), ("x", None)]
)
def test_numbers_are_read(text: str, value: float | None) -> None:
    assert read_number(text) == value
