"""The settings of a run and their flags."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from eval.run.config import FIXED_SETTINGS, RunConfig, parse_args


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--n", "2"], "--n 2 with --temperature 0"),
        (["--n", "0"], "'0' is not a whole number of at least 1"),
        (["--temperature", "nan"], "'nan' is not a number from 0 to 10"),
        (["--top-p", "0"], "'0' is not a number"),
        (["--benchmarks", "gsm9k"], "no benchmark 'gsm9k'"),
        (["--backend", "openai"], "needs --base-url"),
        (["--base-url", "http://x"], "only with --backend openai"),
        (["--backend", "vllm", "--device", "cpu"], "--device cpu: not with vllm"),
        (["--data-dir", "/nowhere"], "--data-dir /nowhere: no such folder"),
        (["--model", "./nowhere"], "--model ./nowhere: no such folder"),
        (["--prompt-style", "x"], "invalid choice: 'x'"),
    ],
)
def test_wrong_flags(
    flags: list[str], complaint: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with pytest.raises(SystemExit) as exited:
        parse_args(["--output", str(tmp_path), *flags])
    assert exited.value.code == 2
    assert complaint in capsys.readouterr().err


def test_every_setting_is_a_flag_with_help_and_its_default(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        parse_args(["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    for setting in fields(RunConfig):
        assert f" --{setting.name.replace('_', '-')} " in shown.replace(",", " ")
    assert "maximum length of a response (default: 4096)" in shown
    assert "0 is greedy (default: 0.0)" in shown


def test_defaults_are_those_of_the_class(tmp_path: Path) -> None:
    assert parse_args(["--output", str(tmp_path)]) == RunConfig(tmp_path)


def test_settings_that_define_a_run() -> None:
    free = {f.name for f in fields(RunConfig)} - set(FIXED_SETTINGS)
    assert free == {
        "output", "data_dir", "system_prompt", "instruction", "device", "batch_size",
        "tensor_parallel_size", "trust_remote_code", "base_url", "concurrency", "max_retries",
        "timeout", "grader_workers", "grader_timeout",
    }  # fmt: skip
