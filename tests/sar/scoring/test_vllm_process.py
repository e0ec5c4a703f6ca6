"""vLLM's process as the server sees it. A stand-in takes vLLM's place in that process: it obeys the
tokens it is given, and has a worker process. tests/vllm does the same with vLLM itself."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sar.scoring import TokenSequence
from sar.scoring.vllm_process import VllmNotStarted, VllmProcess

ROOT = Path(__file__).parents[3]
DIE, BREAK, REFUSE = 91, 92, 93
STAND_IN = f"""
import os, signal, subprocess, tempfile, types
from vllm.exceptions import VLLMValidationError

class SamplingParams:
    def __init__(self, **given): pass

class LLM:
    def __init__(self, model, max_model_len, gpu_memory_utilization, **given):
        if os.path.exists(model + "/refuse"):
            raise ValueError("told to refuse")
        space = types.SimpleNamespace
        max_model_len = max_model_len if max_model_len > 0 else 64
        self.llm_engine = space(vllm_config=space(
            model_config=space(max_model_len=max_model_len, dtype="float32", architectures=["M"]),
            parallel_config=space(tensor_parallel_size=1), device_config=space(device_type="cpu"),
            cache_config=space(gpu_memory_utilization=gpu_memory_utilization)))
        open(model + "/folder", "w").write(tempfile.mkstemp()[1])
        worker = subprocess.Popen(["sleep", "1000"])
        with open(model + "/pids", "w") as file:
            file.write(f"{{os.getpid()}} {{worker.pid}}")

    def generate(self, prompts, params, use_tqdm):
        ids = [prompt["prompt_token_ids"] for prompt in prompts]
        if any({DIE} in one for one in ids):
            os.kill(os.getpid(), signal.SIGKILL)
        if any({BREAK} in one for one in ids):
            raise RuntimeError("told to break")
        if any({REFUSE} in one for one in ids):
            raise VLLMValidationError("told to refuse")
        return [types.SimpleNamespace(prompt_logprobs=types.SimpleNamespace(
            token_ids=one[1:], logprobs=[-token / 8 for token in one[1:]])) for one in ids]
"""
GOOD = TokenSequence([1, 2], [3, 4])


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of a model, and the stand-in where Python finds it first."""
    (tmp_path / "vllm").mkdir()
    (tmp_path / "vllm" / "__init__.py").write_text(STAND_IN)
    (tmp_path / "vllm" / "exceptions.py").write_text("class VLLMValidationError(Exception): pass\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    folder = tmp_path / "model"
    folder.mkdir()
    return folder


@pytest.fixture
def start(model: Path) -> Iterator[Callable[..., VllmProcess]]:
    started = []

    def start(**options: Any) -> VllmProcess:
        scorer = VllmProcess(str(model), architecture={}, max_batch_tokens=100, **options)
        started.append(scorer)
        return scorer

    yield start
    for scorer in started:
        scorer.close()


def read_pids(model: Path) -> tuple[int, int]:
    """vLLM's process, and its worker's."""
    engine, worker = map(int, (model / "pids").read_text().split())
    return engine, worker


def wait_until_gone(*pids: int) -> None:
    deadline_s = time.monotonic() + 20
    while alive := [pid for pid in pids if is_running(pid)]:
        assert time.monotonic() < deadline_s, alive
        time.sleep(0.05)


def is_running(pid: int) -> bool:
    """False also for a process that only waits for its parent to notice its end, which the parent
    sees when the last of its threads has ended."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        num_threads = len(list(Path(f"/proc/{pid}/task").iterdir()))
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z" or num_threads > 1


def assert_scores(scorer: VllmProcess) -> None:
    (logprobs,) = scorer.response_logprobs([GOOD])
    np.testing.assert_array_equal(logprobs, np.array([-3 / 8, -4 / 8], np.float32))


def test_it_scores_and_says_what_it_is(start: Callable[..., VllmProcess]) -> None:
    scorer = start(memory_share=0.5)
    assert_scores(scorer)
    assert scorer.response_logprobs([]) == []
    assert scorer.max_context_tokens == 63
    assert scorer.description == "M in vLLM, float32, context 63 tokens, CPU"


def test_self_certainty_is_refused_and_the_process_goes_on(
    start: Callable[..., VllmProcess],
) -> None:
    scorer = start()
    with pytest.raises(ValueError, match="vLLM returns no logits"):
        scorer.response_logprobs([GOOD, TokenSequence([1, 2], [3], wants_certainty=True)])
    assert_scores(scorer)


@pytest.mark.parametrize(("share", "has_room"), [(0.45, True), (0.46, False), (0.92, False)])
def test_two_fit_into_memory_if_their_shares_do(
    share: float, has_room: bool, start: Callable[..., VllmProcess]
) -> None:
    assert start(memory_share=share).make_room_check()() is has_room


@pytest.mark.parametrize(
    ("token", "error"),
    [(DIE, "was ended by signal 9"), (BREAK, "RuntimeError: told to break")],
)
def test_a_dead_or_broken_vllm_is_started_again(
    token: int, error: str, start: Callable[..., VllmProcess], model: Path
) -> None:
    lost: list[bool] = []
    scorer = start(on_lost=lambda: lost.append(True))
    before = read_pids(model)
    with pytest.raises(RuntimeError, match=error):
        scorer.response_logprobs([TokenSequence([1], [token])])
    assert_scores(scorer)
    assert read_pids(model) != before
    wait_until_gone(*before)
    assert scorer.max_context_tokens == 63
    assert not lost


def test_one_that_dies_while_it_is_idle_is_started_again(
    start: Callable[..., VllmProcess], model: Path
) -> None:
    scorer = start()
    engine, worker = read_pids(model)
    os.kill(engine, signal.SIGKILL)
    wait_until_gone(engine)
    assert_scores(scorer)
    wait_until_gone(worker)


def test_a_refused_sequence_leaves_it_running(
    start: Callable[..., VllmProcess], model: Path
) -> None:
    scorer = start()
    before = read_pids(model)
    with pytest.raises(RuntimeError, match="VLLMValidationError: told to refuse"):
        scorer.response_logprobs([TokenSequence([1], [REFUSE])])
    assert_scores(scorer)
    assert read_pids(model) == before


@pytest.mark.parametrize("reason", ["told to refuse", "have changed"])
def test_one_that_does_not_start_again_is_lost(
    reason: str, start: Callable[..., VllmProcess], model: Path
) -> None:
    lost: list[bool] = []
    scorer = start(on_lost=lambda: lost.append(True), has_changed=lambda: reason == "have changed")
    (model / "refuse").touch()
    os.kill(read_pids(model)[0], signal.SIGKILL)
    wait_until_gone(read_pids(model)[0])
    with pytest.raises(RuntimeError, match=reason):
        scorer.response_logprobs([GOOD])
    with pytest.raises(RuntimeError, match="did not start again"):
        scorer.response_logprobs([GOOD])
    assert lost == [True]


def test_what_fails_at_the_start(start: Callable[..., VllmProcess], model: Path) -> None:
    (model / "refuse").touch()
    with pytest.raises(VllmNotStarted, match="ValueError: told to refuse"):
        start()


def test_all_processes_end_when_it_is_closed_or_collected(
    start: Callable[..., VllmProcess], model: Path
) -> None:
    start().close()
    wait_until_gone(*read_pids(model))
    scorer = VllmProcess(str(model), architecture={}, max_batch_tokens=100)
    pids = read_pids(model)
    assert all(map(is_running, pids))
    del scorer
    gc.collect()
    wait_until_gone(*pids)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_all_processes_end_with_the_server(number: signal.Signals, model: Path) -> None:
    program = (
        "import sys, time; from sar.scoring.vllm_process import VllmProcess\n"
        "scorer = VllmProcess(sys.argv[1], architecture={}, max_batch_tokens=100)\n"
        "print('ready', flush=True); time.sleep(1000)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(model)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as server:
        assert server.stdout
        assert server.stdout.readline() == b"ready\n"
        pids = read_pids(model)
        assert all(map(is_running, pids))
        server.send_signal(number)
    wait_until_gone(*pids)
    left = Path((model / "folder").read_text())
    assert left.parent.name.startswith("vllm_")
    assert not left.parent.exists()


def test_a_terminals_signals_do_not_reach_it(
    start: Callable[..., VllmProcess], model: Path
) -> None:
    start()
    for pid in read_pids(model):
        assert os.getsid(pid) != os.getsid(0)
        assert os.getpgid(pid) != os.getpgid(0)


@pytest.mark.slow
def test_a_server_whose_vllm_does_not_start_again_exits_with_1(
    model: Path, bundled_model_path: Path, start_server: Callable[..., Any]
) -> None:
    """An orchestrator starts it again. What it had accepted gets an error, not silence."""
    shutil.copytree(bundled_model_path, model, dirs_exist_ok=True)
    environ = {"PYTHONPATH": os.environ["PYTHONPATH"]}
    server = start_server("--backend", "vllm", "--model", str(model), environ=environ)
    server.wait_until_ready()
    rollout = {"query": ["2+3=5"], "prompts": ["2+3="], "labels": ["5"]}
    assert server.request("/get_reward", rollout)[0] == 200
    (model / "refuse").touch()
    engine, worker = read_pids(model)
    os.kill(engine, signal.SIGKILL)
    status, answer = server.request("/get_reward", rollout)
    assert status == 500
    assert "vLLM ended and d" in answer["error"]["message"]
    assert server.process.wait(60) == 1
    assert "vLLM does not start again: ValueError: told to refuse" in server.log.read_text()
    wait_until_gone(engine, worker)
