"""The server as a process: while it loads its model, when it stops, and when it cannot start."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sar.models import BUNDLED_MODEL
from sar.models.problems import generate
from sar.prompts import DEFAULT_SYSTEM_PROMPT, render_prompt

if TYPE_CHECKING:
    from tests.conftest import TestedServer

pytestmark = pytest.mark.slow  # they start servers
ROOT = Path(__file__).parents[2]
NUM_REQUESTS = 48


@pytest.fixture(scope="module")
def payloads(bundled_tokenizer: Any) -> list[dict[str, list[str]]]:
    """Requests of one rollout each, long enough to take a while."""
    made = []
    for index, problem in enumerate(islice(generate(seed=8, held_out=True), NUM_REQUESTS)):
        prompt = render_prompt(bundled_tokenizer, problem.question, DEFAULT_SYSTEM_PROMPT)
        last = problem.answer + index % 2
        response = f"{problem.padded} " * 2 + f"\nAnswer: {last}<|im_end|>"
        made.append(
            {"query": [prompt + response], "prompts": [prompt], "labels": [str(problem.answer)]}
        )
    return made


class Posts:
    """Sends each request from a thread of its own, and keeps the answers by index."""

    def __init__(self, server: Any, payloads: list[dict[str, list[str]]]) -> None:
        self.answers: dict[int, Any] = {}
        self._threads = [
            threading.Thread(target=self._post, args=(server, index, payload), daemon=True)
            for index, payload in enumerate(payloads)
        ]
        for thread in self._threads:
            thread.start()

    def _post(self, server: Any, index: int, payload: dict[str, list[str]]) -> None:
        try:
            self.answers[index] = server.request("/get_reward", payload)
        except OSError as error:
            self.answers[index] = (repr(error), None)

    def wait(self) -> list[Any]:
        for thread in self._threads:
            thread.join(60)
        return [self.answers.get(index) for index in range(len(self._threads))]


def test_requests_are_held_while_loading_and_finished_when_stopping(
    start_server: Callable[..., Any], payloads: list[dict[str, list[str]]]
) -> None:
    """Tests loading and stopping with one server, because a start is slow."""
    starting = start_server()
    assert starting.request("/readyz") == (503, {"status": "loading"})
    early = Posts(starting, payloads[:8])
    _wait_until(lambda: starting.request("/healthz")[1]["in_flight"] == 8)
    health = starting.request("/healthz")[1]
    assert (health["status"], health["ready"], early.answers) == ("ok", False, {})
    starting.wait_until_ready()
    first = early.wait()
    assert [status for status, _ in first] == [200] * 8
    assert [body["scores"] for _, body in first] == [[1.0], [0.0]] * 4

    late = Posts(starting, payloads)
    _wait_until(lambda: starting.request("/healthz")[1]["in_flight"] > NUM_REQUESTS // 2)
    # The server cannot answer a connection it never saw: wait until all have arrived.
    _wait_until(
        lambda: starting.request("/healthz")[1]["in_flight"] + len(late.answers) >= NUM_REQUESTS
    )
    num_before = len(late.answers)
    starting.process.send_signal(signal.SIGTERM)
    second = late.wait()
    assert starting.process.wait(30) == 0
    assert num_before < NUM_REQUESTS, "the signal came too late to show anything"
    assert [status for status, _ in second] == [200] * NUM_REQUESTS
    assert [body["scores"] for _, body in second] == [[1.0], [0.0]] * (NUM_REQUESTS // 2)
    assert [body["rewards"] for _, body in second[:8]] == [
        pytest.approx(body["rewards"], abs=1e-4) for _, body in first
    ]
    log = starting.log.read_text()
    assert "Traceback" not in log
    assert "ERROR" not in log


def test_ctrl_c_while_loading_answers_what_is_held(
    start_server: Callable[..., Any], payloads: list[dict[str, list[str]]]
) -> None:
    starting = start_server()
    held = Posts(starting, payloads[:4])
    _wait_until(lambda: starting.request("/healthz")[1]["in_flight"] == 4)
    starting.process.send_signal(signal.SIGINT)
    assert [status for status, _ in held.wait()] == [200] * 4
    assert starting.process.wait(30) == 0
    assert "Traceback" not in starting.log.read_text()


_SIGNAL_IN_ANOTHER_THREAD = """
import signal, threading, time
from reward_server.__main__ import _Stop
stop = _Stop()
def receive():
    time.sleep(0.5)
    signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
    time.sleep(60)
threading.Thread(target=receive, daemon=True).start()
stop.wait()
"""

# Without pauses, the main thread is nearly always at work when the signal comes.
_SIGNALS_AT_ANY_MOMENT = """
import os, signal, threading, reward_server.__main__ as program
program._POLL_S = 0
for number in range(1000):
    stop = program._Stop()
    delay_s = 0.001 + 0.0001 * (number % 7)
    threading.Timer(delay_s, os.kill, (os.getpid(), signal.SIGTERM)).start()
    stop.wait()
"""


@pytest.mark.parametrize("program", [_SIGNAL_IN_ANOTHER_THREAD, _SIGNALS_AT_ANY_MOMENT])
def test_a_signal_stops_the_server(program: str) -> None:
    """Whichever thread the system chooses for it, and whatever the main thread does just then."""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT, timeout=600)


# Runs the real command line several times in forked processes, so that torch is imported once.
_DRIVER = """
import os, runpy, sys, traceback
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.models.qwen3 import modeling_qwen3
for number, line in enumerate(open(sys.argv[1]).read().splitlines()):
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.dup2(os.open(f"{sys.argv[1]}.{number}", os.O_CREAT | os.O_WRONLY), 2)
            sys.argv = ["reward_server", *line.split("\\t")]
            runpy.run_module("reward_server", run_name="__main__")
        except SystemExit as ended:
            code = ended.code
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


@pytest.fixture(scope="module")
def refusals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str, str]]:
    """For each bad start: the exit code, standard error, and the bad value."""
    folder = tmp_path_factory.mktemp("models")
    taken = socket.create_server(("127.0.0.1", 0))
    port = str(taken.getsockname()[1])

    def broken(name: str, file: str, content: bytes) -> str:
        shutil.copytree(BUNDLED_MODEL, folder / name)
        (folder / name / file).write_bytes(content)
        return str(folder / name)

    weights = (BUNDLED_MODEL / "model.safetensors").read_bytes()
    models = {
        "no model": str(folder),
        "half the weights": broken("b", "model.safetensors", weights[: len(weights) // 2]),
        "unknown architecture": broken("f", "config.json", b'{"model_type": "none-such"}'),
        "half a tokenizer": broken("h", "tokenizer.json", b'{"version": "1.0", "trunc'),
        "a LoRA adapter": broken("l", "adapter_config.json", b"{}"),
        "unknown hub id": "no-such-owner/no-such-model",
    }
    cases = {name: (["--model", model], model) for name, model in models.items()}
    cases["missing folder"] = (["--model", "/none/such"], "/none/such")
    cases["no CUDA"] = (["--device", "cuda"], "cuda")
    cases["unknown device"] = (["--device", "gpu"], "gpu")
    cases["port in use"] = (["--port", port], port)
    cases["port out of range"] = (["--port", "70000"], "70000")
    cases["unknown host"] = (["--host", "256.1.1.1", "--allow-anyone"], "256.1.1.1")
    cases["reachable without a key"] = (["--host", "0.0.0.0"], "--host 0.0.0.0")
    cases["unknown flag"] = (["--modle", "x"], "--modle")
    cases["small context"] = (["--max-context-tokens", "20"], "20")
    arguments = folder / "arguments"
    lines = ["\t".join(["--port", "0", *given]) for given, _ in cases.values()]
    arguments.write_text("\n".join(lines))
    done = subprocess.run(
        [sys.executable, "-c", _DRIVER, str(arguments)],
        cwd=ROOT,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=600,
    )
    taken.close()
    assert done.returncode == 0, done.stderr
    codes = done.stdout.split()
    return {
        name: (int(codes[number]), Path(f"{arguments}.{number}").read_text(), cases[name][1])
        for number, name in enumerate(cases)
    }


@pytest.mark.parametrize(
    "name",
    [
        "no model",
        "half the weights",
        "unknown architecture",
        "half a tokenizer",
        "a LoRA adapter",
        "unknown hub id",
        "missing folder",
        "no CUDA",
        "unknown device",
        "port in use",
        "port out of range",
        "unknown host",
        "reachable without a key",
        "unknown flag",
        "small context",
    ],
)
def test_a_start_that_cannot_succeed_says_why_in_a_line(
    refusals: dict[str, tuple[int, str, str]], name: str
) -> None:
    code, log, value = refusals[name]
    assert code in (1, 2), log
    assert "Traceback" not in log
    errors = [line for line in log.splitlines() if "ERROR" in line or "error:" in line]
    assert len(errors) == 1, log
    assert value in errors[0]


def _wait_until(condition: Callable[[], bool], within_s: float = 30.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_url_file_holds_a_url_for_an_ipv6_address_too(
    start_server: Callable[..., TestedServer],
) -> None:
    if not socket.has_ipv6:
        pytest.skip("no IPv6 on this machine")
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            pass
    except OSError:
        pytest.skip("no IPv6 on this machine")
    server = start_server("--host", "::1")
    assert server.url.startswith("http://[::1]:")
    assert server.request("/healthz")[0] == 200
    assert server.stop() == 0
