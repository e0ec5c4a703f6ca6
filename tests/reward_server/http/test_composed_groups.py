"""Rewards that compare the rollouts of a prompt, through the routes."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from sar.terms.base import GroupTerm, Sample, Term
from sar.terms.composition import WeightedTerm
from sar.terms.verdict import Correctness

if TYPE_CHECKING:
    from tests.reward_server.http.conftest import Client

EVAL = {"answer": "5", "mode": "eval"}
PROMPT = "Q: 2+3?\nA:"
CORRECT = WeightedTerm("correctness", Correctness())
ROLLOUTS = [(" 5", "5"), (" 6", "5"), (" it is 5, I think", "5"), (" no idea at all", "5")]


class Chars(Term):
    """Length of the response."""

    def score(self, sample: Sample) -> float:
        return float(len(sample.response))


class Longer(GroupTerm):
    """How much longer a response is than its group's shortest."""

    def score_group(self, group: Sequence[Sample]) -> list[float]:
        shortest = min(len(one.response) for one in group)
        return [len(one.response) - shortest for one in group]


def test_groups_that_come_whole_are_compared_at_once(make_client: Callable[..., Client]) -> None:
    """Two prompts, two labels of one prompt, and labels in mode "eval", all mixed."""
    client = make_client(CORRECT, WeightedTerm("longer", Longer(), 0.5), group_size=2)
    rollouts: list[tuple[str, str, Any]] = [
        (PROMPT, " 5", "5"),
        ("Q: 1?\nA:", " 1 and no more", "1"),
        (PROMPT, " 5 it is", "6"),
        (PROMPT, " five", EVAL),
        (PROMPT, " 5 5 5", "5"),
        (PROMPT, " 6", "6"),
        ("Q: 1?\nA:", " 2", "1"),
    ]
    answer = client.send(*rollouts).json
    longer = [0, 12, 6, 0, 4, 0, 0]
    right = [1, 1, 0, 0, 1, 1, 0]
    assert answer["extra_logs"]["term_longer"] == longer
    assert answer["extra_logs"]["term_correctness"] == right
    assert answer["extra_logs"]["cohort_incomplete"] == [0] * 7
    assert answer["rewards"] == [r + 0.5 * n for r, n in zip(right, longer, strict=True)]
    assert client.get("/healthz").json["groups"] == 3


def test_more_than_a_group_are_several(make_client: Callable[..., Client]) -> None:
    client = make_client(WeightedTerm("longer", Longer()), group_size=2)
    responses = [" 55", " 5", " 55555", " 555", " 5", " 5"]
    answer = client.ask(*((response, "5") for response in responses)).json
    assert answer["rewards"] == [1, 0, 2, 0, 0, 0]


def test_gdpo_normalises_each_term_in_its_group(make_client: Callable[..., Client]) -> None:
    terms = (CORRECT, WeightedTerm("chars", Chars(), -0.5))
    client = make_client(*terms, group_size=4, normalize="gdpo")
    others = [(" 6", "6")] * 4  # a group without variance
    answer = client.ask(*ROLLOUTS, *others).json
    expected = [0.0] * 8
    for weight, values in (
        (1.0, [1.0, 0.0, 1.0, 0.0]),
        (-0.5, [float(len(response)) for response, _ in ROLLOUTS]),
    ):
        mean, deviation = statistics.fmean(values), statistics.stdev(values)
        for index, value in enumerate(values):
            expected[index] += weight * (value - mean) / (deviation + 1e-4)
    assert answer["rewards"] == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert answer["rewards"][4:] == [0.0] * 4
    # Scores stay what filters on them expect, and terms what they were.
    assert answer["scores"] == [1.0, 0.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0]
    assert answer["extra_logs"]["term_chars"][:2] == [2, 2]


def test_rm_cannot_compare_and_says_why(make_client: Callable[..., Client]) -> None:
    client = make_client(CORRECT, group_size=6, normalize="gdpo")
    answer = client.ask_rm(" 5", "5")
    assert answer.status_code == 400
    message = answer.json["error"]["message"]
    for part in ("6 rollouts", "/rm takes one", "wait", "/get_reward", "without group_size"):
        assert part in message
    assert "more characters" not in message
    assert client.ask_rm(" 5", EVAL).status_code == 200


def test_siblings_in_requests_of_their_own_wait_for_each_other(
    make_client: Callable[..., Client],
) -> None:
    client = make_client(CORRECT, WeightedTerm("longer", Longer(), 0.5), group_size=3)
    with ThreadPoolExecutor(8) as clients:
        sent = [clients.submit(client.ask, (response, "5")) for response in (" 5", " 6 or 5")]
        wait_until(lambda: client.get("/healthz").json["held_rollouts"] == 2)
        health = client.get("/healthz").json
        assert (health["in_flight"], health["rollouts"], health["groups"]) == (2, 0, 0)
        assert client.metrics()["held_rollouts",] == 2
        assert client.metrics()["held_chars",] > 0
        # Whoever does not belong to the group is answered meanwhile.
        assert client.ask((" 6", EVAL)).json["rewards"] == [0.0]
        assert client.ask(*[(" 6", "6")] * 3).status_code == 200
        sent.append(clients.submit(client.ask, (" 7", "5")))
        answers = [one.result(30).json for one in sent]
    assert [one["rewards"] for one in answers] == [[1.0], [3.5], [0.0]]
    assert [one["extra_logs"]["cohort_incomplete"] for one in answers] == [[0]] * 3
    health = client.get("/healthz").json
    assert (health["in_flight"], health["held_rollouts"], health["groups"]) == (0, 0, 2)


def test_a_group_that_stays_incomplete_is_settled_in_time_and_counted(
    make_client: Callable[..., Client],
) -> None:
    client = make_client(WeightedTerm("longer", Longer()), group_size=3, timeout_s=2.0)
    with ThreadPoolExecutor(3) as clients:
        two = [clients.submit(client.ask, (response, "5")) for response in (" 5", " 555")]
        alone = clients.submit(client.ask, (" 6", "6"))
        answers = [one.result(30) for one in two]
        assert alone.result(30).status_code == 503
        assert alone.result().json["error"]["type"] == "not_ready"
    assert [one.json["rewards"] for one in answers] == [[0.0], [2.0]]
    assert [one.json["extra_logs"]["cohort_incomplete"] for one in answers] == [[1], [1]]
    assert client.metrics()["groups_incomplete_total",] == 1


def test_a_request_with_a_part_of_a_group_waits_for_the_rest(
    make_client: Callable[..., Client],
) -> None:
    client = make_client(WeightedTerm("longer", Longer()), group_size=2)
    with ThreadPoolExecutor(1) as clients:
        # A whole group, one in mode "eval", and one that waits.
        first = clients.submit(client.ask, (" 5", "5"), (" 555", EVAL), (" 5", "6"), (" 55", "5"))
        wait_until(lambda: client.get("/healthz").json["held_rollouts"] > 0)
        assert client.ask((" 5555", "6")).json["rewards"] == [3.0]
        assert first.result(30).json["rewards"] == [0.0, 1.0, 0.0, 1.0]


def test_new_weights_score_those_that_wait_again(
    make_client: Callable[..., Client],
) -> None:
    client = make_client(WeightedTerm("longer", Longer()), group_size=2)
    with ThreadPoolExecutor(2) as clients:
        first = clients.submit(client.ask, (" 5", "5"))
        wait_until(lambda: client.get("/healthz").json["held_rollouts"] == 1)
        clients.submit(client.service.engines.replace, client.make_engine(7)).result(20)
        second = client.ask((" 55", "5")).json
        logs = first.result(30).json["extra_logs"]
    assert (logs["policy_version"], second["extra_logs"]["policy_version"]) == ([7], [7])
    assert second["rewards"] == [1.0]


def test_a_server_that_stops_refuses_half_groups_and_settles_whole_ones(
    make_client: Callable[..., Client],
) -> None:
    client = make_client(WeightedTerm("longer", Longer()), group_size=2)
    with ThreadPoolExecutor(1) as clients:
        held = clients.submit(client.ask, (" 5", "5"))
        wait_until(lambda: client.get("/healthz").json["held_rollouts"] == 1)
        client.service.end_waiting(10)
        assert held.result(30).status_code == 503
    assert client.ask((" 5", "5")).status_code == 503
    assert client.ask((" 5", "5"), (" 55", "5")).json["rewards"] == [0.0, 1.0]
    assert not client.service.is_computing_terms


class Gate(GroupTerm):
    """Computes until the test opens it."""

    def __init__(self) -> None:
        self.opened = threading.Event()

    def score_group(self, group: Sequence[Sample]) -> list[float]:
        self.opened.wait(60)
        return [0.0] * len(group)


def test_a_term_that_outlives_its_request_is_known_to_be_computing(
    make_client: Callable[..., Client],
) -> None:
    """The process must not wait for it when it ends, also if one request brought the group."""
    gate = Gate()
    client = make_client(WeightedTerm("gate", gate), group_size=2, timeout_s=3)
    assert client.ask((" 5", "5"), (" 6", "5")).status_code == 504
    client.service.end_waiting(10)
    assert client.service.is_computing_terms
    gate.opened.set()
    wait_until(lambda: not client.service.is_computing_terms)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def test_a_group_is_as_long_as_its_labels(make_client: Callable[..., Client]) -> None:
    client = make_client(CORRECT, WeightedTerm("longer", Longer()), group_size=2)
    label = {"answer": "5", "group": "row " * 10_000}
    with ThreadPoolExecutor(1) as clients:
        first = clients.submit(client.ask, (" 5", label))
        wait_until(lambda: client.get("/healthz").json["held_rollouts"] == 1)
        assert 40_000 < client.metrics()["held_chars",] < 41_000
        assert client.ask((" 6", label)).status_code == 200
        assert first.result(30).json["rewards"] == [1.0]
    assert client.metrics()["held_chars",] == 0
