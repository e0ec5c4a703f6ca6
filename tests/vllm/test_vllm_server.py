"""The server over vLLM itself: what happens when something dies, stops or changes."""

from __future__ import annotations

import math
import os
import shutil
import signal
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

ON_CUDA = torch.cuda.is_available()
DTYPE = "bfloat16" if ON_CUDA else "float32"
TOLERANCE = 2e-2 if ON_CUDA else 1e-3
FLAGS = ("--backend", "vllm", "--dtype", DTYPE, "--max-batch-tokens", "2048")
LOADING_S = 300.0
# /update_weights needs a key.
KEY = "0123456789abcdef"
PROMPT = "Tom has 3 pens and buys 4 pens. How many pens does Tom have?"
ROLLOUTS = {
    "query": [f"{PROMPT}{answer}" for answer in (" 3 + 4 = 7. The answer is 7.", " It is 8.")],
    "prompts": [PROMPT] * 2,
    "labels": ["7", "7"],
}


@pytest.fixture(scope="module", autouse=True)
def key() -> Iterator[None]:
    """Sends the key with each request."""
    opener = urllib.request.build_opener()
    opener.addheaders = [("Authorization", f"Bearer {KEY}")]
    urllib.request.install_opener(opener)
    yield
    urllib.request.install_opener(urllib.request.build_opener())


@pytest.fixture(scope="module")
def start(start_server: Callable[..., Any], vllm_installed: None) -> Callable[..., Any]:
    """Starts a server over vLLM and waits until it is ready."""

    def start(*arguments: str) -> Any:
        environ = {"REWARD_SERVER_API_KEY": KEY}
        server = start_server(*FLAGS, *arguments, environ=environ)
        server.wait_until_ready()
        return server

    return start


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trainer's folder. Its checkpoints appear by a rename."""
    return tmp_path_factory.mktemp("followed")


@pytest.fixture(scope="module")
def server(start: Callable[..., Any], followed: Path) -> Any:
    """The server that most tests share; the last one stops it."""
    return start("--follow", str(followed), "--vllm-memory-share", "0.92" if ON_CUDA else "0.5")


@pytest.fixture(scope="module")
def expected_rewards(start_server: Callable[..., Any]) -> Iterator[Callable[[Path], list[float]]]:
    """Rewards of the transformers backend for a checkpoint."""
    reference = start_server("--dtype", DTYPE, environ={"REWARD_SERVER_API_KEY": KEY})
    reference.wait_until_ready()

    def expect(checkpoint: Path) -> list[float]:
        body = {"path": str(checkpoint)}
        assert reference.request("/update_weights", body)[0] == 200
        return request_rewards(reference)

    yield expect
    reference.stop()


def request_rewards(server: Any) -> list[float]:
    status, answer = server.request("/get_reward", ROLLOUTS)
    assert status == 200, answer
    assert answer["scores"] == [1.0, 0.0]
    rewards: list[float] = answer["rewards"]
    return rewards


def find_engine(server: Any) -> psutil.Process:
    """The process in which the server's vLLM runs."""
    (engine,) = (
        child
        for child in psutil.Process(server.process.pid).children()
        if "sar.scoring.vllm_child" in child.cmdline()
    )
    return engine


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = LOADING_S) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, what
        time.sleep(0.1)


def test_rewards_equal_those_of_transformers(
    server: Any,
    expected_rewards: Callable[[Path], list[float]],
    bundled_model_path: Path,
) -> None:
    expected = expected_rewards(bundled_model_path)
    assert request_rewards(server) == pytest.approx(expected, abs=TOLERANCE)
    where = "1 GPU(s)" if ON_CUDA else "CPU"
    assert f"context 1023 tokens, {where}; scoring path vllm\n" in server.log.read_text()


def test_explained_tokens_give_the_rewards(server: Any) -> None:
    status, rewards = server.request("/get_reward", ROLLOUTS)
    assert status == 200
    status, answer = server.request("/explain", ROLLOUTS)
    assert status == 200
    for index, one in enumerate(answer["rollouts"]):
        assert one["reward"] == pytest.approx(rewards["rewards"][index], abs=TOLERANCE)
        for nll, perplexity in (("nll_qa", "ppl_qa"), ("nll_a", "ppl_a")):
            mean = sum(token[nll] for token in one["tokens"]) / len(one["tokens"])
            expected = rewards["extra_logs"][perplexity][index]
            assert math.exp(mean) == pytest.approx(expected, rel=TOLERANCE)
        assert "".join(token["text"] for token in one["tokens"]) == one["response"]


def test_requests_wait_while_a_dead_engine_is_started_again(server: Any) -> None:
    before = request_rewards(server)
    engine = find_engine(server)
    engine.kill()
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: request_rewards(server), range(8)))
    assert answers == [pytest.approx(before, abs=1e-5)] * 8
    assert server.request("/readyz")[0] == 200
    assert find_engine(server).pid != engine.pid
    assert "vLLM's process is started again" in server.log.read_text()


def test_a_checkpoint_that_is_refused_interrupts_nothing(
    server: Any, checkpoints: dict[int, Path], tmp_path: Path
) -> None:
    """vLLM itself would take NaN, and constants."""
    from safetensors.torch import load_file, save_file

    before, engine = request_rewards(server), find_engine(server)
    broken = tmp_path / "broken"
    shutil.copytree(checkpoints[10], broken)
    tensors = load_file(broken / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    good = tensors.pop(name)
    for change, words in (
        ({}, "1 tensor missing"),
        ({name: good, "model.more.weight": good.clone()}, "1 tensor unexpected"),
        ({name: good * float("nan")}, "NaN or infinity"),
        ({name: torch.zeros_like(good)}, "same value everywhere"),
        ({name: good[:-3].clone()}, "of another shape"),
    ):
        save_file(tensors | change, broken / "model.safetensors", {"format": "pt"})
        status, answer = server.request("/update_weights", {"path": str(broken)})
        assert (status, answer["error"]["field"]) == (400, "path"), answer
        assert words in answer["error"]["message"]
    assert request_rewards(server) == before
    assert find_engine(server) == engine


def test_it_follows_the_policys_checkpoints(
    server: Any,
    followed: Path,
    checkpoints: dict[int, Path],
    expected_rewards: Callable[[Path], list[float]],
) -> None:
    before = request_rewards(server)
    shutil.copytree(checkpoints[20], followed / "being_copied")
    (followed / "being_copied").rename(followed / "global_step20_hf")
    seen: list[tuple[int, list[float]]] = []
    while not seen or seen[-1][0] < 20:
        # Requests go on during the update; each is scored by one checkpoint.
        status, answer = server.request("/get_reward", ROLLOUTS)
        assert status == 200, answer
        (version,) = set(answer["extra_logs"]["policy_version"])
        seen.append((version, answer["rewards"]))
        time.sleep(0.1)
    expected = expected_rewards(checkpoints[20])
    assert max(abs(a - b) for a, b in zip(before, expected, strict=True)) > 10 * TOLERANCE
    for version, rewards in seen:
        wanted = expected if version == 20 else before
        assert rewards == pytest.approx(wanted, abs=TOLERANCE)
    assert server.request("/healthz")[1]["policy_version"] == 20


def test_ctrl_c_comes_after_the_requests_in_flight(server: Any) -> None:
    """A terminal sends the signal to all processes of its session."""
    engine = find_engine(server)
    with ThreadPoolExecutor(32) as pool:
        answers = [pool.submit(request_rewards, server) for _ in range(32)]
        wait_until(lambda: server.request("/healthz")[1]["in_flight"] > 0, "no request arrived")
        session = os.getsid(server.process.pid)
        for process in psutil.process_iter():
            with suppress(ProcessLookupError, psutil.NoSuchProcess):
                is_of_server = server.process.pid in [p.pid for p in process.parents()]
                if is_of_server and os.getsid(process.pid) == session:
                    process.send_signal(signal.SIGINT)
        server.process.send_signal(signal.SIGINT)
        for answer in answers:
            answer.result()
    assert server.process.wait(60) == 0, server.log.read_text()
    wait_until(lambda: not engine.is_running(), "vLLM outlives the server")


def test_nothing_outlives_a_server_that_is_killed(
    start: Callable[..., Any], checkpoints: dict[int, Path]
) -> None:
    """This server's two engines fit into memory: the old one answers while the new one starts."""
    server = start("--vllm-memory-share", "0.4")
    first = find_engine(server)
    with ThreadPoolExecutor(1) as pool:
        path = {"path": str(checkpoints[10])}
        update = pool.submit(server.request, "/update_weights", path)
        num_answers = 0
        while not update.done():
            request_rewards(server)
            num_answers += 1
        assert update.result()[0] == 200
    assert num_answers > 1
    assert not first.is_running()
    engine = find_engine(server)
    family = [engine, *engine.children(recursive=True)]
    server.process.kill()
    for process in family:
        wait_until(lambda process=process: not process.is_running(), f"{process} is left", 30)  # type: ignore[misc]
