"""docs/rewards.md: its tables are those of today's terms, and its examples work."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

from sar.grading.label import Label
from sar.grading.verdict import Reason, Verdict
from sar.pages import render_page
from sar.reward import Likelihood
from sar.terms.base import Sample, Term
from sar.terms.catalogue import UPDATE_COMMAND, list_terms, render_tables
from sar.terms.reward_file import read_reward_file

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "rewards.md").read_text(encoding="utf-8")


def find_blocks(language: str) -> list[str]:
    blocks = re.findall(rf"^ *```{language}\n(.*?)^ *```$", PAGE, re.MULTILINE | re.DOTALL)
    return [dedent(block) for block in blocks]


REWARD_FILES = find_blocks("toml")
MY_TERMS = [text for text in find_blocks("python") if "def reward(" not in text]
(CANDIDATE,) = (text for text in find_blocks("python") if "def reward(" in text)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the page's `my_terms.py`, from which Python imports, and its candidate."""
    (tmp_path / "short.py").write_text(CANDIDATE)
    (tmp_path / "my_terms.py").write_text("\n\n".join(MY_TERMS))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_terms", raising=False)
    return tmp_path


def test_the_tables_are_current() -> None:
    message = f"run `{UPDATE_COMMAND}`"
    assert render_page(PAGE, UPDATE_COMMAND, render_tables(list_terms())) == PAGE, message


@pytest.mark.parametrize("text", REWARD_FILES)
def test_a_reward_file_of_the_page_is_read(text: str, folder: Path) -> None:
    file = folder / "reward.toml"
    file.write_text(text)
    composition = read_reward_file(file)
    assert len(composition.terms) == text.count("[[terms]]")


def find_reward_file(wanted: str) -> str:
    return next(text for text in REWARD_FILES if wanted in text)


def test_the_page_shows_a_sum_groups_and_gdpo() -> None:
    assert "group_size" not in REWARD_FILES[0]
    assert find_reward_file("group_size")
    assert find_reward_file('normalize = "gdpo"')


@pytest.mark.parametrize("text", MY_TERMS)
def test_a_term_of_ones_own_takes_a_dozen_lines(text: str) -> None:
    assert len([line for line in text.splitlines() if line.strip()]) <= 12


def make_sample(response: str, num_tokens: int = 7, *, correct: bool = True) -> Sample:
    verdict = Verdict(Reason.CORRECT if correct else Reason.WRONG)
    likelihood = Likelihood(0.5, 1.0, num_tokens, False)
    return Sample("2+3?", response, Label("5", "math"), verdict, likelihood)


def test_the_term_of_ones_own_pays_what_it_says(folder: Path) -> None:
    file = folder / "reward.toml"
    file.write_text(find_reward_file("my_terms:FewQuestions"))
    composition = read_reward_file(file)
    assert all(isinstance(one.term, Term) for one in composition.terms)
    for response, value in (("5", 0.0), ("Why? So 5.", -0.2), ("?" * 9, -1.0)):
        sample = make_sample(response)
        scores = composition.score(sample)
        assert scores == {"correctness": 1.0, "fewquestions": value}
        assert composition.combine([sample], [scores]) == pytest.approx([1.0 + 0.1 * value])


def test_the_candidate_pays_what_it_says(folder: Path) -> None:
    file = folder / "reward.toml"
    file.write_text(find_reward_file("candidate:short.py"))
    composition = read_reward_file(file)
    right = make_sample("5", 250)
    expected = 1.0 - 0.2 * math.tanh(0.5) + 0.1 * (1 - math.exp(-0.5))
    assert composition.score(right)["short"] == pytest.approx(expected)
    assert composition.score(make_sample("6", correct=False)) == {"short": 0.0}


@pytest.mark.parametrize(
    ("group", "values"),
    [
        ([(9, True), (4, True), (2, False)], [0, 1, 0]),
        ([(4, True), (4, True), (5, True)], [1, 1, 0]),
        ([(4, False), (5, False)], [0, 0]),
    ],
)
def test_the_term_of_ones_own_that_compares_pays_the_shortest_right_answer(
    folder: Path, group: list[tuple[int, bool]], values: list[float]
) -> None:
    file = folder / "reward.toml"
    file.write_text(find_reward_file("my_terms:Shortest"))
    composition = read_reward_file(file)
    samples = [make_sample("5", tokens, correct=correct) for tokens, correct in group]
    scores = composition.score_group(samples, [composition.score(one) for one in samples])
    assert [one["shortest"] for one in scores] == values
    expected = [right + 0.1 * value for (_, right), value in zip(group, values, strict=True)]
    assert composition.combine(samples, scores) == pytest.approx(expected)


def test_the_check_finds_a_term_in_the_folder_where_it_runs(folder: Path) -> None:
    file = folder / "reward.toml"
    file.write_text(find_reward_file("my_terms:FewQuestions"))
    command = [sys.executable, "-m", "sar", "terms", "--check", "reward.toml"]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=folder, env=environ, capture_output=True, text=True, check=True
    )
    assert done.stdout == "reward = 1 x correctness\n       + 0.1 x fewquestions\n"
