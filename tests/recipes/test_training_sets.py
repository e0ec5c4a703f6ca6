"""The sources of training problems: splits, filters, samples, and unusable data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from eval.benchmarks import numinamath
from eval.benchmarks.rows import Row
from recipes.prepare_data import TRAINING_SETS, main, sample_problems


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_numinamath_training_is_what_is_not_held_out(data_folder: Path) -> None:
    raw = rows_of(data_folder / "openr1.jsonl")
    rows = [Row("openr1", index, values) for index, values in enumerate(raw)]
    held_out = {p.id for p in numinamath.prepare(rows)}
    training = [p.id for p in numinamath.prepare_training(rows)]
    assert (len(held_out), len(training)) == (4, 43)
    assert held_out.isdisjoint(training)
    kept = {str(row.index) for row in rows if numinamath.is_kept(row)}
    assert held_out | set(training) == kept
    assert len(kept) == 47


def test_numinamath_training_is_the_split_of_datasets(data_folder: Path) -> None:
    datasets = pytest.importorskip("datasets")
    raw = rows_of(data_folder / "openr1.jsonl")
    rows = [Row("openr1", index, values) for index, values in enumerate(raw)]
    kept = [str(row.index) for row in rows if numinamath.is_kept(row)]
    split = datasets.Dataset.from_dict({"id": kept}).train_test_split(test_size=0.08, seed=42)
    assert {p.id for p in numinamath.prepare_training(rows)} == set(split["train"]["id"])


def test_the_filter_agrees_on_edge_rows(data_folder: Path) -> None:
    expected = json.loads((data_folder / "openr1_edge_expected.json").read_text())
    keeps = {one["uuid"]: one["sar_filter_keeps"] for one in expected}
    edge_rows = rows_of(data_folder / "openr1_edge_rows.jsonl")
    assert {r["uuid"]: numinamath.is_kept(Row("edge", 0, r)) for r in edge_rows} == keeps
    assert (len(keeps), sum(keeps.values())) == (24, 9)


@pytest.mark.parametrize(("size", "cap"), [(1000, 100), (1000, 999), (50, 50), (50, 0), (3, 10)])
def test_samples_are_those_of_pandas(size: int, cap: int) -> None:
    pandas = pytest.importorskip("pandas")
    problems: Any = [f"problem {i}" for i in range(size)]
    expected = problems
    if cap and cap < size:
        expected = pandas.DataFrame({"x": problems}).sample(cap, random_state=42)["x"].tolist()
    assert sample_problems(problems, cap, 42) == expected


def test_the_hub_sources_are_the_papers() -> None:
    assert [(t.source.hub_id, t.source.config, t.source.split) for t in TRAINING_SETS] == [
        ("openai/gsm8k", "main", "train"),
        ("DigitalLearningGmbH/MATH-lighteval", "default", "train"),
        ("open-r1/OpenR1-Math-220k", "default", "train"),
    ]
    starts = ["740312ad", "0530c786", "e4e141ec"]
    assert [t.source.revision[:8] for t in TRAINING_SETS] == starts


@pytest.mark.parametrize(
    ("row", "part"),
    [
        (None, "gsm8k: no file"),
        ({"question": "How many?"}, "line 1, field 'answer': is missing"),
        ({"question": "How many?", "answer": "4"}, "field 'answer': has no '#### '"),
    ],
)
def test_data_that_cannot_be_used(
    row: dict[str, Any] | None,
    part: str,
    data_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    train = tmp_path / "train"
    train.mkdir()
    if row is not None:
        (train / "gsm8k.jsonl").write_text(json.dumps(row))
    where = ["--data-dir", str(train), "--benchmark-dir", str(data_folder)]
    assert main(["--output", str(tmp_path / "out"), *where]) == 1
    (line,) = (x for x in capsys.readouterr().err.splitlines() if x.startswith("prepare_data: "))
    assert part in line


@pytest.mark.parametrize("flags", [("--cap", "-1"), ("--seed", "x"), ("--eval-cap", "1.5"), ()])
def test_flags_that_cannot_be(flags: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*flags, *(["--output", "x"] if flags else [])])
    assert ended.value.code == 2
    named = f"argument {flags[0]}: '{flags[1]}' is not a whole" if flags else "--output"
    assert named in capsys.readouterr().err
