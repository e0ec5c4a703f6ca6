"""Decisions as a run has them, written to logs, and the answers of a dashboard over them."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sar.decision import Decision
from sar.grading.verdict import Reason
from sar.view.dashboard import Dashboard
from sar.view.http_server import ViewServer
from sar.view.log_index import LogIndex
from sar.view.source import Source

if TYPE_CHECKING:
    from tests.conftest import Tab

START = datetime(2026, 11, 1, tzinfo=UTC)
MakeDecision = Callable[..., Decision]
Ask = Callable[..., Any]
OpenTab = Callable[..., "Tab"]
Show = Callable[..., "tuple[Tab, LogIndex, Path]"]


@pytest.fixture(scope="session")
def rollout(decision: Callable[..., Decision]) -> MakeDecision:
    """Makes decisions with chosen numbers: `rollout(seconds=5.0, reward=1.1, sar=0.5)`."""
    base = decision()

    def make(
        seconds: float = 0.0,
        *,
        reason: Reason = Reason.CORRECT,
        mode: str = "train",
        **changes: Any,
    ) -> Decision:
        time = (START + timedelta(seconds=seconds)).isoformat(timespec="milliseconds")
        correctness = 1.0 if reason is Reason.CORRECT else 0.0
        fields = {"time": time, "reason": reason, "mode": mode, "correctness": correctness}
        return replace(base, **{**fields, **changes})

    return make


@pytest.fixture(scope="session")
def make_run(rollout: MakeDecision) -> Callable[..., list[Decision]]:
    """Makes the decisions of a run: groups of four rollouts, and four groups to a version."""

    def make(num: int, seed: int = 0) -> list[Decision]:
        chance = random.Random(seed)
        decisions = []
        for number in range(num):
            reason = chance.choice([Reason.CORRECT, Reason.CORRECT, Reason.WRONG, Reason.NO_ANSWER])
            sar = round(chance.uniform(-1, 1), 6)
            decisions.append(
                rollout(
                    number * 0.5,
                    reason=reason,
                    sar=sar,
                    reward=(reason is Reason.CORRECT) + 0.2 * sar,
                    prompt=f"Question {number // 4}?",
                    response=f"Response {number} of seed {seed}.",
                    num_response_tokens=chance.randrange(1, 500),
                    policy_version=number // 16,
                    request_id=f"r{number}",
                    nll_qa=chance.uniform(0, 3),
                    terms={"verdict": chance.random(), "short": chance.random()},
                )
            )
        return decisions

    return make


@pytest.fixture(scope="session")
def write_log() -> Callable[..., Path]:
    """Writes a file of a reward log, or appends to it."""

    def write(path: Path, decisions: Sequence[Decision], *, appends: bool = False) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a" if appends else "w", encoding="utf-8") as file:
            file.writelines(decision.to_json() + "\n" for decision in decisions)
        return path

    return write


@pytest.fixture(scope="session")
def ask() -> Ask:
    """Asks a dashboard over a source: `ask(source, "series", by="time")`."""

    def answer(source: Source, name: str, **parameters: object) -> Any:
        texts = {key: str(value) for key, value in parameters.items()}
        return json.loads(Dashboard(source).answer(name, texts))

    return answer


@pytest.fixture
def show(open_tab: OpenTab, tmp_path: Path, write_log: Any) -> Iterator[Show]:
    """Shows a log of these decisions; gives the page, the index and the log file."""
    servers: list[ViewServer] = []
    indexes: list[LogIndex] = []

    def open_(
        decisions: list[Decision],
        alarms: list[Any] | None = None,
        explains: bool = False,
        scorers: list[Any] | None = None,
        **options: Any,
    ) -> tuple[Tab, LogIndex, Path]:
        log = write_log(tmp_path / "log" / "a.jsonl", decisions)
        index = LogIndex(log.parent)
        indexes.append(index)
        index.update()
        dashboard = Dashboard(
            index, lambda: alarms or [], lambda: scorers or [], can_explain=explains
        )
        server = ViewServer(dashboard, "127.0.0.1", 0)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        tab = open_tab(server.url, **options)
        if decisions:
            tab.page.wait_for_selector("#rows tr")
        return tab, index, log

    yield open_
    for server in servers:
        server.shutdown()
        server.server_close()
    for index in indexes:
        index.close()
