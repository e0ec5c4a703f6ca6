"""`POST /explain`: the tokens of rollouts, and the same rewards as `/get_reward`."""

from __future__ import annotations

import math
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from sar.prompts import DEFAULT_SYSTEM_PROMPT, render_prompt
from sar.terms.base import GroupTerm, Sample
from sar.terms.composition import WeightedTerm
from sar.terms.likelihood import SelfAlignedReward
from sar.terms.text import Repetition
from sar.terms.verdict import Correctness

if TYPE_CHECKING:
    from tests.conftest import Contract, TestedServer
    from tests.reward_server.http.conftest import Client

PROMPT = "Q: 2+3?\nA:"
EVAL = {"answer": "5", "mode": "eval"}
CORRECT = WeightedTerm("correctness", Correctness())
SAR = WeightedTerm("sar", SelfAlignedReward(), 0.2)
HOSTILE = [
    "It is 5.<|im_end|>",
    "",
    "😀👩‍👩‍👧‍👦 e\u0301 中文 שלום \u202e5",
    "<|im_end|>",
    "<script>alert(1)</script>\x00\x1b[2J",
    "5 " * 1500,
]


class Longer(GroupTerm):
    """How much longer a response is than its group's shortest."""

    def score_group(self, group: Sequence[Sample]) -> list[float]:
        shortest = min(len(one.response) for one in group)
        return [len(one.response) - shortest for one in group]


def make_body(prompt: str, responses: Sequence[str], label: Any = "5") -> dict[str, Any]:
    return {
        "query": [prompt + response for response in responses],
        "prompts": [prompt] * len(responses),
        "labels": [label] * len(responses),
    }


def test_tokens_agree_with_the_rewards(
    server: TestedServer, contract: Contract, bundled_tokenizer: Any
) -> None:
    """On the live server, with hostile responses; one is longer than the context."""
    prompt = render_prompt(bundled_tokenizer, "What is 2 + 3?", DEFAULT_SYSTEM_PROMPT)
    body = make_body(prompt, HOSTILE)
    status, rewards = server.request("/get_reward", body)
    assert status == 200
    status, answer = server.request("/explain", body)
    assert status == 200
    for index, one in enumerate(answer["rollouts"]):
        logs = {name: values[index] for name, values in rewards["extra_logs"].items()}
        assert (one["prompt"], one["response"]) == (prompt, HOSTILE[index])
        assert one["reward"] == pytest.approx(rewards["rewards"][index], abs=1e-6)
        assert one["correctness"] == logs["correctness"]
        assert one["sar"] == pytest.approx(logs["sar"], abs=1e-6)
        assert (one["response_tokens"], one["terms"]) == (logs["response_tokens"], {})
        assert one["over_context"] == bool(logs["over_context"]) == (index == 5)
        check_tokens(one, math.log(logs["ppl_qa"]), math.log(logs["ppl_a"]))
    first, empty, *_ = answer["rollouts"]
    assert (first["reason"], first["answer"]) == ("correct", "5")
    assert (empty["reason"], empty["answer"]) == ("no_answer", None)
    assert first["tokens"][-1]["text"] == "<|im_end|>"
    assert len(answer["rollouts"][5]["tokens"]) < answer["rollouts"][5]["response_tokens"]


def check_tokens(rollout: dict[str, Any], nll_qa: float, nll_a: float) -> None:
    """The tokens cover the response, or its start, and their means are those of the reward."""
    response, tokens = rollout["response"], rollout["tokens"]
    if not response:
        assert tokens == []
        return
    covered = 0
    for token in tokens:
        assert token["text"] == response[token["start"] : token["end"]]
        assert token["start"] <= covered <= token["end"]
        covered = token["end"]
    assert covered == len(response) or rollout["over_context"]
    assert np.mean([token["nll_qa"] for token in tokens]) == pytest.approx(nll_qa, abs=1e-6)
    assert np.mean([token["nll_a"] for token in tokens]) == pytest.approx(nll_a, abs=1e-6)


@pytest.mark.slow
def test_it_needs_no_weights_to_stand_still(
    start_server: Callable[..., TestedServer],
    checkpoints: dict[int, Path],
    tmp_path: Path,
    bundled_tokenizer: Any,
) -> None:
    """The server follows a folder. All explanations are given, each with the numbers of one of
    the weights."""
    own = start_server("--follow", str(tmp_path))
    own.wait_until_ready()
    prompt = render_prompt(bundled_tokenizer, "What is 2 + 3?", DEFAULT_SYSTEM_PROMPT)
    body = make_body(prompt, [f"It is {n}." for n in range(16)])
    answers: list[tuple[int, Any]] = []
    is_over = threading.Event()

    def explain() -> None:
        while not is_over.is_set():
            answers.append(own.request("/explain", body))

    expected = {0: own.request("/get_reward", body)[1]}
    thread = threading.Thread(target=explain)
    thread.start()
    for step in (10, 20):
        shutil.copytree(checkpoints[step], tmp_path / f"global_step{step}_hf")
        deadline_s = time.monotonic() + 120
        while own.request("/healthz")[1]["policy_version"] != step:
            assert time.monotonic() < deadline_s
            time.sleep(0.05)
        expected[step] = own.request("/get_reward", body)[1]
    num_before = len(answers)
    while len(answers) < num_before + 2:
        time.sleep(0.02)
    is_over.set()
    thread.join()
    versions = []
    for status, answer in answers:
        assert status == 200
        for index, one in enumerate(answer["rollouts"]):
            version = one["policy_version"]
            versions.append(version)
            assert one["reward"] == pytest.approx(expected[version]["rewards"][index], abs=1e-5)
            logs = expected[version]["extra_logs"]
            check_tokens(one, math.log(one["ppl_qa"]), math.log(one["ppl_a"]))
            assert one["ppl_a"] == pytest.approx(logs["ppl_a"][index], rel=1e-4)
    assert versions == sorted(versions)
    assert set(versions) == {0, 10, 20}
    assert own.stop() == 0


def test_terms_are_those_of_the_reward_file(
    make_client: Callable[..., Client], make_contract: type[Contract]
) -> None:
    from reward_server.http.openapi import describe

    client = make_client(CORRECT, SAR, WeightedTerm("repetition", Repetition(), -0.5))
    rollouts: list[tuple[str, str, Any]] = [
        (PROMPT, " 5", "5"),
        (PROMPT, " so so so so so so so so 6", "5"),
        (PROMPT, " 5 5 5 5", EVAL),
    ]
    given = client.send(*rollouts).json
    answer = client.send(*rollouts, path="/explain")
    contract = make_contract(describe(needs_key=False, composition=client.composition))
    contract.check("POST", "/explain", answer.status_code, answer.content_type, answer.data)
    explained = answer.json["rollouts"]
    assert [one["reward"] for one in explained] == pytest.approx(given["rewards"])
    for name in ("correctness", "sar", "repetition"):
        values = [one["terms"][name] for one in explained]
        assert values == pytest.approx(given["extra_logs"][f"term_{name}"])
    assert list(explained[2]["terms"].values()) == [0.0] * 3
    assert int(answer.headers["Content-Length"]) == len(answer.data)


@pytest.mark.parametrize("normalize", ["none", "gdpo"])
def test_siblings_are_compared_if_they_are_there(
    make_client: Callable[..., Client], normalize: str
) -> None:
    client = make_client(
        CORRECT, WeightedTerm("longer", Longer(), 0.5), group_size=2, normalize=normalize
    )
    rollouts: list[tuple[str, str, Any]] = [
        (PROMPT, " 5", "5"),
        ("Q: 1?\nA:", " 1 and no more", "1"),
        (PROMPT, " 5 5 5", "5"),
        (PROMPT, " five", EVAL),
        ("Q: 1?\nA:", " 2", "1"),
    ]
    given = client.send(*rollouts).json
    explained = client.send(*rollouts, path="/explain").json["rollouts"]
    assert [one["reward"] for one in explained] == pytest.approx(given["rewards"])
    longer = [one["terms"]["longer"] for one in explained]
    assert longer == given["extra_logs"]["term_longer"] == [0, 12, 4, 0, 0]


def test_one_without_siblings_has_no_reward_and_waits_for_none(
    make_client: Callable[..., Client], contract: Contract
) -> None:
    client = make_client(CORRECT, WeightedTerm("longer", Longer(), 0.5), group_size=2)
    answer = client.send((PROMPT, " 5", "5"), path="/explain")
    contract.check("POST", "/explain", answer.status_code, answer.content_type, answer.data)
    (one,) = answer.json["rollouts"]
    assert (one["reward"], one["correctness"]) == (None, 1.0)
    assert one["terms"] == {"correctness": 1.0}
    assert client.get("/healthz").json["held_rollouts"] == 0


def test_up_to_64_rollouts(make_client: Callable[..., Client]) -> None:
    client = make_client()
    assert len(client.post("/explain", make_body(PROMPT, [" 5"] * 64)).json["rollouts"]) == 64
    answer = client.post("/explain", make_body(PROMPT, [" 5"] * 65))
    assert answer.status_code == 413
    message = "65 rollouts in a request: /explain takes at most 64"
    assert answer.json["error"] == {"type": "too_large", "message": message, "field": None}
    assert client.post("/explain", make_body(PROMPT, [])).json == {"rollouts": []}


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        (b"{", 400, None),
        ({}, 400, "query"),
        ({**make_body(PROMPT, [" 5"]), "labels": []}, 400, None),
        ({**make_body(PROMPT, [" 5"]), "labels": [{"answer": 5}]}, 400, "labels[0].answer"),
        ({**make_body(PROMPT, [" 5"]), "query": ["another"]}, 400, "query[0]"),
        ({**make_body(PROMPT, [" 5", " 5"]), "query": [PROMPT, "\ud800"]}, 400, "query[1]"),
        (make_body(PROMPT, ["5" * 100_000]), 413, "query[0]"),
    ],
)
def test_mistakes_are_named_as_by_get_reward(
    make_client: Callable[..., Client], contract: Contract, body: Any, status: int, field: str
) -> None:
    client = make_client()
    answer = client.post("/explain", body)
    contract.check("POST", "/explain", status, answer.content_type, answer.data)
    assert (answer.status_code, answer.json["error"]["field"]) == (status, field)
    assert answer.json == client.post("/get_reward", body).json


def test_it_is_not_in_the_counters_of_rewards(make_client: Callable[..., Client]) -> None:
    client = make_client()
    client.post("/explain", make_body(PROMPT, [" 5"] * 3))
    health = client.get("/healthz").json
    assert (health["rollouts"], health["batches"], health["sequences"]) == (0, 0, 0)
    assert ("verdicts_total", "math", "correct") not in client.metrics()
