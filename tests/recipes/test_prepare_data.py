"""Data preparation: filters, splits, contamination, gradable labels, continuing after a stop."""

from __future__ import annotations

import importlib.util
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import recipes.prepare_data as prepare_data
from eval.benchmarks import BENCHMARKS, choose_benchmarks, load_problems
from eval.benchmarks.gsm8k import clean_text
from recipes.prepare_data import TRAINING_SETS, main
from sar.grading.label import Label, parse_label
from sar.grading.processes.pool import GraderPool
from sar.grading.verdict import Reason
from sar.prompts import DEFAULT_SYSTEM_PROMPT, INSTRUCTION, render_prompt
from sar.tokenization import RolloutTokenizer

NUM_TRAIN_GSM8K = 900
NUM_GSM8K = 1319


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, data_folder: Path) -> SimpleNamespace:
    """Real GSM8K, half of it used as the training split; the other data sets unchanged."""
    root = tmp_path_factory.mktemp("prepared")
    gsm8k = rows_of(data_folder / "gsm8k.jsonl")
    words = gsm8k[NUM_TRAIN_GSM8K]["question"].split()
    planted = [
        {"question": f"{question} How many crates?", "answer": "#### 4"}
        for question in (
            f"On Monday, {' '.join(words).upper()} And?",  # a whole question of the benchmark
            f"It is said: {' '.join(words[2:15])}.",  # 13 of its words
            f"It is said: {' '.join(words[2:14])}.",  # 12 of its words
            "Find $\\sqrt{ 72 }$ and simplify \\sqrt{72}, they say:",  # a short one of MATH
        )
    ]
    write_rows(root / "train/gsm8k.jsonl", [*gsm8k[:NUM_TRAIN_GSM8K], *planted])
    write_rows(root / "bench/gsm8k.jsonl", gsm8k[NUM_TRAIN_GSM8K:])
    math = rows_of(data_folder / "math.jsonl")
    write_rows(root / "train/math.jsonl", math[:2])
    short = {"problem": "Simplify $\\sqrt{72}$!", "solution": "It is $\\boxed{8.5}$."}
    write_rows(root / "bench/math.jsonl", [*math[3:], short])
    openr1 = rows_of(data_folder / "openr1.jsonl") + rows_of(data_folder / "openr1_edge_rows.jsonl")
    for folder in ("train", "bench"):
        write_rows(root / folder / "openr1.jsonl", openr1)
    for name in ("gsm_symbolic", "aime", "prontoqa", "logicbench"):
        (root / f"bench/{name}.jsonl").symlink_to(data_folder / f"{name}.jsonl")
    return SimpleNamespace(train=root / "train", bench=root / "bench", root=root)


def prepare(output: Path, folders: Any, *flags: str) -> int:
    where = ["--data-dir", str(folders.train), "--benchmark-dir", str(folders.bench)]
    return main(["--output", str(output), *where, *flags])


@pytest.fixture(scope="module")
def prepared(folders: SimpleNamespace) -> SimpleNamespace:
    output = folders.root / "out"
    assert prepare(output, folders) == 0
    return SimpleNamespace(
        output=output,
        train=rows_of(output / "train.jsonl"),
        eval=rows_of(output / "eval.jsonl"),
        manifest=json.loads((output / "manifest.json").read_text()),
    )


def question_of(row: dict[str, Any]) -> str:
    text: str = row["prompt"][-1]["content"]
    assert text.endswith(INSTRUCTION)
    return text.removesuffix(INSTRUCTION)[:-1]


def grams(text: str, n: int = 13) -> set[tuple[str, ...]]:
    """Independent of `sar.contamination`, which these tests check."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    words = re.sub(r"[^\w]+", " ", folded).split()
    return {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}


def test_counts(prepared: SimpleNamespace) -> None:
    counts = {name: c["num_problems"] for name, c in prepared.manifest["train"].items()}
    evaluated = prepared.manifest["eval"]
    # 47 of the 54 rows pass and 9 of the 24; of these 56, two have no digit in their answer.
    assert counts == {
        "gsm8k": NUM_TRAIN_GSM8K + 4,
        "math": 2,
        "numinamath": 56 - 2 - evaluated["numinamath"]["num_problems"],
    }
    assert evaluated["gsm8k"]["num_problems"] == NUM_GSM8K - NUM_TRAIN_GSM8K
    written = Counter(row["datasource"] for row in prepared.train)
    assert written == {n: c["num_written"] for n, c in prepared.manifest["train"].items()}
    dropped = Counter(one["dataset"] for one in prepared.manifest["dropped"])
    for name, count in counts.items():
        assert count == written[name] + dropped[name]
    in_eval = Counter(row["datasource"] for row in prepared.eval)
    assert in_eval == {n: c["num_written"] for n, c in evaluated.items()}
    assert in_eval == {
        "gsm8k": 250, "math": 5, "numinamath": evaluated["numinamath"]["num_problems"],
        "gsm_symbolic": 8, "aime": 4, "prontoqa": 200, "logicbench": 200,
    }  # fmt: skip


def test_no_training_problem_shares_words_with_a_benchmark(
    folders: SimpleNamespace, prepared: SimpleNamespace
) -> None:
    forbidden: set[tuple[str, ...]] = set()
    for benchmark in choose_benchmarks("all"):
        for problem in load_problems(benchmark, folders.bench).problems:
            forbidden |= grams(problem.question)
    assert len(forbidden) > 10_000
    for row in prepared.train:
        assert not grams(question_of(row)) & forbidden, row
    kept = {question_of(row) for row in prepared.train}
    training = {
        (t.name, p.id): p for t in TRAINING_SETS for p in load_problems(t, folders.train).problems
    }
    dropped = prepared.manifest["dropped"]
    for one in dropped:
        problem = training[one["dataset"], one["id"]]
        assert problem.question not in kept
        assert grams(problem.question) & forbidden or one["benchmark"] == "math"
    planted = [str(NUM_TRAIN_GSM8K + i) for i in (0, 1, 3)]  # not the one of 12 words
    assert [one["id"] for one in dropped if int(one["id"]) >= NUM_TRAIN_GSM8K] == planted
    assert dropped[-1]["benchmark"] == "math"
    assert dropped[-1]["shared"] == "simplify sqrt 72"


def test_training_on_the_benchmarks_own_files_drops_all_of_them(
    data_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = SimpleNamespace(train=data_folder, bench=data_folder)
    assert prepare(tmp_path, both) == 0
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert {n: c["num_written"] for n, c in manifest["train"].items()} == {
        "gsm8k": 0, "math": 0, "numinamath": 43,
    }  # fmt: skip
    said = capsys.readouterr().out
    assert "train  gsm8k              0 of 1,319; 1,319 dropped" in said
    assert "1,325 training problems dropped: they share 13 consecutive words" in said
    # Problems that share text with a held-out problem are dropped too.
    assert {d["benchmark"] for d in manifest["dropped"]} == {"gsm8k", "math"}


def test_pictures_and_an_empty_rest(folders: SimpleNamespace, tmp_path: Path) -> None:
    train = SimpleNamespace(train=tmp_path / "train", bench=folders.bench)
    one = {"question": "See <image>: how many crates stand there?", "answer": "#### 4"}
    (tmp_path / "train").mkdir()
    gsm8k = rows_of(folders.train / "gsm8k.jsonl")
    write_rows(train.train / "gsm8k.jsonl", [one, *gsm8k[:3]])
    for name in ("math", "openr1"):
        (train.train / f"{name}.jsonl").symlink_to(folders.train / f"{name}.jsonl")
    assert prepare(tmp_path / "out", train) == 0
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert ("gsm8k", "0", "holds <image>") in {
        (d["dataset"], d["id"], d["reason"]) for d in manifest["dropped"]
    }
    assert "<image>" not in (tmp_path / "out/train.jsonl").read_text()


@pytest.fixture(scope="module")
def graders() -> Iterator[GraderPool]:
    pool = GraderPool(2, 10.0)
    yield pool
    pool.close()


def all_right(graders: GraderPool, cases: list[tuple[str, Any]]) -> bool:
    pending = [graders.submit(response, parse_label(label)) for response, label in cases]
    return all(p.result().reason is Reason.CORRECT for p in pending)


def test_every_training_label_finds_its_own_solution_right(
    graders: GraderPool, folders: SimpleNamespace, prepared: SimpleNamespace
) -> None:
    by_question = {
        **{r["problem"]: r["solution"] for r in rows_of(folders.train / "math.jsonl")},
        **{
            r["problem"]: f"{r['solution']}\n\nThe answer is $\\boxed{{{r['answer']}}}$."
            for r in rows_of(folders.train / "openr1.jsonl")
        },
    }
    for row in rows_of(folders.train / "gsm8k.jsonl"):
        by_question[clean_text(row["question"])] = row["answer"]
    cases = [(by_question[question_of(row)], row["label"]) for row in prepared.train]
    assert len(cases) > NUM_TRAIN_GSM8K
    assert all_right(graders, cases)


def test_every_evaluation_label_can_be_found_right(
    graders: GraderPool, prepared: SimpleNamespace
) -> None:
    cases = []
    for row in prepared.eval:
        answer = json.loads(row["label"])["answer"].partition(" or ")[0]
        cases.append((f"So the answer is {answer}.", row["label"]))
    assert len(cases) == len(prepared.eval)
    assert all_right(graders, cases)


def test_labels_say_what_they_are_for(prepared: SimpleNamespace) -> None:
    labels = [(row, parse_label(row["label"])) for row in prepared.train]
    assert {(label.grader, label.mode) for _, label in labels} == {("math", "train")}
    graders = {
        (row["datasource"], parse_label(row["label"]).grader, parse_label(row["label"]).mode)
        for row in prepared.eval
    }
    math = {(name, "math", "eval") for name in BENCHMARKS if name not in ("demo",)}
    logic = {("prontoqa", "boolean", "eval"), ("logicbench", "choice", "eval")}
    assert graders == {m for m in math if m[0] not in ("prontoqa", "logicbench")} | logic
    assert set(json.loads(prepared.train[0]["label"])) == {"answer", "grader", "mode"}
    choice = next(r["label"] for r in prepared.eval if r["datasource"] == "logicbench")
    assert isinstance(parse_label(choice), Label)
    assert len(parse_label(choice).choices) >= 4


def test_openrlhf_makes_the_prompts_that_the_server_expects(
    prepared: SimpleNamespace, bundled_tokenizer: Any
) -> None:
    """OpenRLHF's own `PromptDataset`, with the settings of the recipes."""
    package = importlib.util.find_spec("openrlhf")
    assert package is not None
    assert package.origin is not None
    path = Path(package.origin).parent / "datasets/prompts_dataset.py"
    spec = importlib.util.spec_from_file_location("prompts_dataset", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    data = SimpleNamespace(input_key="prompt", label_key="label", apply_chat_template=True)
    strategy = SimpleNamespace(args=SimpleNamespace(data=data), is_rank_0=lambda: False)
    server_side = RolloutTokenizer(bundled_tokenizer, system_prompt=DEFAULT_SYSTEM_PROMPT)
    for rows in (prepared.train, prepared.eval):
        dataset = module.PromptDataset(rows, bundled_tokenizer, strategy)
        assert len(dataset) == len(rows)
        for row, (source, prompt, label, images) in zip(rows, dataset, strict=True):
            assert (source, label, images) == (row["datasource"], row["label"], None)
            text = row["prompt"][-1]["content"]
            assert prompt == render_prompt(bundled_tokenizer, text, DEFAULT_SYSTEM_PROMPT)
            assert not server_side.has_other_frame(prompt)


def test_the_files_load_as_openrlhf_loads_them(prepared: SimpleNamespace, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    for name, rows in (("train", prepared.train), ("eval", prepared.eval)):
        loaded = datasets.load_dataset(
            "json", data_files=str(prepared.output / f"{name}.jsonl"), cache_dir=str(tmp_path)
        )["train"]
        assert list(loaded) == rows


def test_questions_are_joined_to_the_instruction_as_in_the_paper(
    prepared: SimpleNamespace,
) -> None:
    joiners = {"gsm8k": " ", "math": " ", "gsm_symbolic": " ", "prontoqa": " "}
    for row in [*prepared.train, *prepared.eval]:
        system, user = row["prompt"]
        assert system == {"role": "system", "content": DEFAULT_SYSTEM_PROMPT}
        joiner = joiners.get(row["datasource"], "\n")
        assert user["content"].endswith(joiner + INSTRUCTION)


def test_no_system_prompt(folders: SimpleNamespace, tmp_path: Path) -> None:
    assert prepare(tmp_path, folders, "--system-prompt", "") == 0
    assert {len(row["prompt"]) for row in rows_of(tmp_path / "train.jsonl")} == {1}


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_finished_parts_are_not_made_again(
    folders: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    made: list[str] = []

    def interrupted(benchmark: Any, data_dir: Path | None) -> Any:
        if (benchmark.name, benchmark.source.split) == ("math", "train"):
            raise KeyboardInterrupt
        made.append(benchmark.name)
        return load_problems(benchmark, data_dir)

    monkeypatch.setattr(prepare_data, "load_problems", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare(output, folders)
    assert len(made) == 7 + 1
    assert not (output / "train.jsonl").exists()
    # What an interruption during writing leaves behind.
    (output / "parts/train-math.jsonl.partial").write_text('{"half')

    made.clear()

    def noted(benchmark: Any, data_dir: Path | None) -> Any:
        made.append(benchmark.name)
        return load_problems(benchmark, data_dir)

    monkeypatch.setattr(prepare_data, "load_problems", noted)
    assert prepare(output, folders) == 0
    assert made == ["math", "numinamath"]
    before = files_of(output)
    assert not any("partial" in name for name in before)
    made.clear()
    assert prepare(output, folders) == 0
    assert made == []
    assert files_of(output) == before
    assert prepare(output, folders, "--cap", "100") == 0
    assert made == ["gsm8k", "math", "numinamath"]
    counts = json.loads((output / "manifest.json").read_text())["train"]
    assert counts["gsm8k"]["num_problems"] == 100


def test_a_changed_file_is_read_again(folders: SimpleNamespace, tmp_path: Path) -> None:
    changing = SimpleNamespace(train=tmp_path / "train", bench=folders.bench)
    changing.train.mkdir()
    for name in ("math", "openr1"):
        (changing.train / f"{name}.jsonl").symlink_to(folders.train / f"{name}.jsonl")
    gsm8k = rows_of(folders.train / "gsm8k.jsonl")
    for count in (30, 20):
        write_rows(changing.train / "gsm8k.jsonl", gsm8k[:count])
        assert prepare(tmp_path / "out", changing) == 0
        manifest = json.loads((tmp_path / "out/manifest.json").read_text())
        assert manifest["train"]["gsm8k"]["num_problems"] == count
