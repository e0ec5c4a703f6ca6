"""The agent for OpenRLHF with wrong settings, failing servers and failing engines."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import pickle
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from openrlhf.utils import agent

from recipes.adapters.client import RewardClient
from sar.prompts import DEFAULT_SYSTEM_PROMPT, render_prompt

ROOT = Path(__file__).parents[2]
AGENT = ROOT / "recipes" / "openrlhf_agent.py"
GRADING = ("no_answer", "grader_timeout", "grader_crashed", "label_unreadable")


class Engine:
    """Generates given ids and scores all tokens equally, or gives a wrong answer."""

    def __init__(self, response_ids: list[int], answer: Any = ...) -> None:
        self._response_ids = response_ids
        self._answer = answer
        self.kwargs: dict[str, Any] = {}
        self.num_calls = 0

    async def generate(self, ids: list[int], params: Any, multi_modal_data: Any = None) -> Any:
        self.num_calls += 1
        if getattr(params, "prompt_logprobs", None) is None:
            one = SimpleNamespace(token_ids=self._response_ids, finish_reason="stop")
            return SimpleNamespace(outputs=[one])
        if isinstance(self._answer, Exception):
            raise self._answer
        flat = SimpleNamespace(token_ids=ids[1:], logprobs=[-1.0] * (len(ids) - 1))
        return SimpleNamespace(prompt_logprobs=flat if self._answer is ... else self._answer)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SAR_WEIGHT", "REWARD", "SYSTEM_PROMPT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("REWARD_URLS", "http://127.0.0.1:1/get_reward")
    # Retries do not wait: a missing server is reported at once.
    defaults = RewardClient.__init__.__kwdefaults__
    assert defaults is not None
    monkeypatch.setitem(defaults, "wait_s", 0.0)


def load() -> Any:
    """Source: OpenRLHF 0.11.2, openrlhf/trainer/ray/vllm_engine.py, _load_agent_executor."""
    spec = importlib.util.spec_from_file_location("agent_module", AGENT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.AgentExecutor()


def execute(
    engine: Engine, tokenizer: Any, *, executor: Any = None, **others: Any
) -> dict[str, Any]:
    given = {
        "prompt": render_prompt(tokenizer, "What is 2 + 3?", DEFAULT_SYSTEM_PROMPT),
        "label": "5",
        "sampling_params": SimpleNamespace(max_tokens=100, logprobs=None),
        "max_length": 1024,
        "hf_tokenizer": tokenizer,
        "llm_engine": engine,
    }
    return asyncio.run((executor or load()).execute(**{**given, **others}))


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("REWARD_URLS", "", "REWARD_URLS is not set in Ray's workers"),
        ("REWARD_URLS", "http://one:5000/get_reward,two", "'two' is not a URL"),
        ("SAR_WEIGHT", "0,2", "SAR_WEIGHT='0,2' is not a number"),
        ("SAR_WEIGHT", "nan", "SAR_WEIGHT='nan' is not a number"),
    ],
)
def test_a_wrong_setting_ends_the_start(
    name: str, value: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=said):
        load()


@pytest.mark.parametrize(
    ("arguments", "engine", "said"),
    [
        ({"images": ["a.png"]}, {}, "SAR is defined for text only"),
        ({"label": '{"answer": 3}'}, {}, "the label's answer is a number"),
        ({}, {"enable_prefix_caching": True}, "without --vllm.enable_prefix_caching"),
    ],
)
def test_what_cannot_be_rewarded_is_not_generated(
    arguments: dict[str, Any], engine: dict[str, Any], said: str, bundled_tokenizer: Any
) -> None:
    asked = Engine([5])
    asked.kwargs = engine
    with pytest.raises(ValueError, match=said):
        execute(asked, bundled_tokenizer, **arguments)
    assert asked.num_calls == 0


def test_a_rollout_of_several_turns_is_refused(
    bundled_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What OpenRLHF's own multi-turn executor makes: two responses, a tool's text between them."""
    turns = iter([False, True])

    class Environment(agent.AgentInstanceBase):  # type: ignore[misc]
        def __init__(self) -> None:
            pass

        async def step(self, *_: Any, **__: Any) -> dict[str, Any]:
            feedback = "\nTool: 5\n"
            return {"rewards": np.zeros(1), "environment_feedback": feedback, "done": next(turns)}

    class Talkative(Engine):
        async def generate(self, *given: Any, **named: Any) -> Any:
            output = await super().generate(*given, **named)
            output.outputs[0].text = "5"
            return output

    async def execute_turns(_: Any, *given: Any) -> Any:
        return await agent.MultiTurnAgentExecutor(Environment).execute(*given)

    monkeypatch.setattr(agent.SingleTurnAgentExecutor, "execute", execute_turns)
    with pytest.raises(ValueError, match="has 2 action ranges; SAR is defined for one") as raised:
        execute(Talkative([5]), bundled_tokenizer)
    assert "\n" not in str(raised.value)


def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture
def answering() -> Iterator[Callable[[int], Any]]:
    """Starts servers that always answer with one status and count their requests."""
    started = []

    def start(status: int) -> Any:
        log = {"correctness": [0.0], **{name: [0] for name in GRADING}}
        answer = {"rewards": [0.0], "scores": [0.0], "extra_logs": log}

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                one.num_requests += 1
                self.send_response(status)
                self.end_headers()
                self.wfile.write(json.dumps(answer).encode())

            def log_message(self, *_: Any) -> None:
                pass

        http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        one = SimpleNamespace(
            url=f"http://any:key@127.0.0.1:{http.server_port}/get_reward", num_requests=0
        )
        threading.Thread(target=http.serve_forever, daemon=True).start()
        started.append(http)
        return one

    yield start
    for http in started:
        http.shutdown()
        http.server_close()


def test_without_correctness_there_is_no_rollout(
    bundled_tokenizer: Any, monkeypatch: pytest.MonkeyPatch, answering: Any
) -> None:
    failing = answering(500)
    for url in (f"http://any:key@127.0.0.1:{closed_port()}/get_reward", failing.url):
        monkeypatch.setenv("REWARD_URLS", url)
        with pytest.raises(RuntimeError, match="no correctness: http://127") as caught:
            execute(Engine([5]), bundled_tokenizer)
        # Ray pickles the error on its way to the trainer. It has no key.
        assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
        assert "key" not in str(caught.value)
    assert failing.num_requests == 5


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (OSError("the engine is dead"), "the engine is dead"),
        (None, "log-probabilities of 0 tokens"),
        (SimpleNamespace(token_ids=[1, 2], logprobs=[-1.0, -1.0]), "log-probabilities of 2 tokens"),
    ],
)
def test_without_likelihoods_there_is_no_rollout(
    answer: Any, said: str, bundled_tokenizer: Any, monkeypatch: Any, answering: Any
) -> None:
    monkeypatch.setenv("REWARD_URLS", answering(200).url)
    with pytest.raises((OSError, RuntimeError), match=said):
        execute(Engine([5], answer), bundled_tokenizer)


def test_servers_take_turns(
    bundled_tokenizer: Any, monkeypatch: pytest.MonkeyPatch, answering: Any
) -> None:
    servers = [answering(200), answering(200)]
    monkeypatch.setenv("REWARD_URLS", ", ".join(one.url for one in servers))
    executor = load()
    for _ in range(4):
        output = execute(Engine([5]), bundled_tokenizer, executor=executor)
        assert output["reward"] == output["extra_logs"]["sar"] == 0.0
    assert [one.num_requests for one in servers] == [2, 2]


@pytest.mark.slow
@pytest.mark.parametrize("path", [str(ROOT), None])
def test_what_a_worker_needs_to_find_the_repository(path: str | None, tmp_path: Path) -> None:
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    script = (
        "import importlib.util as u\n"
        f"spec = u.spec_from_file_location('agent_module', {str(AGENT)!r})\n"
        "spec.loader.exec_module(u.module_from_spec(spec))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={**environ, **({"PYTHONPATH": path} if path else {})},
        capture_output=True,
        text=True,
        timeout=600,
    )
    if path:
        assert done.returncode == 0, done.stderr
    else:
        assert f"their environment needs PYTHONPATH={ROOT}" in done.stderr.splitlines()[-1]
