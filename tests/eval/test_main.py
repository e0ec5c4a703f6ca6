"""`python -m eval`: its commands, what they import, and what they say of a wrong one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from eval.__main__ import main
from eval.benchmarks import BENCHMARKS
from eval.run.prompts import PROMPT_STYLES, choose_prompt_style
from sar.prompts import DEFAULT_SYSTEM_PROMPT, INSTRUCTION

ROOT = Path(__file__).parents[2]


def test_list_names_source_and_licence_of_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    paragraphs = capsys.readouterr().out.split("\n\n")
    assert len(paragraphs) == len(BENCHMARKS) == 8
    for paragraph, benchmark in zip(paragraphs, BENCHMARKS.values(), strict=True):
        assert paragraph.startswith(benchmark.name)
        assert benchmark.licence in paragraph
        assert benchmark.is_built_in or f"datasets/{benchmark.source.hub_id}" in paragraph


@pytest.mark.parametrize("command", ["run", "list"])
def test_help_of_a_command(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exited:
        main([command, "--help"])
    assert exited.value.code == 0
    assert f"python -m eval {command}" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["walk"], ["--output", "x"]])
def test_a_command_that_is_none(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exited:
        main(arguments)
    assert exited.value.code == 2
    assert "usage: python -m eval" in capsys.readouterr().err


def test_help_and_mistakes_load_nothing_heavy() -> None:
    script = (
        "import sys\n"
        "from eval.__main__ import main\n"
        "try:\n main(['run', '--help'])\n"
        "except SystemExit:\n pass\n"
        "heavy = {'torch', 'transformers', 'vllm', 'openai', 'datasets', 'sympy', 'scipy'}\n"
        "print('loaded:', *(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.splitlines()[-1].strip() == "loaded:"


def test_the_papers_prompt_is_the_default_style() -> None:
    style = choose_prompt_style("paper")
    assert (style.system_prompt, style.instruction) == (DEFAULT_SYSTEM_PROMPT, INSTRUCTION)
    assert style.format_user_turn("1+1?", " ") == f"1+1? {INSTRUCTION}"
    assert style.format_user_turn("1+1?", "\n") == f"1+1?\n{INSTRUCTION}"
    joiners = {name: benchmark.joiner for name, benchmark in BENCHMARKS.items()}
    by_space = {name for name, joiner in joiners.items() if joiner == " "}
    assert by_space == {"gsm8k", "gsm_symbolic", "math", "prontoqa", "demo"}
    assert {joiners[name] for name in joiners.keys() - by_space} == {"\n"}


def test_other_styles_and_parts_of_ones_own() -> None:
    assert choose_prompt_style("bare").format_user_turn("1+1?", "\n") == "1+1?"
    assert r"\boxed{}" in choose_prompt_style("boxed").format_user_turn("1+1?", "\n")
    assert all(not PROMPT_STYLES[name].system_prompt for name in ("bare", "boxed"))
    mixed = choose_prompt_style("paper", "", "Go.")
    assert (mixed.system_prompt, mixed.instruction) == ("", "Go.")
