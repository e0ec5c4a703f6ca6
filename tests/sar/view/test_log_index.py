"""The index of a log: it grows with the log, and is built again if the log is another one."""

from __future__ import annotations

import json
import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from sar.view.log_index import NAME, LogIndex

ROOT = Path(__file__).parents[3]


def read_all(index: LogIndex) -> list[tuple[str, str]]:
    """The request and response of each rollout of an index, read from the log."""
    with index.reading() as db:
        numbers = [number for (number,) in db.execute("SELECT id FROM rollouts ORDER BY id")]
    found = []
    for number in numbers:
        decision = index.read(number)
        assert decision is not None, number
        found.append((decision.request_id, decision.response))
    return found


def expect(*runs: list[Any]) -> list[tuple[str, str]]:
    return [(one.request_id, one.response) for run in runs for one in run]


def test_it_goes_on_where_it_ended(make_run: Any, write_log: Any, tmp_path: Path) -> None:
    run = make_run(50)
    log = write_log(tmp_path / "a.jsonl", run[:20])
    with closing(LogIndex(tmp_path)) as index:
        assert index.update() == 20
        assert index.update() == 0
        write_log(log, run[20:30], appends=True)
        assert index.update() == 10
    write_log(log, run[30:40], appends=True)
    write_log(tmp_path / "b.jsonl", run[40:])
    with closing(LogIndex(tmp_path)) as index:
        assert index.update() == 20
        assert read_all(index) == expect(run)


def test_its_charts_do_not_depend_on_when_it_was_built(
    make_run: Any, write_log: Any, ask: Any, tmp_path: Path
) -> None:
    run = make_run(400)
    for folder, parts in (("once", [400]), ("often", [1, 2, 130, 131, 137, 400])):
        start = 0
        for end in parts:
            write_log(tmp_path / folder / "a.jsonl", run[start:end], appends=True)
            with closing(LogIndex(tmp_path / folder)) as index:
                index.update()
            start = end
    with (
        closing(LogIndex(tmp_path / "once")) as once,
        closing(LogIndex(tmp_path / "often")) as often,
    ):
        for by in ("time", "rollouts", "version"):
            shown, expected = (ask(index, "series", by=by) for index in (often, once))
            assert shown["means"]["sar"] == pytest.approx(expected["means"]["sar"])
            for name in ("x", "num", "num_groups", "first", "last", "bands"):
                assert shown[name] == expected[name]
        assert ask(once, "rollout", id=130) == ask(often, "rollout", id=130)


@pytest.mark.parametrize("num_bytes", [1, 200])
def test_an_incomplete_last_line_waits(
    make_run: Any, write_log: Any, tmp_path: Path, num_bytes: int
) -> None:
    run = make_run(10)
    log = write_log(tmp_path / "a.jsonl", run)
    whole = log.read_bytes()
    log.write_bytes(whole[:-num_bytes])
    with closing(LogIndex(tmp_path)) as index:
        assert index.update() == 9
        assert index.describe()["num_bad_lines"] == 0
        log.write_bytes(whole)
        assert index.update() == 1
        assert read_all(index) == expect(run)


def change_first(log: Path, run: list[Any], write: Any) -> list[Any]:
    write(log, [run[1], *run[1:]])
    return [run[1], *run[1:]]


def shorten(log: Path, run: list[Any], write: Any) -> list[Any]:
    write(log, run[:5])
    return run[:5]


def remove(log: Path, run: list[Any], write: Any) -> list[Any]:
    log.unlink()
    write(log.with_name("z.jsonl"), run[:3])
    return run[:3]


def rewrite_end(log: Path, run: list[Any], write: Any) -> list[Any]:
    write(log, [*run[:-1], run[0], *run[3:9]])
    return [*run[:-1], run[0], *run[3:9]]


def break_index(log: Path, run: list[Any], write: Any) -> list[Any]:
    log.with_name(NAME).write_bytes(b"not a database" * 500)
    return run


def make_old_index(log: Path, run: list[Any], write: Any) -> list[Any]:
    with closing(sqlite3.connect(log.with_name(NAME))) as db:
        db.execute("PRAGMA user_version = 999")
    return run


@pytest.mark.parametrize(
    "change", [change_first, shorten, remove, rewrite_end, break_index, make_old_index]
)
def test_it_is_built_again_if_the_log_or_the_index_was_replaced(
    make_run: Any, write_log: Any, tmp_path: Path, change: Callable[..., list[Any]]
) -> None:
    run = make_run(20)
    log = write_log(tmp_path / "a.jsonl", run)
    with closing(LogIndex(tmp_path)) as index:
        index.update()
    left = change(log, run, write_log)
    with closing(LogIndex(tmp_path)) as index:
        index.update()
        assert read_all(index) == expect(left)


def test_a_log_that_is_replaced_while_it_is_shown(
    make_run: Any, write_log: Any, tmp_path: Path
) -> None:
    run = make_run(30)
    log = write_log(tmp_path / "a.jsonl", run[:10])
    with closing(LogIndex(tmp_path)) as index, closing(LogIndex(tmp_path)) as second:
        index.update()
        second.update()
        write_log(log, run[10:])
        index.update()
        assert read_all(index) == expect(run[10:])
        second.update()  # its index was begun anew by the first
        assert read_all(second) == expect(run[10:])


def test_bad_lines_are_left_out_and_said(make_run: Any, write_log: Any, tmp_path: Path) -> None:
    run = make_run(4)
    log = write_log(tmp_path / "a.jsonl", run[:2])
    with log.open("ab") as file:
        file.write(b"\xff\xfe not UTF-8\n{}\n[1, 2]\n" + b"[" * 100_000 + b"\n")
    write_log(log, run[2:], appends=True)
    with closing(LogIndex(tmp_path)) as index:
        assert index.update() == 4
        assert read_all(index) == expect(run)
        described = index.describe()
    assert described["num_bad_lines"] == 4
    assert described["first_error"].startswith("a.jsonl at byte ")


def test_two_processes_build_one_index(make_run: Any, write_log: Any, tmp_path: Path) -> None:
    run = make_run(9000)
    write_log(tmp_path / "a.jsonl", run[:6000])
    write_log(tmp_path / "b.jsonl", run[6000:])
    script = (
        "import sys; from pathlib import Path; from sar.view.log_index import LogIndex\n"
        "print(LogIndex(Path(sys.argv[1])).update())"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path)],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        for _ in range(2)
    ]
    added = [int(process.communicate(timeout=300)[0]) for process in processes]
    assert sum(added) == 9000
    with closing(LogIndex(tmp_path)) as index:
        assert index.update() == 0
        with index.reading() as db:
            places = db.execute("SELECT file, offset FROM rollouts ORDER BY id").fetchall()
        assert places == sorted(set(places))
        assert len(places) == 9000
        for number in (1, 4000, 4001, 6000, 6001, 9000):
            assert index.read(number) == run[number - 1]


def test_the_index_is_private_and_beside_the_log(
    make_run: Any, write_log: Any, tmp_path: Path
) -> None:
    log = write_log(tmp_path / "a.jsonl", make_run(3))
    write_log(tmp_path / "b.jsonl", make_run(5))
    with closing(LogIndex(tmp_path)) as index:
        assert index.path == tmp_path / NAME
        assert stat.S_IMODE(index.path.stat().st_mode) == 0o600
        assert index.update() == 8
    with closing(LogIndex(log)) as index:
        assert index.path.parent == tmp_path
        assert index.update() == 3


def test_a_folder_that_cannot_be_written_gets_a_temporary_index(
    make_run: Any, write_log: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(8)
    write_log(tmp_path / "logs" / "a.jsonl", run)

    def refuse(path: Any, *arguments: Any) -> int:
        # The superuser, who runs the tests in CI, may write everywhere.
        if Path(path).parent == tmp_path / "logs":
            raise PermissionError(13, "Permission denied", str(path))
        return open_file(path, *arguments)

    open_file = os.open
    monkeypatch.setattr(os, "open", refuse)
    with closing(LogIndex(tmp_path / "logs")) as index:
        assert index.update() == 8
        assert index.path.parent != tmp_path / "logs"
        assert read_all(index) == expect(run)
    assert not index.path.exists()
    assert [path.name for path in (tmp_path / "logs").iterdir()] == ["a.jsonl"]


def test_a_rollout_whose_file_is_gone_is_no_error(
    make_run: Any, write_log: Any, ask: Any, tmp_path: Path
) -> None:
    log = write_log(tmp_path / "a.jsonl", make_run(5))
    with closing(LogIndex(tmp_path)) as index:
        index.update()
        log.unlink()
        assert index.read(3) is None
        assert [row["snippet"] for row in ask(index, "table")["rows"]] == [""] * 5


def test_search_finds_texts_however_the_log_escapes_them(
    rollout: Any, write_log: Any, ask: Any, tmp_path: Path
) -> None:
    texts = ['a "quoted" line\nand the next', "Größe 日本語 🙂", r"\frac{1}{2}", "plain", "PLAIN"]
    run = [rollout(n, response=text, answer=None) for n, text in enumerate(texts)]
    write_log(tmp_path / "a.jsonl", run)
    escaped = tmp_path / "b.jsonl"

    escaped.write_text("".join(json.dumps(one.to_fields()) + "\n" for one in run), "utf-8")
    needles = {
        '"QUOTED" line\nand': [6, 1],
        "größe 日本": [7, 2],
        "🙂": [7, 2],
        r"\frac{1}": [8, 3],
        "plain": [10, 9, 5, 4],
        "not there": [],
        "What is 2 + 3": [*range(10, 0, -1)],
    }
    with closing(LogIndex(tmp_path)) as index:
        index.update()
        for needle, numbers in needles.items():
            answer = ask(index, "search", text=needle)
            assert [row["id"] for row in answer["rows"]] == numbers, needle
            assert answer["searched_to"] == 0


def test_a_search_goes_on_from_where_it_stopped(
    make_run: Any, write_log: Any, ask: Any, tmp_path: Path
) -> None:
    write_log(tmp_path / "a.jsonl", make_run(700))
    with closing(LogIndex(tmp_path)) as index:
        index.update()
        found: list[int] = []
        before = 10**9
        while before > 1:
            answer = ask(index, "search", text="Response", before=before, limit=150)
            found += [row["id"] for row in answer["rows"]]
            before = answer["searched_to"]
    assert found == list(range(700, 0, -1))
