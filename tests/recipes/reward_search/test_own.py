"""Screening with one's own model and data: flags, rows, settings, places and commands."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch

from eval.errors import UserError
from recipes.reward_search import __main__ as command
from recipes.reward_search.generators.base import Slot
from recipes.reward_search.generators.prompt import make_prompt as make_generator_prompt
from recipes.reward_search.own.data import draw_rows, make_prompt, read_train_data
from recipes.reward_search.own.gpus import Places, list_gpus
from recipes.reward_search.own.policy import Policy, check_own, check_weights
from recipes.reward_search.own.screener import OwnScreener
from recipes.reward_search.rewards import CONTROLS
from recipes.reward_search.settings import OwnSettings, SearchSettings
from recipes.reward_search.state import load_search, open_search
from recipes.training_run.run import arm_from_file
from recipes.training_run.trainer import TrainerSettings
from sar.models import BUNDLED_MODEL
from sar.prompts import render_prompt

SYSTEM = {"role": "system", "content": "Be brief."}
USER = {"role": "user", "content": "1 + 2?"}
GSM8K = {"question": "1 + 2?", "answer": "So #### 3"}


def make_row(label: Any = "3", prompt: Any = (SYSTEM, USER)) -> dict[str, Any]:
    return {"prompt": list(prompt), "label": label, "datasource": "x"}


def write_rows(file: Path, *rows: Any) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture
def own(tmp_path: Path) -> OwnSettings:
    """Settings that can be used, of the bundled model."""
    data = write_rows(tmp_path / "train.jsonl", *(make_row(str(n)) for n in range(20)))
    return OwnSettings(str(BUNDLED_MODEL), str(data), "demo", max_tokens=64)


def complain(own: OwnSettings, num_problems: int = 8) -> str:
    with pytest.raises(UserError) as caught:
        check_own(own, num_problems)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_checked_is_what_is_trained_on(own: OwnSettings) -> None:
    policy = check_own(replace(own, benchmarks="demo, demo"), 8)
    assert policy.folder == BUNDLED_MODEL
    assert policy.system_prompt == "Be brief."
    assert policy.settings == replace(
        own, train_data_sha256=hashlib.sha256(Path(own.train_data).read_bytes()).hexdigest()
    )
    check_weights(policy)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--policy", "P"], "--policy P: needs --train-data and --benchmarks too"),
        (["--train-data", "T"], "--train-data T: needs --policy and --benchmarks too"),
        (["--benchmarks", "demo", "--policy", "P"], "needs --train-data too"),
        (["--max-tokens", "9"], "--max-tokens 9: needs --policy and --train-data and --benchm"),
        (["--eval-problems", "201"], "--eval-problems 201: the demo's benchmark has 200"),
        (
            [*("--policy", "P", "--train-data", "T", "--benchmarks", "demo"),
             *("--prompts-per-step", "3", "--n-samples", "2", "--micro-batch-size", "4")],
            "--micro-batch-size 4: does not divide the 6 responses of a step",
        ),
        (
            ["--policy", "P", "--train-data", "gone.jsonl", "--benchmarks", "demo"],
            "--train-data gone.jsonl: cannot be read: No such file",
        ),
    ],
)  # fmt: skip
def test_flags_that_do_not_fit(
    flags: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    argv = ["run", "--generator", "grammar", "--output", str(output), *flags]
    assert command.main(argv) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not output.exists()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": [USER]}, "not a row of prepare_data.py"),
        ({"label": "3"}, "not a row of prepare_data.py"),
        (make_row(prompt=()), "not a row of prepare_data.py"),
        (make_row(""), "label"),
        (make_row({"answer": "3", "grader": "maths"}), "maths"),
        (make_row({"answer": "3", "mode": "eval"}), "every reward would be correctness alone"),
        (make_row(prompt=(SYSTEM, USER, USER)), "roles system, user, user; it must be"),
        (make_row(prompt=(USER,)), "its system prompt is not that of line 1"),
    ],
)
def test_a_row_that_cannot_be_trained_on_is_named(row: Any, message: str, tmp_path: Path) -> None:
    file = write_rows(tmp_path / "train.jsonl", make_row(), make_row(), row, make_row())
    with pytest.raises(UserError) as caught:
        read_train_data(str(file))
    assert str(caught.value).startswith(f"--train-data {file}, line 3: ")
    assert message in str(caught.value)


def test_rows_keep_their_labels(tmp_path: Path) -> None:
    label = {"answer": "B", "choices": ["1", "3"]}
    file = write_rows(tmp_path / "train.jsonl", make_row('{"answer": "3"}'), make_row(label))
    data = read_train_data(str(file))
    assert [one.question for one in data.rows] == ["1 + 2?"] * 2
    assert data.rows[0].label == '{"answer": "3"}'
    assert json.loads(data.rows[1].label) == label
    without = read_train_data(str(write_rows(tmp_path / "other.jsonl", make_row(prompt=[USER]))))
    assert without.system_prompt == ""


def test_too_few_rows(own: OwnSettings) -> None:
    said = complain(replace(own, prompts_per_step=21))
    assert said == (
        f"--train-data {own.train_data}: has 20 prompts, and a step takes 21 (--prompts-per-step)"
    )


@pytest.mark.parametrize(
    ("names", "files", "message"),
    [
        ("demo,gsm9k", {}, "--benchmarks demo,gsm9k: no benchmark 'gsm9k'; choose from all, gsm8k"),
        ("gsm8k", {}, "gsm8k: no file "),
        ("gsm8k", {"gsm8k": [GSM8K] * 3}, "--benchmarks gsm8k: has 3 problems; a search needs 4"),
        ("gsm8k", {"gsm8k": [{"question": "?"}]}, "gsm8k.jsonl, line 1, field 'answer'"),
    ],
)
def test_a_benchmark_that_cannot_be_used(
    own: OwnSettings, names: str, files: dict[str, list[Any]], message: str, tmp_path: Path
) -> None:
    for name, rows in files.items():
        write_rows(tmp_path / f"{name}.jsonl", *rows)
    assert message in complain(replace(own, benchmarks=names, benchmark_dir=str(tmp_path)))


def test_no_such_folder_of_benchmarks(own: OwnSettings) -> None:
    assert "--benchmark-dir gone: no such" in complain(replace(own, benchmark_dir="gone"))


def test_a_model_that_cannot_be_fetched(own: OwnSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("404: no such repository\nand much more")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    said = complain(replace(own, policy="nobody/nothing"))
    assert said == (
        "--policy nobody/nothing is no folder, and cannot be fetched from the hub: "
        "404: no such repository"
    )


def test_a_model_on_the_hub_is_known_by_its_commit(
    own: OwnSettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    snapshot = tmp_path / "snapshots" / "c0ffee"
    shutil.copytree(BUNDLED_MODEL, snapshot)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(snapshot))
    policy = check_own(replace(own, policy="somebody/something"), 8)
    assert policy.folder == snapshot
    assert policy.settings.policy == "somebody/something"
    assert policy.settings.policy_revision == "c0ffee"


def test_a_folder_without_a_model(own: OwnSettings, tmp_path: Path) -> None:
    assert f"--policy {tmp_path}: cannot be loaded: " in complain(
        replace(own, policy=str(tmp_path))
    )


def test_a_response_must_leave_room_for_the_prompt(own: OwnSettings) -> None:
    assert complain(replace(own, max_tokens=1024)) == (
        f"--max-tokens 1024: the context of {BUNDLED_MODEL} is 1024 tokens, and prompts need some "
        "of them"
    )


def test_weights_are_loaded_before_a_search_is_begun(
    own: OwnSettings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(BUNDLED_MODEL, broken)
    (broken / "model.safetensors").write_bytes(b"\0" * 100)
    output = tmp_path / "out"
    argv = ["run", "--generator", "grammar", "--output", str(output), "--policy", str(broken)]
    argv += ["--train-data", own.train_data, "--benchmarks", "demo", "--max-tokens", "64"]
    assert command.main(argv) == 2
    error = capsys.readouterr().err
    assert f"--policy {broken}: cannot be loaded: " in error
    assert error.count("\n") == 1
    assert not (output / "search.json").exists()


def test_settings_come_back_and_must_be_the_same(own: OwnSettings, tmp_path: Path) -> None:
    settings = SearchSettings("grammar", own=own)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    open_search(tmp_path / "a", settings)
    assert load_search(tmp_path / "a").settings == settings
    open_search(tmp_path / "a", settings)
    for change, message in (
        ({"max_tokens": 65}, "max_tokens = 64, not 65"),
        ({"benchmarks": "gsm8k"}, "benchmarks = demo, not gsm8k"),
        ({"train_data_sha256": "1"}, "train_data_sha256 = , not 1"),
    ):
        with pytest.raises(UserError, match=message):
            open_search(tmp_path / "a", replace(settings, own=replace(own, **change)))
    with pytest.raises(UserError, match=f"policy = {BUNDLED_MODEL}, not None"):
        open_search(tmp_path / "a", replace(settings, own=None))
    open_search(tmp_path / "b", replace(settings, own=None))
    with pytest.raises(UserError, match=f"policy = None, not {BUNDLED_MODEL}"):
        open_search(tmp_path / "b", settings)


def test_a_search_of_an_earlier_version_goes_on(tmp_path: Path) -> None:
    settings = SearchSettings("grammar")
    open_search(tmp_path, settings)
    file = tmp_path / "search.json"
    values = json.loads(file.read_text())
    del values["settings"]["own"]
    file.write_text(json.dumps(values))
    assert open_search(tmp_path, settings).settings == settings


def test_defaults_of_the_two_kinds(own: OwnSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[SearchSettings] = []

    def stop_here(settings: SearchSettings) -> None:
        seen.append(settings)
        raise UserError("enough")

    monkeypatch.setattr("recipes.reward_search.generators.choose.make_generator", stop_here)
    argv = ["run", "--generator", "grammar", "--output", "unused"]
    flags = ["--policy", own.policy, "--train-data", own.train_data, "--benchmarks", "demo"]
    for more in ([], [*flags, "--max-tokens", "64"], ["--learning-rate", "0.01"]):
        assert command.main([*argv, *more]) == 2
    demo, mine, faster = seen
    assert demo == SearchSettings("grammar")
    assert mine.learning_rate == 1e-6
    assert mine.own == check_own(own, 200).settings
    assert faster.learning_rate == 0.01


def test_every_seed_has_its_own_order(tmp_path: Path) -> None:
    rows = [make_row(str(n)) for n in range(7)]
    data = read_train_data(str(write_rows(tmp_path / "train.jsonl", *rows)))
    drawn = draw_rows(data.rows, 17, seed=3)
    assert drawn == draw_rows(data.rows, 17, seed=3)
    assert drawn != draw_rows(data.rows, 17, seed=4)
    assert len(drawn) == 17
    for start in (0, 7):
        assert {one.label for one in drawn[start : start + 7]} == {str(n) for n in range(7)}


@pytest.mark.parametrize("system_prompt", ["", "Be brief."])
def test_training_and_evaluation_have_the_same_prompts(
    bundled_tokenizer: Any, system_prompt: str
) -> None:
    messages = make_prompt(bundled_tokenizer, "1 + 2?", system_prompt)
    assert not isinstance(messages, str)
    text = bundled_tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True
    )
    assert text == render_prompt(bundled_tokenizer, "1 + 2?", system_prompt)


def test_each_run_has_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert list_gpus() == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5, GPU-abc")
    assert list_gpus() == ["5", "GPU-abc"]
    places = Places(list_gpus(), 2)
    assert places.on_gpu
    with places.take() as one, places.take() as two:
        assert {one["CUDA_VISIBLE_DEVICES"], two["CUDA_VISIBLE_DEVICES"]} == {"5", "GPU-abc"}
    shared = Places(list_gpus(), 4)
    assert shared.trainer_memory_share == places.trainer_memory_share / 2
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert list_gpus() == []


def test_without_a_gpu_runs_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    places = Places([], 2)
    assert not places.on_gpu
    with places.take() as environ:
        assert environ["OMP_NUM_THREADS"] == "4"
        assert "CUDA_VISIBLE_DEVICES" not in environ


@pytest.mark.parametrize("gpus", [["3"], []])
def test_the_commands_of_a_run(own: OwnSettings, gpus: list[str], tmp_path: Path) -> None:
    settings = SearchSettings(
        "grammar", steps=7, learning_rate=1e-6, eval_problems=40, eval_samples=3, own=own
    )
    policy = Policy(replace(own, benchmark_dir="/b"), BUNDLED_MODEL, "-- Be brief.")
    screener = OwnScreener(tmp_path, settings, policy, Places(gpus, 1))
    made = screener.make_commands(CONTROLS[1], {"A": "1"})
    assert made.environ == {"A": "1"}
    assert made.train[:4] == ("-m", "recipes.reward_search.own.train", "--sar-weight", "0.2")
    trainer = TrainerSettings(**json.loads(made.train[made.train.index("--settings") + 1]))
    assert asdict(trainer) == {
        "num_steps": 7,
        "prompts_per_step": 16,
        "rollouts_per_prompt": 6,
        "learning_rate": 1e-6,
        "max_response_tokens": 64,
        "save_every_steps": 5,
        "micro_batch_size": 6,
        "on_gpu": bool(gpus),
        "gradient_checkpointing": True,
    }
    for flags in (made.server, made.evaluate):
        assert "--system-prompt=-- Be brief." in flags
        assert ("bfloat16" in flags) == bool(gpus)
    text = " ".join(made.evaluate)
    for part in ("--benchmarks demo --data-dir /b", "--limit 40 --n 3", "--max-tokens 64"):
        assert part in text
    file = tmp_path / "r1c01.toml"
    made = screener.make_commands(arm_from_file(file, "a candidate"), {})
    assert made.train[2:4] == ("--reward", str(file))


def test_the_generator_is_told_the_benchmarks_and_nothing_private(own: OwnSettings) -> None:
    text = make_generator_prompt(
        Slot("r1c01", 1, 1), 7, [], "aes", replace(own, benchmarks="gsm8k,aime", n_samples=9)
    )
    assert "gsm8k (grade-school word problems); aime (AIME 1983-2024)." in text
    assert "it writes 9 responses" in text
    assert "A response has at most 64 tokens." in text
    assert own.policy not in text
    assert own.train_data not in text
    for demo in ("Answer: N", "remarks", "about 60 tokens"):
        assert demo not in text


def test_the_report_says_what_was_used(
    standin: Any, small: SearchSettings, own: OwnSettings, tmp_path: Path
) -> None:
    settings = replace(small, rounds=1, own=own)
    folder = tmp_path / "search"
    standin.run_search(folder, standin.StandInScreener(folder, settings))
    said = f"Policy: {own.policy}, trained on {own.train_data}. Benchmarks: demo."
    report = (folder / "report.html").read_text()
    assert said in report
    assert "max tokens: <bdi>64</bdi>" in report
    assert json.loads((folder / "results.json").read_text())["own"] == asdict(own)
