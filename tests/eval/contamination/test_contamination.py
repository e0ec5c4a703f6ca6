"""Problems in training files are found, and only those."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.benchmarks import BENCHMARKS, Problem
from eval.contamination.command import main
from eval.contamination.overlap import ContaminationSearch, iter_texts
from sar.contamination import ContaminationIndex, ngrams, normalise
from sar.grading.label import Label

ROOT = Path(__file__).parents[3]
QUESTION = (
    "A robe takes 2 bolts of blue fiber and half that much white fiber. How many bolts in total "
    "does it take?"
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("What IS the café's price, 3.50?", "what is the café s price 3 50"),
        (r"$\frac{1}{2} + x_1$", "frac 1 2 x_1"),
        ("ﬁne\u00a0half ½ ２", "fine half 1 2 2"),
        ("", ""),
        ("... !", ""),
    ],
)
def test_normalised_words(text: str, words: str) -> None:
    assert list(normalise(text)) == words.split()


@given(st.text())
def test_normalising_twice_changes_nothing(text: str) -> None:
    assert normalise(" ".join(normalise(text))) == normalise(text)


WORDS = st.lists(st.sampled_from("abcd"), max_size=12)


@given(st.lists(WORDS, max_size=4), WORDS, st.integers(1, 4))
def test_the_index_finds_what_a_search_of_all_pairs_finds(
    questions: list[list[str]], text: list[str], n: int
) -> None:
    def holds(piece: list[str]) -> bool:
        return any(text[i : i + len(piece)] == piece for i in range(len(text) - len(piece) + 1))

    found = {
        match.question: match
        for match in ContaminationIndex(map(" ".join, questions), n).find_matches(" ".join(text))
    }
    for index, question in enumerate(questions):
        size = min(n, len(question))
        pieces = [question[i : i + size] for i in range(len(question) - size + 1)]
        assert (index in found) == (bool(question) and any(map(holds, pieces)))
        if index in found:
            assert found[index].whole == holds(question)
            assert list(found[index].ngram) in pieces
            assert holds(list(found[index].ngram))


@pytest.mark.parametrize(
    ("text", "ngram", "whole"),
    [
        (QUESTION, True, True),
        (f"Solve this.\n\n{QUESTION.upper()} Explain your reasoning first.", True, True),
        (QUESTION.replace(",", ";").replace(" ", "\n"), True, True),
        (" ".join(QUESTION.split()[3:16]), True, False),
        (" ".join(QUESTION.split()[3:15]), False, False),  # twelve words
        (QUESTION.replace("blue", "red").replace("fiber. How", "thread. How"), False, False),
        ("", False, False),
    ],
)
def test_thirteen_consecutive_words_match(text: str, ngram: bool, whole: bool) -> None:
    found = ContaminationIndex(["Something else.", QUESTION]).find_matches(text)
    assert [match.question for match in found] == [1] * ngram
    assert [match.whole for match in found] == [whole] * ngram


def test_a_short_question_is_found_whole_only() -> None:
    index = ContaminationIndex(["Compute 17 + 25.", "", "?!"])
    assert [m.whole for m in index.find_matches("First, compute 17 + 25, then rest.")] == [True]
    assert index.find_matches("Compute 17 + 26.") == []
    assert list(ngrams(normalise("one two"), 3)) == []
    with pytest.raises(ValueError, match="n-grams of 0 words"):
        ContaminationIndex([], 0)


def test_each_text_of_a_row_is_searched_separately() -> None:
    words = QUESTION.split()
    split_up = {"prompt": " ".join(words[:10]), "rest": " ".join(words[10:])}
    row = {
        "id": 7, "ok": None, "messages": [{"role": "user", "content": QUESTION}, split_up],
    }  # fmt: skip
    assert dict(iter_texts(row))["messages.0.content"] == QUESTION
    search = ContaminationSearch({"b": [Problem("p", QUESTION, Label("3", "math"))]})
    search.add(1, split_up)
    search.add(2, " ".join(words[:13]))
    search.add(5, row)
    search.add(5, [QUESTION, QUESTION])
    (found,) = search.list_problems()
    assert (found.benchmark, found.id, found.whole) == ("b", "p", True)
    assert (found.line, found.field, found.num_lines) == (5, "messages.0.content", 2)
    assert found.ngram == "a robe takes 2 bolts of blue fiber and half that much white"


def test_memory_does_not_grow_with_the_training_file() -> None:
    chosen = random.Random(0)
    words = [f"w{i}" for i in range(3_000)]
    questions = [" ".join(chosen.choices(words, k=40)) for _ in range(50)]
    problems = [Problem(str(i), q, Label("1", "math")) for i, q in enumerate(questions)]

    def rows(num: int) -> Iterator[str]:
        for i in range(num):
            yield " ".join(chosen.choices(words, k=200)) + " " + questions[i % 50]

    peaks_bytes = []
    for num in (50, 1_000):
        search = ContaminationSearch({"b": problems})
        tracemalloc.start()
        for line, row in enumerate(rows(num), start=1):
            search.add(line, row)
        peaks_bytes.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert len(search.list_problems()) == 50
    assert peaks_bytes[1] < peaks_bytes[0] + 200_000


def _write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_real_problems_in_a_training_file(data_folder: Path, tmp_path: Path) -> None:
    """30 GSM8K test questions, each hidden in another way, among 400 other texts."""
    lines = (data_folder / "gsm8k.jsonl").read_text().splitlines()
    questions = [json.loads(line)["question"] for line in lines]
    clean = [json.loads(line) for line in (data_folder / "openr1.jsonl").read_text().splitlines()]
    hidden = [
        {"prompt": f"<|user|>{questions[i]} Explain your reasoning first.", "label": "1"}
        if i % 2
        else {"messages": [{"role": "user", "content": questions[i].upper()}]}
        for i in range(0, 300, 10)
    ]
    rows = [row for pair in zip(clean, hidden, strict=False) for row in pair]
    train = _write(tmp_path / "train.jsonl", rows)
    output = tmp_path / "found/found.json"
    command = [train, "--benchmarks", "gsm8k,prontoqa", "--data-dir", data_folder]
    done = subprocess.run(
        [sys.executable, "-m", "eval", "contamination", *map(str, command), "--output", output],
        cwd=ROOT, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(output.read_text())
    gsm8k = found["benchmarks"]["gsm8k"]
    assert [item["id"] for item in gsm8k["items"]] == [str(i) for i in range(0, 300, 10)]
    assert all(item["whole"] for item in gsm8k["items"])
    assert [item["line"] for item in gsm8k["items"]] == list(range(2, 62, 2))
    assert gsm8k["share_whole"] == gsm8k["share_ngram"] == pytest.approx(30 / 1319)
    assert found["benchmarks"]["prontoqa"]["num_ngram"] == 0
    assert found["num_rows"] == 60
    table = [line.split() for line in done.stdout.splitlines()]
    assert ["gsm8k", "1,319", "30", "2.3%", "30", "2.3%"] in table
    assert ["prontoqa", "200", "0", "0.0%", "0", "0.0%"] in table


def test_rollouts_of_a_benchmark_hold_its_problems(data_folder: Path) -> None:
    problems = []
    for index, text in enumerate((data_folder / "gsm8k.jsonl").read_text().splitlines()):
        problems.append(Problem(str(index), json.loads(text)["question"], Label("1", "math")))
    rows = [json.loads(x) for x in (data_folder / "gsm8k_rollouts.jsonl").read_text().splitlines()]
    search = ContaminationSearch({"gsm8k": problems})
    for line, row in enumerate(rows, start=1):
        search.add(line, row)
    found = {problem.id for problem in search.list_problems() if problem.whole}
    assert found == {str(row["gsm8k_test_index"]) for row in rows}


@pytest.mark.parametrize("name", ["absent.jsonl", "folder"])
def test_an_unreadable_training_file_is_reported_before_benchmarks_load(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Loading them from the hub may take long."""

    def load_problems(*_: object) -> None:
        raise AssertionError("the benchmarks were loaded first")

    monkeypatch.setattr("eval.contamination.command.load_problems", load_problems)
    (tmp_path / "folder").mkdir()
    assert main([str(tmp_path / name), "--benchmarks", "gsm8k"]) == 2
    assert name in capsys.readouterr().err


def test_user_errors_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torn = tmp_path / "torn.jsonl"
    torn.write_text('{"prompt": "fine"}\n\n{"prompt": \n')
    nested = tmp_path / "nested.jsonl"
    nested.write_text("[" * 100_000)
    for arguments, part in (
        ([torn, "--benchmarks", "demo"], "torn.jsonl, line 3: not JSON"),
        ([nested, "--benchmarks", "demo"], "nested.jsonl, line 1: not JSON"),
        ([tmp_path / "absent", "--benchmarks", "demo"], "absent"),
        ([torn, "--benchmarks", "nonsense"], "no benchmark 'nonsense'"),
        ([torn, "--benchmarks", "demo", "--n", "0"], "n-grams of 0 words"),
    ):
        assert main(list(map(str, arguments))) == 2
        line = capsys.readouterr().err
        assert line.count("\n") == 1
        assert part in line
    assert "demo" in BENCHMARKS
