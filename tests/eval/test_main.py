"""`python -m eval`: its commands, what they import, and unknown commands."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from eval.__main__ import main
from eval.benchmarks import BENCHMARKS

ROOT = Path(__file__).parents[2]


def test_list_names_source_and_licence_of_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    paragraphs = capsys.readouterr().out.split("\n\n")
    assert len(paragraphs) == len(BENCHMARKS) == 8
    for paragraph, benchmark in zip(paragraphs, BENCHMARKS.values(), strict=True):
        assert paragraph.startswith(benchmark.name)
        assert benchmark.licence in paragraph
        assert benchmark.is_built_in or f"datasets/{benchmark.source.hub_id}" in paragraph


@pytest.mark.parametrize("command", ["run", "compare", "contamination", "list"])
def test_help_of_a_command(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exited:
        main([command, "--help"])
    assert exited.value.code == 0
    assert f"python -m eval {command}" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["walk"], ["--output", "x"]])
def test_an_unknown_command(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exited:
        main(arguments)
    assert exited.value.code == 2
    assert "usage: python -m eval" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["run", "compare", "contamination"])
def test_help_and_mistakes_load_nothing_heavy(command: str) -> None:
    script = (
        "import sys\n"
        "from eval.__main__ import main\n"
        "try:\n main([sys.argv[1], '--help'])\n"
        "except SystemExit:\n pass\n"
        "heavy = {'torch', 'transformers', 'vllm', 'openai', 'datasets', 'sympy', 'scipy'}\n"
        "print('loaded:', *(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=600,
    )
    assert done.stdout.splitlines()[-1].strip() == "loaded:"
