"""The check of a run's data, row by row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from recipes.data_rows import check_rows
from recipes.launch.settings import LaunchError
from sar.terms.composition import Composition, WeightedTerm
from sar.terms.length import TargetLength

PROMPT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1 + 2?"}]


def write(folder: Path, *labels: Any) -> str:
    path = folder / "rows.jsonl"
    rows = [json.dumps({"prompt": PROMPT, "label": label, "datasource": "x"}) for label in labels]
    path.write_text("".join(row + "\n" for row in rows))
    return str(path)


def complaint(path: str, **options: Any) -> str:
    with pytest.raises(LaunchError) as raised:
        check_rows(path, **options)
    text = str(raised.value)
    assert "\n" not in text
    assert text.startswith(path)
    return text.removeprefix(path)


def test_valid_rows(tmp_path: Path) -> None:
    path = write(tmp_path, "3", '{"answer": "3"}', {"answer": "B", "choices": ["1", "3"]})
    assert check_rows(path) == PROMPT
    path = write(tmp_path, *['{"answer": "3", "mode": "eval"}'] * 2)
    assert check_rows(path, are_evaluated=True) == check_rows(path) == PROMPT


@pytest.mark.parametrize(
    ("label", "part"),
    [
        ('{"answer": ""}', "the label's answer is empty"),
        ('{"answer": "3", "mode": "evaluation"}', "evaluation"),
        ('{"answer": "3", "grader": "maths"}', "maths"),
        (3, ""),
        (None, ""),
    ],
)
@pytest.mark.parametrize("are_evaluated", [True, False])
def test_every_label_is_checked(label: Any, part: str, are_evaluated: bool, tmp_path: Path) -> None:
    good = '{"answer": "3", "mode": "eval"}'
    said = complaint(write(tmp_path, good, good, label, good), are_evaluated=are_evaluated)
    assert said.startswith(", line 3: ")
    assert part in said


def test_labels_have_what_the_rewards_terms_need(tmp_path: Path) -> None:
    composition = Composition((WeightedTerm("target_length", TargetLength()),))
    good = {"answer": "3", "target_tokens": 64}
    assert check_rows(write(tmp_path, good), composition=composition) == PROMPT
    evaluated = {"answer": "3", "mode": "eval"}
    assert check_rows(write(tmp_path, evaluated), composition=composition) == PROMPT
    said = complaint(write(tmp_path, good, "3"), composition=composition)
    assert said.startswith(", line 2: term 'target_length': each label needs \"target_tokens\", or")


@pytest.mark.parametrize("label", ["3", '{"answer": "3"}', '{"answer": "3", "mode": "train"}'])
def test_rows_of_an_evaluation_say_so(label: str, tmp_path: Path) -> None:
    path = write(tmp_path, '{"answer": "3", "mode": "eval"}', label)
    said = complaint(path, are_evaluated=True)
    assert said.startswith(", line 2: the label has the mode 'train', so its reward would not")


@pytest.mark.parametrize(
    "line",
    [
        "",
        "\n",
        "{",
        "3",
        '{"a":' * 100_000 + "1" + "}" * 100_000,
        '{"prompt": "text", "label": "3"}',
        '{"prompt": [], "label": "3"}',
        '{"prompt": null, "label": "3"}',
        '{"prompt": [{"role": "user", "content": null}], "label": "3"}',
        '{"prompt": [{"role": "user", "content": "?"}]}',
    ],
    ids=lambda line: line[:20],
)
def test_other_rows(line: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(line)
    assert complaint(str(path)).startswith(", line 1: not a row of prepare_data.py")


def test_no_file(tmp_path: Path) -> None:
    assert complaint(str(tmp_path / "x")).startswith(": cannot be read: No such file")
