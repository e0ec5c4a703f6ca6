"""A server whose reward has a candidate in it."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from reward_server.launch import ServerDidNotStart

if TYPE_CHECKING:
    from tests.conftest import TestedServer

pytestmark = pytest.mark.slow  # they start servers
CANDIDATE = """
def reward(sample):
    if "loop" in sample["response"]:
        while True:
            pass
    if "fail" in sample["response"]:
        return 1 / 0
    return -0.25 * len(sample["response"].split())
"""
REWARD = """
[[terms]]
term = "correctness"
[[terms]]
term = "candidate:best.py"
weight = 2
"""


def make_body(response: str) -> dict[str, str]:
    return {"prompt": "Q: 2+3?\nA:", "response": response, "label": "5"}


def test_a_server_with_a_candidate(
    start_server: Callable[..., TestedServer], tmp_path: Path
) -> None:
    (tmp_path / "best.py").write_text(CANDIDATE)
    (tmp_path / "reward.toml").write_text(REWARD)
    server = start_server("--reward", str(tmp_path / "reward.toml"))
    server.wait_until_ready()
    assert "ready: rewards are correctness + 2 best\n" in server.log.read_text()
    # Correct and three words: 1 + 2 x -0.75.
    right = make_body(" it is 5")
    status, answer = server.request("/rm", right)
    assert (status, answer["reward"], answer["term_best"]) == (200, -0.5, -0.75)
    # What fails is an error for its rollout, and nothing else.
    for word, message in (
        ("fail", "term 'best' failed: CandidateError: line 7: ZeroDivisionError: division by zero"),
        ("loop", "term 'best' failed: CandidateError: line 4: a call took longer than 0.25 s"),
    ):
        status, answer = server.request("/rm", make_body(f" {word} 5"))
        assert status == 500
        assert answer["error"]["message"].startswith(message) or (
            word == "loop" and "a call took longer than 0.25 s" in answer["error"]["message"]
        )
    # Requests beside one that hangs are answered.
    with ThreadPoolExecutor(9) as clients:
        hanging = clients.submit(server.request, "/rm", make_body(" loop 5"))
        others = [clients.submit(server.request, "/rm", right) for _ in range(8)]
        assert [one.result(120)[1].get("reward") for one in others] == [-0.5] * 8
        assert hanging.result(120)[0] == 500
    workers = [
        one for one in psutil.Process(server.process.pid).children(True) if "monty" in one.name()
    ]
    assert workers
    assert server.stop() == 0
    deadline_s = time.monotonic() + 60
    while any(one.is_running() for one in workers):
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


def test_a_bad_candidate_stops_the_start(
    start_server: Callable[..., TestedServer], tmp_path: Path
) -> None:
    (tmp_path / "best.py").write_text("import os\ndef reward(sample): return 1")
    file = tmp_path / "reward.toml"
    file.write_text(REWARD)
    with pytest.raises(ServerDidNotStart) as caught:
        start_server("--reward", str(file))
    last = str(caught.value).splitlines()[-1]
    assert f"error: --reward {file}: terms[2] 'candidate:best.py': line 1: `import os`" in last
