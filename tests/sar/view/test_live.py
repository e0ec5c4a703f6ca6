"""The live index: what it keeps is bounded, and its charts show the whole life of the server."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from sar.view import live as live_module
from sar.view.live import LiveIndex, count_chars


def add_all(live: LiveIndex, decisions: list[Any], at_once: int = 64) -> None:
    for start in range(0, len(decisions), at_once):
        live.add(decisions[start : start + at_once])


def kept(live: LiveIndex) -> list[int]:
    with live.reading() as db:
        numbers = [number for (number,) in db.execute("SELECT id FROM rollouts ORDER BY id")]
    assert [number for number in numbers if live.read(number)] == numbers
    return numbers


def test_it_keeps_the_latest_rollouts(make_run: Any, ask: Any) -> None:
    run = make_run(1000)
    live = LiveIndex(160)
    add_all(live, run)
    numbers = kept(live)
    assert numbers == list(range(numbers[0], 1001))
    assert 160 <= len(numbers) <= 160 + 64 + 160 // 16
    assert live.read(numbers[0] - 1) is None
    with live.reading() as db:
        assert db.execute("SELECT COUNT(*) FROM groups").fetchone()[0] <= len(numbers) // 4 + 1
    assert ask(live, "status")["kept_from"] == numbers[0]
    assert ask(live, "search", text="Response 3 ")["rows"] == []


@pytest.mark.parametrize("by", ["time", "rollouts", "version"])
def test_its_charts_show_also_what_it_has_forgotten(by: str, make_run: Any, ask: Any) -> None:
    run = make_run(2000)
    small, large = LiveIndex(100), LiveIndex(10_000)
    add_all(small, run)
    add_all(large, run)
    shown, whole = (ask(live, "series", by=by, buckets=10) for live in (small, large))
    assert shown["x"] == whole["x"]
    assert shown["num_groups"] == whole["num_groups"]
    assert sum(shown["num"]) == 2000
    for name, values in whole["means"].items():
        assert shown["means"][name] == pytest.approx(values, abs=1e-9), name


def test_its_memory_is_bounded_by_characters(rollout: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    long = rollout(response="x" * 50_000)
    max_chars = 10 * count_chars(long)
    live = LiveIndex(1000, max_chars=max_chars)
    add_all(live, [long] * 35, at_once=5)
    assert kept(live) == list(range(26, 36))
    live.add([rollout(response="y" * (2 * max_chars))])  # larger than all that fits
    assert kept(live) == []
    live.add([rollout()])
    assert kept(live) == [37]


def test_cells_stay_few_however_long_it_runs(
    rollout: Any, monkeypatch: pytest.MonkeyPatch, ask: Any
) -> None:
    monkeypatch.setattr("sar.view.index._MAX_CELLS", 64)
    monkeypatch.setattr("sar.view.index._COUNT_EVERY", 1)
    live = LiveIndex(50)
    add_all(live, [rollout(n * 30.0, policy_version=n // 500) for n in range(4000)])
    with live.reading() as db:
        assert db.execute("SELECT COUNT(*) FROM cells").fetchone()[0] <= 64 + 4 * 8
    assert sum(ask(live, "series", by="time")["num"]) == 4000


def test_it_is_read_while_it_grows(make_run: Any, ask: Any) -> None:
    run = make_run(3000)
    live = LiveIndex(500)
    adding = threading.Thread(target=add_all, args=(live, run, 10))
    adding.start()
    totals = []
    while adding.is_alive():
        answer = ask(live, "series", by="version")
        totals.append(sum(answer["num"]))
        ask(live, "table", kind="surprising")
        ask(live, "search", text="Response")
    adding.join()
    assert totals == sorted(totals)
    assert ask(live, "status")["num_train"] == 3000


def test_a_time_that_is_none_and_many_terms_are_no_errors(rollout: Any, ask: Any) -> None:
    terms = {f"term {n}": float(n) for n in range(100)}
    live = LiveIndex(100)
    live.add([rollout(5), rollout(time="yesterday", terms=terms), rollout(7, time="0001-01-01")])
    answer = ask(live, "series", by="time")
    assert sum(answer["num"]) == 3
    assert len(answer["terms"]) == 32
    assert answer["terms"]["term 31"][-1] == 31.0


def test_default_memory_is_stated_in_the_flag() -> None:
    from reward_server.config import ServerConfig

    text = ServerConfig.model_fields["dashboard_rollouts"].description or ""
    assert f"{live_module.MAX_CHARS // 2**20} MB" in text
