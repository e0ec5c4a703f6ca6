"""The scorer follows the policy, under load and with incomplete, broken or foreign checkpoints."""

from __future__ import annotations

import shutil
import threading
import time
import urllib.request
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from reward_server.errors import CheckpointRefused, NotReady
from reward_server.pipeline.batcher import Batcher
from reward_server.pipeline.engine import Engine
from reward_server.pipeline.rollout import SubmittedRollout
from reward_server.pipeline.service import RewardService, ServiceLimits
from reward_server.weights.policy import PolicyUpdater
from sar.grading.label import parse_label
from sar.grading.processes.pool import GraderPool
from sar.models import BUNDLED_MODEL
from sar.models.problems import generate
from sar.perplexity import mean_nll, self_aligned_reward
from sar.prompts import DEFAULT_SYSTEM_PROMPT, render_prompt
from sar.scoring.transformers_scorer import TransformersScorer
from sar.tokenization import RolloutTokenizer

if TYPE_CHECKING:
    from tests.conftest import TestedServer

pytestmark = pytest.mark.slow  # they start servers
KEY = "a-key-for-the-tests"
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def requests(bundled_tokenizer: Any) -> list[dict[str, list[str]]]:
    """Requests with one rollout each; correct and incorrect responses alternate."""
    made = []
    for index, problem in zip(range(12), generate(seed=12, held_out=True), strict=False):
        prompt = render_prompt(bundled_tokenizer, problem.question, DEFAULT_SYSTEM_PROMPT)
        text = problem.wrong_end if index % 2 else problem.concise
        made.append(
            {
                "query": [f"{prompt}{text}<|im_end|>"],
                "prompts": [prompt],
                "labels": [str(problem.answer)],
            }
        )
    return made


@pytest.fixture(scope="module")
def expected(
    requests: list[dict[str, list[str]]], checkpoints: dict[int, Path], bundled_tokenizer: Any
) -> dict[int, list[float]]:
    """The expected reward of each request, by policy version."""
    tokenizer = RolloutTokenizer(bundled_tokenizer, system_prompt=DEFAULT_SYSTEM_PROMPT)
    rewards: dict[int, list[float]] = {}
    for version, path in {0: BUNDLED_MODEL, **checkpoints}.items():
        scorer = TransformersScorer.from_pretrained(str(path), device="cpu", max_batch_tokens=4096)
        rewards[version] = []
        for index, request in enumerate(requests):
            prompt = request["prompts"][0]
            encoded = tokenizer.encode(prompt, request["query"][0].removeprefix(prompt))
            nll_qa, nll_a = map(mean_nll, scorer.response_logprobs(encoded.sequences))
            correctness = 1.0 - index % 2
            rewards[version].append(correctness + 0.2 * self_aligned_reward(nll_qa, nll_a))
    return rewards


# A live server that follows a folder of checkpoints.


def test_a_server_follows_its_policy_under_load(
    start_server: Callable[..., TestedServer],
    checkpoints: dict[int, Path],
    requests: list[dict[str, list[str]]],
    expected: dict[int, list[float]],
    tmp_path: Path,
) -> None:
    folder = tmp_path / "ckpt"
    server = start_server("--follow", str(folder))
    server.wait_until_ready()
    answers: list[tuple[int, int, Any]] = []
    stop = threading.Event()

    def send_requests(first: int) -> None:
        index = first
        while not stop.is_set():
            answers.append((index, *server.request("/get_reward", requests[index])))
            index = (index + 1) % len(requests)

    with ThreadPoolExecutor(3) as load:
        for first in range(3):
            load.submit(send_requests, first)
        try:
            _wait_until(lambda: len(answers) > 20)
            _copy_like_a_trainer(checkpoints[10], folder / "global_step10_hf")
            _wait_for_version(server, 10)
            _write_cut_off(checkpoints[20], folder / "global_step15_hf")
            _write_other_model(checkpoints[10], folder / "global_step17_hf")
            _wait_until(lambda: server.request("/healthz")[1]["checkpoints_refused"] == 1)
            _copy_like_a_trainer(checkpoints[20], folder / "global_step20_hf")
            _wait_for_version(server, 20)
            num_before = len(answers)
            _wait_until(lambda: len(answers) > num_before + 20)
        finally:
            stop.set()
    seen = set()
    for index, status, body in answers:
        assert status == 200, body
        version = body["extra_logs"]["policy_version"][0]
        seen.add(version)
        assert body["rewards"][0] == pytest.approx(expected[version][index], abs=TOLERANCE)
        assert body["extra_logs"]["policy_age_s"][0] >= 0
    assert seen == {0, 10, 20}
    assert answers[-1][2]["extra_logs"]["policy_version"] == [20]
    # The rewards differ between versions, so the test would notice a mix-up.
    assert abs(expected[0][0] - expected[10][0]) > 10 * TOLERANCE
    assert "another model" in server.log.read_text()
    metrics = server.request("/metrics")[1]
    assert "reward_server_policy_version 20.0" in metrics
    assert "reward_server_checkpoints_refused_total 1.0" in metrics
    assert server.stop() == 0


def test_update_weights_needs_a_key_and_a_complete_checkpoint(
    start_server: Callable[..., TestedServer],
    checkpoints: dict[int, Path],
    requests: list[dict[str, list[str]]],
    expected: dict[int, list[float]],
    tmp_path: Path,
) -> None:
    keys = tmp_path / "keys"
    keys.write_text(KEY)
    server = start_server("--api-key-file", str(keys))
    server.wait_until_ready()
    body = {"path": str(checkpoints[20])}
    assert server.request("/update_weights", body)[0] == 401
    opener = urllib.request.build_opener()
    opener.addheaders = [("Authorization", f"Bearer {KEY}")]
    urllib.request.install_opener(opener)
    try:
        malformed: list[Any] = [
            {},
            {"path": 5},
            {"path": str(tmp_path / "none")},
            [],
            {"path": "\0"},
        ]
        for wrong in malformed:
            assert server.request("/update_weights", wrong)[0] == 400, wrong
        torn = _write_cut_off(checkpoints[20], tmp_path / "torn")
        status, answer = server.request("/update_weights", {"path": str(torn)})
        assert (status, answer["error"]["field"]) == (400, "path")
        assert server.request("/get_reward", requests[0])[1]["rewards"] == pytest.approx(
            expected[0][:1], abs=1e-4
        )
        assert server.request("/update_weights", body) == (200, {"policy_version": 20})
        assert server.request("/get_reward", requests[0])[1]["rewards"] == pytest.approx(
            expected[20][:1], abs=1e-4
        )
    finally:
        urllib.request.install_opener(urllib.request.build_opener())
    assert server.stop() == 0


def test_a_server_without_keys_refuses_new_weights(
    server: TestedServer, checkpoints: dict[int, Path]
) -> None:
    assert server.request("/update_weights", {"path": str(checkpoints[10])})[0] == 403


# In one process: what happens to the old engine.


class _StubScorer:
    """Gives every token the same log-probability, once `may_go` is set."""

    max_context_tokens = None

    def __init__(self, value: float) -> None:
        self.value = value
        self.may_go = threading.Event()
        self.may_go.set()

    def response_logprobs(self, sequences: Any) -> list[Any]:
        self.may_go.wait(10)
        return [np.full(len(s.response_ids), self.value, np.float32) for s in sequences]


@pytest.fixture(scope="module")
def graders() -> Iterator[GraderPool]:
    pool = GraderPool(1, 5.0)
    yield pool
    pool.close()


@pytest.mark.parametrize("has_room", [True, False])
def test_a_request_keeps_the_weights_it_began_with(
    graders: GraderPool, bundled_tokenizer: Any, checkpoints: dict[int, Path], has_room: bool
) -> None:
    made: list[_StubScorer] = []
    tokenizer = RolloutTokenizer(bundled_tokenizer, system_prompt="")

    def load(path: str) -> Engine:
        if "broken" in path:
            raise ValueError("broken")
        made.append(_StubScorer(-float(len(made) + 1)))
        return Engine(tokenizer, Batcher(made[-1], 100), path, {"class": "one"}, lambda: has_room)

    service = RewardService(graders, sar_weight=0.2, limits=ServiceLimits(60, 2**31))
    service.engines.start(load("start"))
    updater = PolicyUpdater(service.engines, load)
    samples = _samples()
    made[0].may_go.clear()
    with ThreadPoolExecutor(2) as background:
        first = background.submit(service.compute_rewards, samples, service.new_client())
        _wait_until(lambda: service.status.in_flight == 6)
        updating = updater.update(checkpoints[10])
        if has_room:
            _wait_until(lambda: service.status.policy_version == 10)
        else:
            _wait_until(lambda: service.state == "loading")
            assert len(made) == 1  # the new weights are not loaded before the old ones are gone
        second = background.submit(service.compute_rewards, samples, service.new_client())
        if has_room:
            second.result(30)
        else:
            time.sleep(0.2)
            assert not second.done()
        assert not updating.done()  # the old weights still score a request
        made[0].may_go.set()
        assert {(s.policy_version, s.reward.likelihood.nll_qa) for s in first.result()} == {
            (0, 1.0)
        }
        assert {(s.policy_version, s.reward.likelihood.nll_qa) for s in second.result()} == {
            (10, 2.0)
        }
        assert updating.result() == 10
    broken = shutil.copytree(checkpoints[10], checkpoints[10].parent / f"broken{has_room}")
    with pytest.raises(CheckpointRefused, match="broken"):
        updater.update(broken).result()
    assert service.status.checkpoints_refused == 1
    assert {s.policy_version for s in service.compute_rewards(samples, service.new_client())} == {
        10
    }
    updater.close()
    service.engines.close(10)


@pytest.mark.parametrize("has_room", [True, False])
def test_the_old_weights_leave_memory(
    graders: GraderPool,
    bundled_tokenizer: Any,
    checkpoints: dict[int, Path],
    has_room: bool,
    tmp_path: Path,
) -> None:
    """And so do those of a checkpoint that is refused, before the old ones are loaded again."""
    models: list[weakref.ref[Any]] = []
    tokenizer = RolloutTokenizer(bundled_tokenizer, system_prompt="")

    def num_in_memory() -> int:
        return sum(model() is not None for model in models)

    def load(path: str) -> Engine:
        assert num_in_memory() <= has_room  # without room, the old weights are gone by now
        scorer = TransformersScorer.from_pretrained(path, device="cpu", max_batch_tokens=1000)
        models.append(weakref.ref(scorer._model))
        has_room_for_copy = scorer.make_room_check()
        return Engine(
            tokenizer,
            Batcher(scorer, 1000),
            path,
            scorer.architecture,
            lambda: has_room_for_copy() and has_room,
        )

    service = RewardService(graders, sar_weight=0.2, limits=ServiceLimits(60, 2**31))
    service.engines.start(load(str(BUNDLED_MODEL)))
    updater = PolicyUpdater(service.engines, load)
    for step in (10, 20, 10):
        assert updater.update(checkpoints[step]).result() == step
        assert num_in_memory() == 1
    _write_other_model(checkpoints[10], tmp_path / "other")
    for _ in range(2):
        with pytest.raises(CheckpointRefused, match="another model"):
            updater.update(tmp_path / "other").result()
        assert num_in_memory() == 1
    updater.close()
    service.engines.close(10)


@pytest.mark.parametrize("has_room", [True, False])
def test_close_does_not_wait_for_a_load(
    graders: GraderPool, bundled_tokenizer: Any, checkpoints: dict[int, Path], has_room: bool
) -> None:
    loading, may_load = threading.Event(), threading.Event()
    tokenizer = RolloutTokenizer(bundled_tokenizer, system_prompt="")

    def load(path: str) -> Engine:
        if path != "start":
            loading.set()
            assert may_load.wait(30)
        return Engine(
            tokenizer, Batcher(_StubScorer(-1.0), 100), path, {"class": "one"}, lambda: has_room
        )

    service = RewardService(graders, sar_weight=0.2, limits=ServiceLimits(60, 2**31))
    service.engines.start(load("start"))
    updater = PolicyUpdater(service.engines, load)
    with ThreadPoolExecutor(1) as background:
        try:
            updating = updater.update(checkpoints[10])
            assert loading.wait(10)
            waiting = updater.update(checkpoints[20])
            accepted = background.submit(service.compute_rewards, _samples(), service.new_client())
            updater.close()
            # Each update fails at once, though the load goes on.
            for update in (updating, waiting):
                with pytest.raises(NotReady, match="stopping"):
                    update.result(5)
            with pytest.raises(NotReady, match="stopping"):
                updater.update(checkpoints[20])
            if has_room:
                accepted.result(30)
            assert updater.is_loading
        finally:
            may_load.set()
        # Without room the old weights go first, and the request waits for the new ones.
        version = 0 if has_room else 10
        assert {s.policy_version for s in accepted.result(30)} == {version}
        _wait_until(lambda: not updater.is_loading)
    service.engines.close(10)


def _samples() -> list[SubmittedRollout]:
    return [
        SubmittedRollout(f"Q: {n}\nA: 5", f"Q: {n}\nA:", parse_label("5"), "5") for n in range(6)
    ]


def _copy_like_a_trainer(source: Path, target: Path) -> None:
    """Copies file by file, the weights in pieces, the tokenizer last."""
    target.mkdir(parents=True)
    files = sorted(source.iterdir(), key=lambda f: ("token" in f.name, f.name))
    for file in files:
        data = file.read_bytes()
        with (target / file.name).open("wb") as opened:
            for start in range(0, len(data), 1 << 20):
                opened.write(data[start : start + (1 << 20)])
                opened.flush()
                time.sleep(0.02)


def _write_cut_off(source: Path, target: Path) -> Path:
    shutil.copytree(source, target)
    (file, *_) = sorted(target.glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-100])
    return target


def _write_other_model(source: Path, target: Path) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(source)
    config.num_hidden_layers = 1
    config.layer_types = config.layer_types[:1]
    torch.manual_seed(0)
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.safetensors*"))
    AutoModelForCausalLM.from_config(config).save_pretrained(target)


def _wait_for_version(server: TestedServer, version: int) -> None:
    _wait_until(lambda: server.request("/healthz")[1]["policy_version"] == version)


def _wait_until(condition: Callable[[], Any], within_s: float = 60.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
