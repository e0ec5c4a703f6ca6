"""`python -m sar view`: as a program, on a log that grows."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sar.__main__ import main
from sar.alarms.audit import audit, read_decisions
from sar.decision import Decision
from sar.grading.verdict import Reason
from sar.rescore import RescoreError
from sar.view.log_alarms import LogAlarms

ROOT = Path(__file__).parents[3]
TIMEOUT_S = 120.0


def read_status(url: str) -> Any:
    with urllib.request.urlopen(f"{url}/data/status", timeout=TIMEOUT_S) as response:
        return json.load(response)


def wait_for_rollouts(url: str, num: int) -> None:
    deadline_s = time.monotonic() + TIMEOUT_S
    while read_status(url)["num_train"] != num:
        assert time.monotonic() < deadline_s
        time.sleep(0.1)


def test_it_serves_a_log_that_grows_until_it_is_stopped(
    decision: Callable[..., Decision],
    write_log: Callable[[Path, Sequence[Decision]], Path],
    tmp_path: Path,
) -> None:
    write_log(tmp_path / "a.jsonl", [decision()] * 3)
    command = [sys.executable, "-m", "sar", "view", str(tmp_path), "--port", "0"]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ
    ) as process:
        assert process.stdout
        assert process.stderr
        url = process.stdout.readline().strip()
        assert url.startswith("http://127.0.0.1:")
        wait_for_rollouts(url, 3)
        write_log(tmp_path / "b.jsonl", [decision()] * 2)
        wait_for_rollouts(url, 5)
        process.send_signal(signal.SIGINT)
        assert process.wait(TIMEOUT_S) == 0
        assert process.stderr.read() == ""


def test_the_alarms_of_a_log_are_those_of_the_audit(
    decision: Callable[..., Decision],
    write_log: Callable[[Path, Sequence[Decision]], Path],
    tmp_path: Path,
) -> None:
    def make(num: int, *, grader_fails: bool) -> list[Decision]:
        reason = Reason.TIMEOUT if grader_fails else Reason.CORRECT
        return [replace(decision(), reason=reason) for _ in range(num)]

    alarms = LogAlarms(lambda: sorted(tmp_path.glob("*.jsonl")))
    alarms.update()
    assert {one["state"] for one in alarms.list()} == {"unknown"}
    write_log(tmp_path / "a.jsonl", make(600, grader_fails=False))
    alarms.update()
    assert not any(one["state"] == "alarm" for one in alarms.list())
    write_log(tmp_path / "b.jsonl", make(600, grader_fails=True))
    alarms.update()
    rings = {one["name"] for one in alarms.list() if one["state"] == "alarm"}
    files = sorted(tmp_path.glob("*.jsonl"))
    found = audit(read_decisions(files, on_torn=print)).findings
    assert rings == {one.state.alarm.name for one in found if one.state.state == "alarm"}
    assert "grader_bombs" in rings
    with (tmp_path / "b.jsonl").open("a") as log:
        log.write("no decision\n" * 200_000)
    with pytest.raises(RescoreError, match=r"b\.jsonl"):
        alarms.update()


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["missing"], 2, "missing: no such file or folder"),
        (["."], 2, "no .jsonl file in it"),
        (["runs"], 2, "runs: no .jsonl file in it; did you mean runs/a/rewards, runs/b/rewards?"),
        (["runs/a"], 2, "runs/a: no reward log in it; did you mean runs/a/rewards?"),
        (["notes.md"], 2, "notes.md: not a reward log: "),
        (["a.jsonl", "--port", "99999"], 2, "'99999' is not a whole number from 0 to 65535"),
        (["a.jsonl", "--host", "no.such.host.invalid"], 2, "no.such.host.invalid"),
        ([], 2, "LOG"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str],
    status: int,
    message: str,
    decision: Callable[..., Decision],
    write_log: Callable[[Path, Sequence[Decision]], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if arguments[:1] == ["a.jsonl"]:
        write_log(tmp_path / "a.jsonl", [decision()])
    (tmp_path / "notes.md").write_text("# Notes\n")
    for name in "ab":
        write_log(tmp_path / "runs" / name / "rewards" / "rewards-1-1-00001.jsonl", [decision()])
    (tmp_path / "runs" / "a" / "steps.jsonl").write_text('{"step": 1}\n')
    monkeypatch.chdir(tmp_path)
    try:
        found = main(["view", *arguments])
    except SystemExit as exit_:
        found = int(str(exit_.code))
    assert found == status
    assert message in capsys.readouterr().err.strip().split("\n")[-1]


def test_view_and_audit_refuse_the_same_mistake_alike(
    decision: Callable[..., Decision],
    write_log: Callable[[Path, Sequence[Decision]], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "run"
    write_log(run / "rewards" / "mine.jsonl", [decision()])
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "steps.jsonl").write_text('{"step": 1}\n')
    for name in ("run", "empty", "other", "none", "none.jsonl"):
        statuses, errors = [], []
        for command in ("view", "audit"):
            statuses.append(main([command, str(tmp_path / name)]))
            errors.append(capsys.readouterr().err)
        assert statuses == [2, 2], name
        assert errors[0] == errors[1]
        assert errors[0].count("\n") == 1
        if name == "run":
            assert errors[0].endswith(f"did you mean {run / 'rewards'}?\n")
    assert not list(tmp_path.rglob("*.sqlite"))


def test_a_port_that_is_taken(
    decision: Callable[..., Decision],
    write_log: Callable[[Path, Sequence[Decision]], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    log = write_log(tmp_path / "a.jsonl", [decision()])
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["view", str(log), "--port", str(port)]) == 2
    assert f"127.0.0.1:{port}" in capsys.readouterr().err
