"""The reward log of groups whose rollouts are sent again or come late is enough to rescore it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from reward_server.observe.reward_log import RewardLog
from sar.recompose import Recomposer
from sar.rescore import find_log_files, keep_verdicts, read_log
from sar.terms.base import GroupTerm, Sample
from sar.terms.composition import WeightedTerm
from sar.terms.verdict import Correctness

if TYPE_CHECKING:
    from tests.reward_server.http.conftest import Client


class Longer(GroupTerm):
    """How much longer than the group's mean the response is."""

    def score_group(self, group: Sequence[Sample]) -> list[float]:
        mean = sum(len(one.response) for one in group) / len(group)
        return [len(one.response) - mean for one in group]


@pytest.mark.slow
def test_a_retry_in_an_open_group_and_a_late_sibling_keep_their_rewards(
    make_client: Callable[..., Client], tmp_path: Path
) -> None:
    reward_log = RewardLog(tmp_path)
    terms = (WeightedTerm("correctness", Correctness()), WeightedTerm("longer", Longer(), 0.3))
    client = make_client(
        *terms, group_size=4, normalize="gdpo", timeout_s=5.0, reward_log=reward_log
    )
    has_left = threading.Event()
    with ThreadPoolExecutor(8) as clients:
        # At the deadline of these three, the fourth is missing.
        early = clients.submit(
            client.ask, (" 5", "5"), (" 6666", "5"), (" it is 5", "5"), prompt="Q: early?\nA:"
        )
        first = clients.submit(client.ask, (" 5", "5"), is_gone=has_left.is_set)
        wait_until(lambda: client.get("/healthz").json["held_rollouts"] == 4)
        has_left.set()
        again = clients.submit(client.ask, (" 5", "5"))
        wait_until(lambda: client.get("/healthz").json["rollouts_again"] == 1)
        siblings = [
            clients.submit(client.ask, (response, "5"))
            for response in (" 6", " 5 or so", " no idea at all")
        ]
        in_time = [one.result(60).json for one in (first, again, *siblings)]
        assert in_time[0]["rewards"] == in_time[1]["rewards"]
        assert early.result(60).json["extra_logs"]["cohort_incomplete"] == [1] * 3
    late = client.ask((" perhaps it is 5", "5"), (" 6666", "5"), prompt="Q: early?\nA:").json
    assert late["rewards"][1] == early.result().json["rewards"][1]
    assert client.get("/healthz").json["groups"] == 2
    reward_log.close()

    (file,) = find_log_files([tmp_path])
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    seats = sorted((line["prompt"], line["seat"], line["num_members"]) for line in lines)
    assert [place[1:] for place in seats[:5]] == [(0, 4), (0, 4), (1, 4), (2, 4), (3, 4)]
    assert [place[1:] for place in seats[5:]] == [(0, 3), (1, 3), (1, 3), (2, 3), (3, 4)]
    assert client.composition is not None
    recomposer = Recomposer(client.composition)
    found = list(recomposer.recompose(keep_verdicts(read_log(file, on_torn=print))))
    assert len(found) == 10
    for one in found:
        assert (one.after.reward, one.after.terms) == (one.before.reward, one.before.terms)
    assert len({one.after.reward for one in found}) == 8
    assert (recomposer.num_groups, recomposer.num_incomplete) == (2, 1)
    assert recomposer.num_left_out == 0


def wait_until(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
