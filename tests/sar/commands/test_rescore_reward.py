"""`python -m sar rescore --reward`: its report, its output file and its errors."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sar.__main__ import main
from sar.decision import Decision
from sar.grading.verdict import Reason
from sar.rescore import read_log

if TYPE_CHECKING:
    from tests.sar.commands.conftest import Rescore, WriteLog

ROOT = Path(__file__).parents[3]
PLAIN = '[[terms]]\nterm = "correctness"\n[[terms]]\nterm = "sar"\nweight = 0.4\n'
GDPO = f'group_size = 2\nnormalize = "gdpo"\n{PLAIN}'
HALF = {"nll_qa": 0.0, "nll_a": math.log(2)}  # SAR 0.5
NONE = {"nll_qa": 0.5, "nll_a": 0.5}  # SAR 0


@pytest.fixture
def reward_file(tmp_path: Path) -> Callable[[str], Path]:
    """Writes a reward file; returns its path."""

    def write(text: str) -> Path:
        path = tmp_path / "reward.toml"
        path.write_text(text)
        return path

    return write


@pytest.fixture
def output(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "o.jsonl"


@pytest.fixture
def rescore_under(
    tmp_path: Path,
    rescore: Rescore,
    write_log: WriteLog,
    reward_file: Callable[[str], Path],
    output: Path,
) -> Rescore:
    """Rescores a.jsonl, a log of these decisions, under this reward file, with an output."""

    def run(text: str, *decisions: Decision, options: Sequence[object] = ()) -> Any:
        log = write_log(tmp_path / "a.jsonl", decisions)
        return rescore(log, "--reward", reward_file(text), "--output", output, *options)

    return run


def read_lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_plain_sum(
    decision: Callable[..., Decision], rescore_under: Rescore, output: Path
) -> None:
    status, report, errors = rescore_under(
        PLAIN,
        decision(**HALF),
        decision(reason=Reason.WRONG, **HALF),
        decision(label={"answer": "5", "mode": "eval"}, **HALF),
        decision(**NONE),
    )
    assert (status, errors) == (0, "")
    assert report == (
        "decisions        4\n"
        "rewards changed  2\n"
        "mean reward      0.800000 -> 0.850000\n"
        "right -> wrong   0\n"
        "wrong -> right   0\n"
        "mean correctness  0.666667\n"
        "mean sar         0.333333\n"
    )
    rows = read_lines(output)
    assert [row["reward"] for row in rows] == [1.2, 0.2, 1.0, 1.0]
    assert [row["was"]["reward"] for row in rows] == [1.1, 0.1, 1.0, 1.0]
    assert [row["terms"] for row in rows] == [
        {"correctness": 1.0, "sar": 0.5},
        {"correctness": 0.0, "sar": 0.5},
        {"correctness": 0.0, "sar": 0.0},
        {"correctness": 1.0, "sar": 0.0},
    ]
    assert not any("group" in row or "terms" in row["was"] for row in rows)


def test_groups_in_the_logs_order(
    decision: Callable[..., Decision],
    tmp_path: Path,
    rescore: Rescore,
    write_log: WriteLog,
    reward_file: Callable[[str], Path],
    output: Path,
) -> None:
    """Two interleaved groups in two files, an incomplete one and a rollout without a sibling."""
    a, b, c = ({"prompt": name} for name in "abc")
    write_log(tmp_path / "1.jsonl", [decision(**a, **HALF), decision(**b, **HALF)])
    write_log(
        tmp_path / "2.jsonl",
        [
            decision(**b, **HALF),
            decision(**c),
            decision(**a, reason=Reason.WRONG, **NONE),
            decision(**a, **HALF),
        ],
    )
    file = reward_file(GDPO)
    logs = [tmp_path / "1.jsonl", tmp_path / "2.jsonl"]
    status, report, errors = rescore(*logs, "--reward", file, "--output", output)
    assert (status, errors) == (0, "")
    assert report.splitlines()[0] == "decisions        4"
    assert report.splitlines()[-3:] == [
        "groups           2",
        "incomplete       0 of fewer than 2 rollouts",
        "left out         2 without a sibling, so without a reward",
    ]
    rows = read_lines(output)
    assert [row["prompt"] for row in rows] == ["a", "b", "b", "a"]
    # Of two values, each is at 1 / sqrt(2) deviations from the mean.
    first = (1 * 0.5) / (math.sqrt(0.5) + 1e-4) + 0.4 * 0.25 / (math.sqrt(0.125) + 1e-4)
    assert [row["reward"] for row in rows] == pytest.approx([first, 0, 0, -first])
    assert rows[0]["group"] == rows[3]["group"] != rows[1]["group"] == rows[2]["group"]

    file.write_text(GDPO.replace("group_size = 2", "group_size = 3"))
    _, report, _ = rescore(*logs, "--reward", file)
    assert report.splitlines()[-3:] == [
        "groups           2",
        "incomplete       1 of fewer than 3 rollouts",
        "left out         1 without a sibling, so without a reward",
    ]


def test_an_output_is_a_log_with_a_reward_file(
    decision: Callable[..., Decision],
    tmp_path: Path,
    rescore: Rescore,
    write_log: WriteLog,
    reward_file: Callable[[str], Path],
    output: Path,
) -> None:
    reasons = [Reason.CORRECT, Reason.WRONG]
    log = write_log(tmp_path / "a.jsonl", [decision(reason=reason, **HALF) for reason in reasons])
    file = reward_file(GDPO)
    rescore(log, "--reward", file, "--output", output)
    before = read_lines(output)

    _, report, _ = rescore(output)
    assert "rewards changed  0" in report
    assert "mean sar         0.500000" in report
    again = tmp_path / "again.jsonl"
    _, report, _ = rescore(output, "--reward", file, "--output", again)
    assert "rewards changed  0" in report
    for old, new in zip(before, read_lines(again), strict=True):
        assert new["was"].pop("terms") == new["terms"] == old["terms"]
        assert {**new, "was": None} == {**old, "was": None}

    for options in (["--sar-weight", 0.2], ["--regrade"], ["--grader", "exact"]):
        status, report, errors = rescore(output, *options)
        assert (status, report) == (1, "")
        assert errors == (
            f"error: {output}:1: a reward file gave this reward (its terms: correctness, sar); "
            "give the file, or another one: --reward FILE.toml\n"
        )


def test_grading_again_comes_before_the_terms(
    decision: Callable[..., Decision], rescore_under: Rescore, output: Path
) -> None:
    decisions = [
        decision("The answer is 5.", "5", Reason.WRONG, **HALF),  # a false verdict
        decision("The answer is 6.", "5", Reason.WRONG, **HALF),
    ]
    _, report, _ = rescore_under(GDPO, *decisions)
    assert "mean reward      0.100000 -> 0.000000" in report
    options = ["--regrade", "--grader-workers", 1]
    status, report, _ = rescore_under(GDPO, *decisions, options=options)
    assert status == 0
    assert "wrong -> right   1" in report
    rows = read_lines(output)
    assert [row["terms"]["correctness"] for row in rows] == [1.0, 0.0]
    assert [row["reward"] for row in rows] == pytest.approx([0.70701, -0.70701], abs=1e-5)


def test_one_weight_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], reward_file: Callable[[str], Path]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["rescore", str(tmp_path), "--reward", str(reward_file(PLAIN)), "--sar-weight", "0"])
    assert exit_.value.code == 2
    message = "--sar-weight: not with --reward, whose file has the weight of each term\n"
    assert capsys.readouterr().err.endswith(message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[[terms]]\nterm = "tsar"', "terms[1] 'tsar' is unknown; did you mean 'sar'?"),
        ('[[terms]]\nterm = "no_such:Term"', "cannot be imported: ModuleNotFoundError"),
        ('normalize = "gdpo"\n' + PLAIN, "set group_size to the number of rollouts of a prompt"),
    ],
)
def test_a_wrong_reward_file_is_one_line_before_anything_is_read(
    tmp_path: Path, rescore: Rescore, reward_file: Callable[[str], Path], text: str, message: str
) -> None:
    file = reward_file(text)
    status, report, errors = rescore(tmp_path / "no such log", "--reward", file)
    assert (status, report) == (1, "")
    assert errors.startswith(f"error: {file}: ")
    assert message in errors
    assert errors.count("\n") == 1


def test_a_reward_file_that_is_not_there(tmp_path: Path, rescore: Rescore) -> None:
    status, _, errors = rescore(tmp_path, "--reward", tmp_path / "none.toml")
    assert (status, errors) == (1, f"error: {tmp_path}/none.toml: No such file or directory\n")


def test_a_term_that_fails_is_one_line_that_names_its_place(
    decision: Callable[..., Decision],
    tmp_path: Path,
    rescore_under: Rescore,
    output: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "my_failing_terms.py").write_text(
        "from sar.terms.base import Sample, Term\n"
        "class Mine(Term):\n"
        "    def score(self, sample: Sample) -> float:\n"
        "        return 1.0 / sample.num_tokens\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    text = '[[terms]]\nterm = "my_failing_terms:Mine"\n'
    empty = replace(decision(), num_response_tokens=0)
    status, report, errors = rescore_under(text, decision(), empty)
    assert (status, report) == (1, "")
    assert errors == (
        f"error: {tmp_path}/a.jsonl:2: term 'mine' failed: ZeroDivisionError: float division by "
        "zero (line 4 of my_failing_terms)\n"
    )
    assert list(output.parent.iterdir()) == []


@pytest.mark.slow
def test_memory_does_not_grow_with_the_log_or_its_groups(
    decision: Callable[..., Decision], tmp_path: Path, reward_file: Callable[[str], Path]
) -> None:
    """16,000 responses of 10 kB, 160 MB, in interleaved groups, in little more memory than 80."""
    file = reward_file(GDPO.replace("group_size = 2", "group_size = 4"))
    script = (
        "import re, sys\nfrom pathlib import Path\nfrom sar.__main__ import main\n"
        "assert main(['rescore', sys.argv[1], '--reward', sys.argv[2]]) == 0\n"
        "print(re.search(r'VmHWM:\\s+(\\d+) kB', Path('/proc/self/status').read_text())[1])"
    )
    peaks = []
    for num_rounds in (10, 2_000):
        log = tmp_path / f"{num_rounds}.jsonl"
        with log.open("w") as lines:
            for number in range(num_rounds):
                # Two rollouts of each of four prompts. The next round has their siblings.
                lines.writelines(
                    decision("x" * 10_000, prompt=f"{number // 2} {prompt}").to_json() + "\n"
                    for prompt in "abcd" * 2
                )
        command = [sys.executable, "-c", script, str(log), str(file)]
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=600
        )
        assert f"groups           {num_rounds * 2}\nincomplete       0" in done.stdout
        peaks.append(int(done.stdout.split()[-1]))
        log.unlink()
    print(f"peak kB for 80 and 16,000 decisions: {peaks}")
    assert peaks[1] - peaks[0] < 10_000


def test_an_old_log_under_a_reward_file(
    decision: Callable[..., Decision],
    tmp_path: Path,
    rescore: Rescore,
    reward_file: Callable[[str], Path],
    output: Path,
) -> None:
    """A log from before there were reward files and `end_tokens`."""
    record = json.loads(decision(**HALF).to_json())
    record["truncated"] = record.pop("over_context")
    del record["end_tokens"]
    assert not {"terms", "group"} & set(record)
    log = tmp_path / "a.jsonl"
    log.write_text(f"{json.dumps(record)}\n" * 2)
    status, _, errors = rescore(log, "--reward", reward_file(GDPO), "--output", output)
    assert (status, errors) == (0, "")
    first, second = (one.decision for one in read_log(output, on_torn=pytest.fail))
    assert first == replace(second, seat=0)
    assert (first.reward, first.terms) == (0.0, {"correctness": 1.0, "sar": 0.5})


def test_a_term_that_needs_what_the_log_lacks_is_named_with_the_line(
    decision: Callable[..., Decision], tmp_path: Path, rescore_under: Rescore
) -> None:
    text = '[[terms]]\nterm = "self_certainty"\n'
    known = replace(decision(), self_certainty=2.5)
    status, report, _ = rescore_under(text, known)
    assert (status, report.splitlines()[-1]) == (0, "mean self_certainty  2.500000")
    status, report, errors = rescore_under(text, known, decision())
    assert (status, report) == (1, "")
    assert errors.startswith(
        f"error: {tmp_path}/a.jsonl:2: term 'self_certainty' failed: ValueError: "
    )
    assert errors.count("\n") == 1
