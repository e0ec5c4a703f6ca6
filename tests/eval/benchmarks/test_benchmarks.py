"""The benchmarks' loaders, on samples of the real data sets and on rows that do not fit them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eval.benchmarks import (
    BENCHMARKS,
    Problem,
    RowError,
    choose_benchmarks,
    gsm8k,
    load_problems,
    logicbench,
    numinamath,
)
from eval.benchmarks import math as math_benchmark
from eval.benchmarks.load import compute_fingerprint
from eval.benchmarks.rows import HubSource, Row, read_hub_rows
from eval.errors import UserError

SEVEN = ("gsm8k", "math", "numinamath", "gsm_symbolic", "aime", "prontoqa", "logicbench")


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _problems(name: str, folder: Path, limit: int | None = None) -> list[Problem]:
    return load_problems(BENCHMARKS[name], folder, limit).problems


def _write(folder: Path, name: str, rows: list[dict[str, Any]]) -> Path:
    path = folder / BENCHMARKS[name].file
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_all_are_the_seven_in_the_papers_order() -> None:
    assert tuple(b.name for b in choose_benchmarks("all")) == SEVEN
    assert [b.name for b in choose_benchmarks("aime, gsm8k,aime")] == ["aime", "gsm8k"]
    assert [b.name for b in choose_benchmarks("all,demo")] == [*SEVEN, "demo"]


@pytest.mark.parametrize(
    ("names", "named"), [("gsm9k", "gsm9k"), ("", "no benchmark is"), (",", "is named")]
)
def test_an_unknown_benchmark(names: str, named: str) -> None:
    with pytest.raises(UserError, match=named):
        choose_benchmarks(names)


@pytest.mark.parametrize("name", SEVEN)
def test_module_says_where_it_comes_from(name: str) -> None:
    benchmark = BENCHMARKS[name]
    module = __import__(f"eval.benchmarks.{name}", fromlist=["x"])
    said = " ".join((module.__doc__ or "").split())
    for fact in (benchmark.source.hub_id, benchmark.source.split, benchmark.licence.split(":")[0]):
        assert fact in said
    assert len(benchmark.source.revision) == 40 or benchmark.source.revision == "main"


@pytest.mark.parametrize("name", SEVEN)
def test_no_file(name: str, tmp_path: Path) -> None:
    with pytest.raises(RowError, match=f"{name}: no file .*{BENCHMARKS[name].file}"):
        _problems(name, tmp_path)


def test_gsm8k_whole(data_folder: Path) -> None:
    loaded = load_problems(BENCHMARKS["gsm8k"], data_folder)
    rows = _rows(data_folder / "gsm8k.jsonl")
    assert len(loaded.problems) == len(rows) == 1319
    assert loaded.description.num_problems == 1319
    assert loaded.description.source.endswith("gsm8k.jsonl")
    for problem, row in zip(loaded.problems, rows, strict=True):
        assert problem.label.answer == row["answer"].split("#### ")[1]
        assert (problem.label.grader, problem.label.mode) == ("math", "eval")
    assert sum("," in p.label.answer for p in loaded.problems) == 14
    # Quotation marks are straightened, as in the paper's preparation.
    assert "Janet’s" in rows[0]["question"]
    assert "Janet's" in loaded.problems[0].question


def test_limit_takes_the_first(data_folder: Path) -> None:
    assert _problems("gsm8k", data_folder, 5) == _problems("gsm8k", data_folder)[:5]


def test_math_keeps_numbers_and_simple_fractions(data_folder: Path) -> None:
    problems = _problems("math", data_folder)
    answers = [p.label.answer for p in problems]
    assert answers == ["23", r"\frac{1}{12}", "4", "15", "0.5", "24"]  # no root, no interval
    assert [p.id for p in problems] == ["0", "1", "4", "5", "6", "7"]


@pytest.mark.parametrize(
    ("solution", "box"),
    [
        (r"so $\boxed{1}$, no, $\boxed{\frac{1}{2}}$.", r"\frac{1}{2}"),
        (r"$\boxed{{2}}$", "{2}"),
        (r"\fbox{7}", "7"),
        (r"\boxed{3} then \fbox{4}", "3"),
        (r"\boxed{3", None),
        (r"\boxed 5", None),
        (r"\boxed{4} or \boxed 5", None),
        ("42", None),
    ],
)
def test_last_box(solution: str, box: str | None) -> None:
    assert math_benchmark.find_last_box(solution) == box


def test_numinamath_filter_agrees_with_the_authors(data_folder: Path) -> None:
    expected = {
        row["uuid"]: row["sar_filter_keeps"]
        for row in json.loads((data_folder / "openr1_edge_expected.json").read_text())
    }
    edge_rows = _rows(data_folder / "openr1_edge_rows.jsonl")
    kept = {row["uuid"]: numinamath.is_kept(Row("edge", 0, row)) for row in edge_rows}
    assert kept == expected
    assert len(kept) == 24
    real = _rows(data_folder / "openr1.jsonl")
    assert sum(numinamath.is_kept(Row("openr1", 0, row)) for row in real) == 47
    assert len(real) == 54


@pytest.mark.parametrize("num_rows", [1, 12, 47, 1000, 31337])
def test_numinamath_split_is_that_of_datasets(num_rows: int) -> None:
    datasets = pytest.importorskip("datasets")
    table = datasets.Dataset.from_dict({"index": list(range(num_rows + 1))})
    test = table.train_test_split(test_size=0.08, seed=42)["test"]
    assert numinamath.choose_held_out(num_rows + 1) == test["index"][:]


def test_numinamath_holds_out_gradable_rows(data_folder: Path) -> None:
    problems = _problems("numinamath", data_folder)
    assert len(problems) == 4  # ceil(8 % of 47)
    rows = _rows(data_folder / "openr1.jsonl")
    for problem in problems:
        row = rows[int(problem.id)]
        assert (problem.question, problem.label.answer) == (row["problem"], row["answer"])


def test_numinamath_leaves_out_what_cannot_be_graded(data_folder: Path, tmp_path: Path) -> None:
    rows = _rows(data_folder / "openr1_edge_rows.jsonl")
    ungradable = [row for row in rows if row["answer"] in ("", "\\..-")]
    gradable = next(row for row in rows if row["answer"] == "42")
    assert len(ungradable) == 2
    _write(tmp_path, "numinamath", ungradable)
    with pytest.raises(RowError, match="no problem"):
        _problems("numinamath", tmp_path)
    _write(tmp_path, "numinamath", [gradable] * 30)
    assert len(_problems("numinamath", tmp_path)) == 3


def test_gsm_symbolic(data_folder: Path) -> None:
    problems = _problems("gsm_symbolic", data_folder)
    assert [p.id for p in problems[:3]] == ["0-0", "0-1", "1-0"]
    assert [p.label.answer for p in problems[::2]] == ["68", "1520", "21", "0.8"]


def test_aime_labels_are_texts(data_folder: Path) -> None:
    problems = _problems("aime", data_folder)
    assert problems[-1].label.answer == "080 or 081 (both were accepted)"
    assert problems[2].label.answer == "035"
    assert {p.label.grader for p in problems} == {"math"}


def test_prontoqa(data_folder: Path) -> None:
    problems = _problems("prontoqa", data_folder)
    rows = _rows(data_folder / "prontoqa.jsonl")
    assert len(problems) == 200
    for problem, row in zip(problems, rows, strict=True):
        assert problem.label.answer == {"A": "true", "B": "false"}[row["answer"]]
        assert problem.label.grader == "boolean"
        assert problem.question == f"{row['context']} {row['question']}"


def test_logicbench_file(data_folder: Path) -> None:
    problems = _problems("logicbench", data_folder)
    rows = _rows(data_folder / "logicbench.jsonl")
    assert len(problems) == 200
    by_id = {p.id: p for p in problems}
    for row in rows:
        problem = by_id[f"{row['type']}/{row['axiom']}/{row['id']}"]
        letters = "ABCDE"[: len(row["choices"])]
        lines = problem.question.splitlines()[-len(letters) :]
        texts = list(row["choices"].values())
        assert problem.label.choices == tuple(texts)
        assert problem.label.answer == letters[list(row["choices"]).index(row["answer"])]
        assert lines == [f"{letter}: {text}" for letter, text in zip(letters, texts, strict=True)]
    several = by_id["non_monotonic_logic/default_reasoning_several/18"]
    assert len(several.label.choices) == 5
    assert several.label.grader == "choice"


def test_logicbench_tree_has_the_same_problems(data_folder: Path) -> None:
    folder = data_folder / "logicbench_tree"
    from_tree = {p.id: p for p in _problems("logicbench", folder)}
    assert len(from_tree) == 80
    from_file = {p.id: p for p in _problems("logicbench", data_folder)}
    shared = from_tree.keys() & from_file.keys()
    assert len(shared) > 20
    assert all(from_tree[id_] == from_file[id_] for id_ in shared)
    assert {id_.split("/")[0] for id_ in from_tree} == {
        "propositional_logic",
        "first_order_logic",
        "non_monotonic_logic",
    }


def test_logicbench_choices_that_a_table_filled_with_null(
    data_folder: Path, tmp_path: Path
) -> None:
    row = _rows(data_folder / "logicbench.jsonl")[0]
    row["choices"]["choice_5"] = None
    _write(tmp_path, "logicbench", [row])
    assert len(_problems("logicbench", tmp_path)[0].label.choices) == 4


def test_logicbench_skips_yes_and_no_questions(data_folder: Path, tmp_path: Path) -> None:
    tree = tmp_path / "LogicBench(Eval)"
    source = data_folder / "logicbench_tree" / "LogicBench(Eval)" / "MCQA"
    shutil.copytree(source, tree / "BQA")
    assert logicbench.read_tree(tmp_path) is None


def _without(field: str) -> Callable[[dict[str, Any]], None]:
    def change(row: dict[str, Any]) -> None:
        del row[field]

    return change


def _with(field: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(row: dict[str, Any]) -> None:
        row[field] = value

    return change


@pytest.mark.parametrize(
    ("name", "change", "complaint"),
    [
        ("gsm8k", _without("question"), "field 'question': is missing; the row has 'answer'"),
        ("gsm8k", _with("answer", "It is 5."), "field 'answer': has no '#### '"),
        (
            "gsm8k",
            _with("answer", "It is 5. ####  "),
            "field 'answer': the label's answer is empty",
        ),
        ("gsm8k", _with("answer", 5), "field 'answer': expected a string, found a number"),
        ("gsm8k", _with("question", " "), "field 'question': is empty"),
        ("math", _with("solution", None), "field 'solution': expected a string, found null"),
        ("numinamath", _without("correctness_math_verify"), "field 'correctness_math_verify'"),
        ("numinamath", _with("correctness_math_verify", "true"), "a list of booleans"),
        ("gsm_symbolic", _with("id", "7"), "field 'id': expected a whole number"),
        ("aime", _with("Answer", 80), "field 'Answer': expected a string, found a number"),
        ("prontoqa", _with("answer", "C"), "field 'answer': 'C' is neither A"),
        ("logicbench", _with("answer", "choice_7"), "field 'answer': 'choice_7' is not one of"),
        ("logicbench", _with("choices", ["a", "b"]), "field 'choices': expected an object"),
        ("logicbench", _with("choices", {"choice_1": 1}), "'choice_1': expected a string"),
    ],
)
def test_rows_that_do_not_fit(
    data_folder: Path,
    tmp_path: Path,
    name: str,
    change: Callable[[dict[str, Any]], None],
    complaint: str,
) -> None:
    rows = _rows(data_folder / BENCHMARKS[name].file)[:3]
    change(rows[1])
    path = _write(tmp_path, name, rows)
    with pytest.raises(RowError) as raised:
        _problems(name, tmp_path)
    assert f"{path}, line 2, field" in str(raised.value)
    assert complaint in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (b"{", "not JSON"),
        (b"[1]", "expected an object, found a list"),
        (b"\xff{}", "not JSON"),
        (b"[" * 100_000, "not JSON"),
    ],
)
def test_lines_that_are_not_rows(tmp_path: Path, line: bytes, complaint: str) -> None:
    good = b'{"question": "1+1?", "answer": "#### 2"}'
    (tmp_path / "gsm8k.jsonl").write_bytes(good + b"\n\n" + line + b"\n")
    with pytest.raises(RowError, match=f"gsm8k.jsonl, line 3: {complaint}"):
        _problems("gsm8k", tmp_path)


def test_files_of_logicbench_that_do_not_fit(data_folder: Path, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    shutil.copytree(data_folder / "logicbench_tree", tree, copy_function=shutil.copyfile)
    for path in [tree, *tree.rglob("*")]:
        path.chmod(0o755)
    path = next(tree.rglob("data_instances.json"))
    content = json.loads(path.read_text())
    del content["samples"][4]["context"]
    path.write_text(json.dumps(content))
    with pytest.raises(RowError, match=r"data_instances\.json, sample 5, field 'context'"):
        _problems("logicbench", tree)
    path.write_text("{}")
    with pytest.raises(RowError, match="field 'samples'"):
        _problems("logicbench", tree)


def test_two_problems_with_one_id(tmp_path: Path, data_folder: Path) -> None:
    row = _rows(data_folder / "prontoqa.jsonl")[0]
    _write(tmp_path, "prontoqa", [row, row])
    with pytest.raises(RowError, match="'ProntoQA_1'"):
        _problems("prontoqa", tmp_path)


def test_fingerprint_sees_every_change(data_folder: Path) -> None:
    problems = _problems("logicbench", data_folder, 20)
    prints = {
        compute_fingerprint(problems),
        compute_fingerprint(problems[::-1]),
        compute_fingerprint(problems[:-1]),
    }
    first = problems[0]
    for changed in (
        Problem("x", first.question, first.label),
        Problem(first.id, first.question + " ", first.label),
        Problem(first.id, first.question, problems[1].label),
    ):
        prints.add(compute_fingerprint([changed, *problems[1:]]))
    assert len(prints) == 6
    assert compute_fingerprint(_problems("logicbench", data_folder, 20)) == compute_fingerprint(
        problems
    )


def test_demo_is_generated_and_always_the_same(tmp_path: Path) -> None:
    loaded = load_problems(BENCHMARKS["demo"], tmp_path)
    assert loaded.problems == load_problems(BENCHMARKS["demo"]).problems
    assert len({p.question for p in loaded.problems}) == len(loaded.problems) == 200


@pytest.fixture
def table(tmp_path: Path) -> str:
    """A dataset in a folder, which `datasets` reads as it reads one of the hub."""
    pytest.importorskip("datasets")
    card = (
        "---\nconfigs:\n- config_name: main\n  data_files:\n"
        "  - split: test\n    path: test.jsonl\n---\n"
    )
    (tmp_path / "README.md").write_text(card)
    rows = [{"question": f"{i}+1?", "answer": f"#### {i + 1}", "other": "x"} for i in range(3)]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return str(tmp_path)


def test_rows_by_datasets(
    table: str, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    source = HubSource(table, "main", "test", "main")
    problems = list(gsm8k.prepare(read_hub_rows(source, ("question", "answer"))))
    assert [p.label.answer for p in problems] == ["1", "2", "3"]
    with pytest.raises(RowError, match="field 'solution': is missing"):
        list(read_hub_rows(source, ("solution",)))
    with pytest.raises(RowError, match=r"cannot load .* from the hub: .*--help"):
        list(read_hub_rows(HubSource(table, "main", "train", "main"), ("question",)))
