"""`term = "candidate:FILE.py"` in a reward file."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from sar.grading.label import parse_label
from sar.grading.verdict import Reason, Verdict
from sar.reward import Likelihood
from sar.terms.base import Sample, TermError
from sar.terms.candidate import sandbox
from sar.terms.candidate.term import CandidateTerm
from sar.terms.reward_file import RewardFileError, read_reward_file

SHORT = """
import math

def reward(sample):
    if not sample["correct"]:
        return -0.5
    return 1.0 - 0.1 * math.tanh(sample["response_tokens"] / 100) + 0.2 * sample["sar"]
"""
FAILS_ON_NINE = "def reward(s): return 1 / (0 if '9' in s['response'] else 2)"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "short.py").write_text(SHORT)
    path = tmp_path / "reward.toml"
    path.write_text('[[terms]]\nterm = "candidate:short.py"\nweight = 2\n')
    return path


def make_sample(response: str, *, is_right: bool) -> Sample:
    verdict = Verdict(Reason.CORRECT if is_right else Reason.WRONG)
    likelihood = Likelihood(0.5, 0.75, len(response.split()) + 1, False)
    return Sample("2 + 3?", response, parse_label("5"), verdict, likelihood)


def test_a_candidate_is_a_term(file: Path) -> None:
    composition = read_reward_file(file)
    (one,) = composition.terms
    assert (one.name, one.weight, composition.formula) == ("short", 2.0, "2 short")
    assert one.term == CandidateTerm(SHORT)
    right, wrong = make_sample("It is 5", is_right=True), make_sample("It is 6", is_right=False)
    # 1 - 0.1 tanh(4 / 100) + 0.2 (1 - exp(-0.25)), by hand
    assert composition.score(right)["short"] == pytest.approx(1.0402420)
    assert composition.score(wrong) == {"short": -0.5}
    scores = [composition.score(right), composition.score(wrong)]
    assert composition.combine([right, wrong], scores) == pytest.approx([2.0804840, -1.0])


def test_the_file_is_found_from_the_reward_files_folder(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert read_reward_file(file).terms[0].name == "short"
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "Other.py").write_text(SHORT)
    file.write_text('[[terms]]\nterm = "candidate:inner/Other.py"\n')
    assert read_reward_file(file).terms[0].name == "other"
    file.write_text(f'[[terms]]\nterm = "candidate:{tmp_path}/short.py"\nname = "mine"\n')
    assert read_reward_file(file).terms[0].name == "mine"


def test_a_rollout_on_which_it_fails_has_no_reward(file: Path) -> None:
    (file.parent / "short.py").write_text(FAILS_ON_NINE)
    composition = read_reward_file(file)
    assert composition.score(make_sample("It is 5", is_right=True)) == {"short": 0.5}
    with pytest.raises(TermError, match=r"term 'short' failed: .*line 1: ZeroDivisionError"):
        composition.score(make_sample("It is 9", is_right=True))
    assert composition.score(make_sample("It is 5", is_right=True)) == {"short": 0.5}


REFUSED = {
    "def reward(s):\n    return open('x')": "line 2: 'open' is not allowed; there are no files",
    "import os\ndef reward(s): return 1": "line 1: `import os` is not allowed",
    "def reward(s): return 1 / s['response_tokens']": "line 1: ZeroDivisionError",
    "def reward(s):\n    while True: pass": "took longer than 0.25 s",
    "def reward(s): return True": "reward returned a bool",
    "def reward(s): return 11": "reward returned 11; it must lie between -10 and 10",
    "": "there is no `def reward(sample):`",
    "#" * 50_000: "longer than 10,000 characters; not a candidate",
}


@pytest.mark.parametrize(("source", "message"), REFUSED.items(), ids=range(len(REFUSED)))
def test_a_bad_candidate_is_one_line(file: Path, source: str, message: str) -> None:
    (file.parent / "short.py").write_text(source)
    with pytest.raises(RewardFileError) as caught:
        read_reward_file(file)
    assert str(caught.value).startswith(f"{file}: terms[1] 'candidate:short.py': ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_one_line(file: Path) -> None:
    def read() -> str:
        with pytest.raises(RewardFileError) as caught:
            read_reward_file(file)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    short = file.parent / "short.py"
    short.write_bytes(b"\xff\xfe")
    assert "short.py: not a text in UTF-8" in read()
    short.unlink()
    assert "short.py: No such file or directory" in read()
    short.mkdir()
    assert "short.py: Is a directory" in read()
    short.rmdir()
    os.mkfifo(short)
    assert "short.py: a pipe or a device, not a file" in read()
    file.write_text('[[terms]]\nterm = "candidate:"\n')
    assert "Is a directory" in read()
    file.write_text('[[terms]]\nterm = "candidate:a\\u0000b"\n')
    assert "null byte" in read()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("limit = 3", "'limit' is unknown; known: term, name, weight, only_if"),
        ("wieght = 3", "'wieght' is unknown; did you mean 'weight'?"),
        ("group_size = 3", "put group_size above the first [[terms]]"),
        ('name = "Not a name"', "'Not a name'"),
    ],
)
def test_an_option_is_refused(file: Path, line: str, message: str) -> None:
    file.write_text(f"{file.read_text()}{line}\n")
    with pytest.raises(RewardFileError) as caught:
        read_reward_file(file)
    assert message in str(caught.value)


def test_a_file_name_that_is_no_name_needs_one(file: Path) -> None:
    (file.parent / "short.py").rename(file.parent / "3-short.py")
    file.write_text('[[terms]]\nterm = "candidate:3-short.py"\n')
    with pytest.raises(RewardFileError, match=r"the file's name '3-short' cannot .*; set `name`"):
        read_reward_file(file)


def test_without_the_package_the_line_says_what_to_install(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "_pools", {})
    monkeypatch.setitem(sys.modules, "pydantic_monty", None)
    with pytest.raises(RewardFileError, match=r"candidate:short.py.*pip install .*search"):
        read_reward_file(file)
