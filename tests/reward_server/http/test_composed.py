"""Rewards composed from terms, through the routes: numbers, failures, and what is shown."""

from __future__ import annotations

import asyncio
import json
import math
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from reward_server.observe.reward_log import RewardLog
from sar.terms.base import GroupTerm, Sample, Term
from sar.terms.composition import WeightedTerm
from sar.terms.length import TargetLength
from sar.terms.likelihood import SelfAlignedReward
from sar.terms.verdict import Correctness

if TYPE_CHECKING:
    from tests.reward_server.http.conftest import Client

NUM_MOST = 3000
PATIENCE_S = 120.0


class Chars(Term):
    """Length of the response. Slow: it is computed apart."""

    formula = "characters of the response"
    threads: set[str]

    def __init__(self) -> None:
        self.threads = set()

    def score(self, sample: Sample) -> float:
        self.threads.add(threading.current_thread().name)
        return float(len(sample.response))


class Longer(GroupTerm):
    """How much longer a response is than its group's shortest."""

    def score_group(self, group: Sequence[Sample]) -> list[float]:
        shortest = min(len(one.response) for one in group)
        return [len(one.response) - shortest for one in group]


class Failing(Term):
    """Gives what it is told, or raises it."""

    def __init__(self, outcome: Any) -> None:
        self._outcome = outcome

    def score(self, sample: Sample) -> float:
        if isinstance(self._outcome, BaseException):
            raise self._outcome
        return self._outcome  # type: ignore[no-any-return]


class FailingGroup(GroupTerm):
    def __init__(self, outcome: Any) -> None:
        self._outcome = outcome

    def score_group(self, group: Sequence[Sample]) -> Any:
        if isinstance(self._outcome, BaseException):
            raise self._outcome
        return self._outcome


class Elsewhere(Term):
    """Answers once all that ask at the same time have asked."""

    is_remote = True

    def __init__(self, num_at_once: int) -> None:
        self.barrier = threading.Barrier(num_at_once)

    def score(self, sample: Sample) -> float:
        self.barrier.wait(PATIENCE_S)
        return float(len(sample.response))


CORRECT = WeightedTerm("correctness", Correctness())
ROLLOUTS = [(" 5", "5"), (" 6", "5"), (" it is 5, I think", "5"), (" no idea at all", "5")]


def test_the_default_as_a_file_gives_the_numbers_of_no_file(
    make_client: Callable[..., Client],
) -> None:
    plain = make_client().ask(*ROLLOUTS).json
    composed = make_client(CORRECT, WeightedTerm("sar", SelfAlignedReward(), 0.2))
    answer = composed.ask(*ROLLOUTS).json
    logs = answer["extra_logs"]
    assert logs.pop("term_correctness") == plain["scores"] == [1.0, 0.0, 1.0, 0.0]
    assert logs.pop("term_sar") == plain["extra_logs"]["sar"]
    assert len(set(plain["extra_logs"]["sar"])) > 2
    for one in (logs, plain["extra_logs"]):
        del one["policy_age_s"]
    assert answer == plain


def test_without_a_file_no_answer_has_terms(make_client: Callable[..., Client]) -> None:
    client = make_client()
    for names in (client.ask(*ROLLOUTS).json["extra_logs"], client.ask_rm(" 5", "5").json):
        assert not [name for name in names if name.startswith(("term_", "cohort_"))]
    assert client.get("/healthz").json["reward"] == "correctness + 0.2 sar"
    assert not [name for name, *_ in client.metrics() if name.startswith("term")]


def test_a_term_of_ones_own_is_summed_and_shown(make_client: Callable[..., Client]) -> None:
    chars = Chars()
    client = make_client(CORRECT, WeightedTerm("chars", chars, -0.01, "wrong"))
    answer = client.ask(*ROLLOUTS).json
    lengths = [len(response) for response, _ in ROLLOUTS]
    assert answer["extra_logs"]["term_chars"] == lengths
    expected = [1.0, -0.01 * lengths[1], 1.0, -0.01 * lengths[3]]
    assert answer["rewards"] == pytest.approx(expected)
    assert answer["scores"] == [1.0, 0.0, 1.0, 0.0]
    assert chars.threads
    assert all(name.startswith("intake") for name in chars.threads)
    one = client.ask_rm(*ROLLOUTS[1]).json
    assert (one["reward"], one["term_chars"]) == (pytest.approx(expected[1]), lengths[1])
    assert "cohort_incomplete" not in one
    metrics = client.metrics()
    assert metrics["term_count", "chars"] == metrics["term_count", "correctness"] == 5
    assert metrics["term_bucket", "3.0", "chars"] == 3
    assert metrics["term_bucket", "0.0", "correctness"] == 3
    assert client.get("/healthz").json["reward"] == "correctness - 0.01 chars (if wrong)"
    assert "<b>correctness - 0.01 chars (if wrong)</b>" in client.get("/").text


def test_a_label_that_a_term_cannot_use_is_a_400_before_anything_is_scored(
    make_client: Callable[..., Client],
) -> None:
    client = make_client(CORRECT, WeightedTerm("near", TargetLength()))
    message = (
        "term 'near': each label needs \"target_tokens\", or set it in the reward file for all"
    )
    good = {"answer": "5", "target_tokens": 64}
    for refused, field in (
        (client.ask((" 5", good), (" 5", "5")), "labels[1]"),
        (client.ask_rm(" 5", "5"), "label"),
    ):
        error = {"type": "invalid_request", "message": f"{field}: {message}", "field": field}
        assert (refused.status_code, refused.json) == (400, {"error": error})
    assert client.get("/healthz").json["sequences"] == 0
    for label in (good, {"answer": "5", "mode": "eval"}):
        assert client.ask((" 5", label)).status_code == 200
        assert client.ask_rm(" 5", label).status_code == 200


def test_many_rollouts_keep_their_order(make_client: Callable[..., Client]) -> None:
    client = make_client(WeightedTerm("chars", Chars()))
    rollouts = [(" " + "x" * (index % 97), "5") for index in range(NUM_MOST)]
    assert client.ask(*rollouts).json["rewards"] == [len(response) for response, _ in rollouts]


def test_terms_elsewhere_wait_at_the_same_time(make_client: Callable[..., Client]) -> None:
    """Four rollouts and two terms: none answers before all have asked."""
    terms = [WeightedTerm(name, Elsewhere(4)) for name in ("judge", "model")]
    logs = make_client(*terms).ask(*ROLLOUTS).json["extra_logs"]
    lengths = [len(response) for response, _ in ROLLOUTS]
    assert logs["term_judge"] == logs["term_model"] == lengths


def test_a_term_elsewhere_has_the_requests_deadline(make_client: Callable[..., Client]) -> None:
    elsewhere = Elsewhere(5)  # never answers
    client = make_client(WeightedTerm("judge", elsewhere), timeout_s=1.0)
    start_s = time.monotonic()
    answer = client.ask(*ROLLOUTS)
    assert answer.status_code == 504
    assert time.monotonic() - start_s < PATIENCE_S / 2
    assert client.get("/healthz").json["in_flight"] == 0
    elsewhere.barrier.abort()


FAILURES = [
    (ValueError("no such\nfile"), "ValueError: no such"),
    (SystemExit(3), "SystemExit"),
    (asyncio.CancelledError(), "CancelledError"),
    (math.nan, "nan, not a finite number"),
    (math.inf, "inf, not a finite number"),
    (-1e300, "-1e+300, beyond"),
    ("5", "str, not a number"),
    (None, "NoneType"),
]


@pytest.mark.parametrize(("outcome", "message"), FAILURES, ids=repr)
@pytest.mark.parametrize("kind", ["slow", "quick", "remote", "group"])
def test_a_term_that_fails_is_an_error_that_names_it(
    make_client: Callable[..., Client], kind: str, outcome: Any, message: str
) -> None:
    if kind == "group":
        alone = outcome if isinstance(outcome, BaseException) else [0.0, outcome]
        term: Any = FailingGroup(alone)
    else:
        term = Failing(outcome)
        term.is_quick, term.is_remote = kind == "quick", kind == "remote"
    size = 2 if kind == "group" else None
    client = make_client(CORRECT, WeightedTerm("mine", term), group_size=size)
    answer = client.ask((" 5", "5"), (" 6", "5"))
    assert answer.status_code == 500
    assert set(answer.json) == {"error"}
    assert answer.json["error"]["type"] == "scoring_failed"
    assert answer.json["error"]["message"].startswith("term 'mine' failed: ")
    assert message in answer.json["error"]["message"]
    health = client.get("/healthz").json
    assert (health["in_flight"], health["rollouts"], health["ready"]) == (0, 0, True)
    # Labels in mode "eval" do not need the term.
    assert client.ask((" 5", EVAL)).json["rewards"] == [1.0]


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_group_term_with_a_wrong_count_is_an_error(
    make_client: Callable[..., Client], count: int
) -> None:
    client = make_client(WeightedTerm("mine", FailingGroup([0.0] * count)), group_size=2)
    answer = client.ask((" 5", "5"), (" 6", "5"))
    assert answer.status_code == 500
    assert f"{count} values for 2 rollouts" in answer.json["error"]["message"]


EVAL = {"answer": "5", "mode": "eval"}


def test_eval_is_correctness_alone(make_client: Callable[..., Client]) -> None:
    chars = Chars()
    terms = (WeightedTerm("chars", chars), WeightedTerm("longer", Longer()), CORRECT)
    client = make_client(*terms, group_size=4, normalize="gdpo")
    answer = client.ask((" 5", EVAL), (" 6", EVAL), (" 55", EVAL)).json
    assert answer["rewards"] == answer["scores"] == [1.0, 0.0, 1.0]
    for name in ("term_chars", "term_longer", "term_correctness", "cohort_incomplete"):
        assert answer["extra_logs"][name] == [0, 0, 0]
    assert client.ask_rm(" 5", EVAL).json["reward"] == 1.0
    assert not chars.threads
    assert not [key for key in client.metrics() if key[0].startswith("term_")]


def test_nothing_in_nothing_out(make_client: Callable[..., Client]) -> None:
    answer = make_client(CORRECT, group_size=6, normalize="gdpo").ask().json
    assert answer["rewards"] == []
    assert answer["extra_logs"]["term_correctness"] == []
    assert answer["extra_logs"]["cohort_incomplete"] == []


def test_the_reward_log_has_terms_and_groups(
    make_client: Callable[..., Client], tmp_path: Path
) -> None:
    log = RewardLog(tmp_path)
    terms = (CORRECT, WeightedTerm("longer", Longer(), 0.5))
    client = make_client(*terms, group_size=2, reward_log=log)
    assert client.ask((" 5", "5"), (" 5!", "5"), (" 6", EVAL), (" 6", "6"), (" 7", "6")).json
    log.close()
    (file,) = tmp_path.iterdir()
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line.get("terms", {}).get("longer") for line in lines] == [0, 1, 0, 0, 0]
    assert [line["reward"] for line in lines] == [1.0, 1.5, 0.0, 1.0, 0.0]
    groups = [line.get("group", "") for line in lines]
    assert groups[0] == groups[1] != groups[3] == groups[4]
    assert groups[0]
    assert groups[2] == ""


def test_the_document_is_that_of_the_answers(
    make_client: Callable[..., Client], make_contract: Any
) -> None:
    terms = (CORRECT, WeightedTerm("longer", Longer(), 0.5), WeightedTerm("chars", Chars()))
    for client in (make_client(*terms, group_size=2), make_client(CORRECT), make_client()):
        document = client.get("/openapi.json").json
        contract = make_contract(document)
        schemas = document["components"]["schemas"]
        composition = client.composition
        names = {f"term_{one.name}" for one in composition.terms} if composition else set()
        names |= {"cohort_incomplete"} if composition and composition.group_size else set()
        shown = set(schemas["RmAnswer"]["properties"])
        assert {one for one in shown if one.startswith(("term_", "cohort_"))} == names
        assert names <= set(schemas["ExtraLogs"]["required"])
        for path, answer in (
            ("/get_reward", client.ask((" 5", "5"), (" 6", "5"))),
            ("/rm", client.ask_rm(" 5", EVAL)),
        ):
            contract.check("POST", path, answer.status_code, answer.content_type, answer.data)
