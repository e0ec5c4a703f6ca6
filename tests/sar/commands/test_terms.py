"""`python -m sar terms`: the list, a reward file's check, the tables of a page, instant help."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest

from sar.__main__ import main
from sar.terms.candidate.batch import load_batch
from sar.terms.registry import TERMS

ROOT = Path(__file__).parents[3]


def run(*arguments: str | Path) -> int:
    return main(["terms", *map(str, arguments)])


def test_all_terms_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 0
    blocks = capsys.readouterr().out.split("\n\n")
    assert [block.split("\n")[0] for block in blocks] == list(TERMS)
    for block, kind in zip(blocks, TERMS.values(), strict=True):
        words = " ".join(block.split())
        for text in (kind.formula, kind.bounds, kind.source):
            assert " ".join(text.split()) in words
        for option in getattr(kind, "__pydantic_fields__", {}):
            assert f" {option} = " in words


def test_options_have_their_default_and_meaning(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("overlong", "target_length", "kimi_length") == 0
    words = " ".join(capsys.readouterr().out.split())
    assert "max_tokens = required. From this length on, the term is -1." in words
    assert 'form = "exact". Which of L1\'s two rewards.' in words
    assert "alpha = 0.0003. Reward of one token." in words
    assert "target_tokens = not set. The target of prompts" in words
    assert "L1-Max is this instead of correctness." in words  # a detail
    assert words.count("needs group_size in the reward file") == 1


def test_lines_fit_the_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "70")
    assert run() == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 70


def test_an_unknown_term_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("copyd") == 2
    assert capsys.readouterr().err.startswith("error: 'copyd' is unknown; known: correctness, ")


def test_a_reward_file_is_shown_as_a_sum(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "reward.toml"
    file.write_text(
        'group_size = 4\nnormalize = "gdpo"\n[[terms]]\nterm = "correctness"\n'
        '[[terms]]\nterm = "o1_pruner"\nname = "short"\nweight = -0.25\nonly_if = "correct"\n'
    )
    assert run("--check", file) == 0
    assert capsys.readouterr().out == (
        "reward = 1 x correctness\n"
        "       - 0.25 x short, if the answer is correct\n"
        "rollouts of a prompt: 4\n"
        "each term is normalised in its group before the sum (GDPO)\n"
    )


def test_a_check_says_what_each_label_needs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "reward.toml"
    file.write_text('[[terms]]\nterm = "target_length"\nname = "near"\n')
    assert run("--check", file) == 0
    assert capsys.readouterr().out == (
        "reward = 1 x near\n"
        "note: term 'near': each label needs \"target_tokens\", or set it in the reward file for "
        "all\n"
    )
    file.write_text('[[terms]]\nterm = "target_length"\ntarget_tokens = 512\n')
    assert run("--check", file) == 0
    assert capsys.readouterr().out == "reward = 1 x target_length\n"


def test_a_wrong_reward_file_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "reward.toml"
    file.write_text('[[terms]]\nterm = "sarr"\n')
    assert run("--check", file) == 2
    errors = capsys.readouterr().err
    assert errors.startswith(f"error: {file}: terms[1] 'sarr' is unknown")
    assert errors.count("\n") == 1


def test_a_reward_file_of_another_ending(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "short.txt"
    file.write_text("def reward(sample):\n    return 1.0\n")
    assert run("--check", file) == 2
    error = capsys.readouterr().err
    assert error.endswith("; give a reward file (.toml) or a candidate (.py)\n")
    assert error.count("\n") == 1
    file.write_text('[[terms]]\nterm = "correctness"\n')
    assert run("--check", file) == 0


def test_a_page_gets_the_tables_between_its_markers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    start, end = (
        line
        for line in (ROOT / "docs/rewards.md").read_text(encoding="utf-8").splitlines()
        if line.startswith("<!--")
    )
    page.write_text(f"# Before\n\n{start}\nwritten before\n{end}\nAfter.\n")
    assert run("--update", page) == 0
    text = page.read_text(encoding="utf-8")
    assert text.startswith(f"# Before\n\n{start}\n")
    assert text.endswith(f"{end}\nAfter.\n")
    assert "written before" not in text
    assert all(f"| `{name}` | " in text for name in TERMS)
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert {line.replace(r"\|", "").count("|") for line in rows} == {7}
    assert run("--update", page) == 0
    assert page.read_text(encoding="utf-8") == text
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("text", ["no marker", None])
def test_a_page_that_cannot_be_updated_stays(
    text: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    if text is not None:
        page.write_text(text)
    assert run("--update", page) == 2
    assert capsys.readouterr().err.startswith(f"error: {page}: ")
    assert (page.read_text() if page.exists() else None) == text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--check", "a", "--update", "b"], "not allowed with"),
        (["sar", "--check", "a"], "a term's name cannot be combined"),
        (["--check", "a.py", "b.py"], "--check takes one file; leave out 'b.py'"),
        (["--all"], "unrecognized arguments: --all"),
    ],
)
def test_wrong_arguments_are_an_error(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        run(*arguments)
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err


def test_help_loads_no_library() -> None:
    code = (
        "import sys\nfrom sar.__main__ import main\n"
        "try:\n    main(['terms', '--help'])\nexcept SystemExit:\n    pass\n"
        "print({'pydantic', 'numpy', 'torch', 'transformers', 'regex'} & set(sys.modules))"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert "--check FILE" in shown
    assert shown.splitlines()[-1] == "set()"


def test_the_list_loads_no_model_library() -> None:
    code = (
        "import sys\nfrom sar.__main__ import main\nmain(['terms'])\n"
        "print({'torch', 'transformers', 'sympy'} & set(sys.modules))"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert shown.splitlines()[-1] == "set()"


@pytest.fixture(scope="module")
def few_problems() -> Iterator[None]:
    """Candidates are tried on one batch of a few problems."""
    with mock.patch("sar.terms.candidate.batch.load_batch", return_value=load_batch(3)):
        yield


@pytest.mark.parametrize(
    ("code", "status", "expected"),
    [
        ("return 1.0 if sample['correct'] else 0.1 * sample['sar']", 0, "accepted: over "),
        ("return 0.5", 1, "rejected (constant): it returns 0.5 for all "),
        ("return sample['response_tokens'] / 100", 1, "rejected ("),
        ("return open('x')", 1, "rejected (source): line 2: "),
    ],
)
def test_a_candidate_is_tried(
    code: str,
    status: int,
    expected: str,
    tmp_path: Path,
    few_problems: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "candidate.py"
    file.write_text(f"def reward(sample):\n    {code}\n")
    assert run("--check", file) == status
    assert capsys.readouterr().out.startswith(expected)


def test_a_candidate_that_is_not_there_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--check", tmp_path / "missing.py") == 2
    assert capsys.readouterr().err == f"error: {tmp_path}/missing.py: No such file or directory\n"


def test_a_source_that_is_refused_loads_no_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sar.terms.candidate.batch.load_batch", None)  # a call would fail
    file = tmp_path / "candidate.py"
    file.write_text("import os\n")
    assert run("--check", file) == 1
    assert capsys.readouterr().out.startswith("rejected (source): line 1: `import os` is not allow")
