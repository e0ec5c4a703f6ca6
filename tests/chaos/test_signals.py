"""SIGTERM and SIGKILL under load."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from openrlhf.utils import agent

from sar.models.problems import generate
from sar.prompts import DEFAULT_SYSTEM_PROMPT, render_prompt

if TYPE_CHECKING:
    from tests.chaos.conftest import Answer, FaultyServer, Helpers, Rollout
    from tests.conftest import TestedServer

NUM_IN_FLIGHT = 400


async def _send_then(
    own: FaultyServer, rollouts: list[Rollout], chaos: Helpers, act: Callable[[], None]
) -> list[Answer]:
    """Sends every request, calls `act` when all are sent, then reads the answers."""

    async def send(payload: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection(*own.address)
        writer.write(chaos.encode_request(payload))
        await writer.drain()
        return reader, writer

    connections = await asyncio.gather(*(send(rollout.payload) for rollout in rollouts))
    act()
    received = await asyncio.gather(*(reader.read() for reader, _ in connections))
    for _, writer in connections:
        writer.close()
    return [chaos.parse_answer(one) for one in received]


@pytest.mark.parametrize("step_s", [pytest.param(0.0, marks=pytest.mark.slow), 0.5])
def test_sigterm_answers_everything_that_was_sent(
    start_faulty: Callable[..., FaultyServer],
    rollouts: list[Rollout],
    chaos: Helpers,
    step_s: float,
) -> None:
    """The signal comes when the last byte is sent, before the server has read most of them."""
    own = start_faulty("--max-batch-tokens", "16384")
    own.tell(step_s=step_s)
    many = (rollouts * (NUM_IN_FLIGHT // len(rollouts) + 1))[:NUM_IN_FLIGHT]
    descendants = own.process.children(recursive=True)
    stop = lambda: own.server.process.send_signal(signal.SIGTERM)  # noqa: E731
    started = time.monotonic()
    answers = chaos.run(_send_then(own, many, chaos, stop))
    assert own.server.process.wait(30) == 0
    print(f"SIGTERM with {NUM_IN_FLIGHT} in flight: ended {time.monotonic() - started:.1f} s later")
    chaos.assert_rewarded(list(zip(many, answers, strict=True)))
    chaos.wait_until(lambda: not any(map(psutil.Process.is_running, descendants)))
    assert "ERROR" not in own.log_text
    assert "Traceback" not in own.log_text


def test_sigusr1_shows_what_a_server_that_does_not_stop_waits_for(
    start_faulty: Callable[..., FaultyServer], rollouts: list[Rollout], chaos: Helpers
) -> None:
    own = start_faulty()
    own.tell(step_s=600)
    with socket.create_connection(own.address, 60) as client:
        client.sendall(chaos.encode_request(rollouts[0].payload))
        chaos.wait_until(lambda: own.health["in_flight"] == 1)
        assert own.server.stop(timeout_s=1) == -signal.SIGKILL
    assert "most recent call first" in own.log_text
    assert "in drain" in own.log_text


def test_clients_that_do_not_finish_their_request_do_not_delay_sigterm(
    start_faulty: Callable[..., FaultyServer], rollouts: list[Rollout], chaos: Helpers
) -> None:
    """What was sent in full is answered, although it takes longer than the others may."""
    own = start_faulty()
    own.tell(step_s=8)
    head = b"POST /get_reward HTTP/1.1\r\nHost: here\r\n"
    unfinished = (
        b"",
        b"POST /get_",
        head,
        head + b"Content-Length: 1000\r\n\r\n",
        head + b"Content-Length: 1000\r\n\r\n{",
        head + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n",
    )
    with ExitStack() as held:
        for data in unfinished:
            client = held.enter_context(socket.create_connection(own.address, 60))
            client.sendall(data)
        started = time.monotonic()
        stop = lambda: own.server.process.send_signal(signal.SIGTERM)  # noqa: E731
        answers = chaos.run(_send_then(own, rollouts[:2], chaos, stop))
        assert own.server.process.wait(30) == 0
    print(f"SIGTERM with unfinished requests: ended {time.monotonic() - started:.1f} s later")
    chaos.assert_rewarded(list(zip(rollouts[:2], answers, strict=True)))
    assert "ERROR" not in own.log_text
    assert "Traceback" not in own.log_text


def test_a_second_sigterm_stops_at_once(
    start_faulty: Callable[..., FaultyServer], rollouts: list[Rollout], chaos: Helpers
) -> None:
    own = start_faulty()
    own.tell(step_s=60)
    descendants = own.process.children(recursive=True)

    def stop_twice() -> None:
        chaos.wait_until(lambda: own.health["in_flight"] == len(rollouts))
        own.server.process.send_signal(signal.SIGTERM)
        chaos.wait_until(lambda: "stopping" in own.log_text)
        time.sleep(0.5)
        assert own.server.process.poll() is None
        own.server.process.send_signal(signal.SIGTERM)
        assert own.server.process.wait(5) == -signal.SIGTERM

    async def send() -> list[Answer]:
        stopping = asyncio.to_thread(stop_twice)
        answers = (chaos.post(own.address, rollout.payload) for rollout in rollouts)
        sending = asyncio.gather(*answers)
        await stopping
        return await sending

    answers = chaos.run(send())
    assert {answer.status for answer in answers} == {0}
    chaos.wait_until(lambda: not any(map(psutil.Process.is_running, descendants)))


def test_sigterm_ends_a_server_whose_scorer_hangs(
    start_faulty: Callable[..., FaultyServer], rollouts: list[Rollout], chaos: Helpers
) -> None:
    own = start_faulty("--request-timeout", "2")
    own.tell(step_s=600)
    descendants = own.process.children(recursive=True)
    stop = lambda: own.server.process.send_signal(signal.SIGTERM)  # noqa: E731
    answers = chaos.run(_send_then(own, rollouts, chaos, stop))
    assert {answer.status for answer in answers} == {504}
    assert own.server.process.wait(30) == 1
    chaos.wait_until(lambda: not any(map(psutil.Process.is_running, descendants)))


@pytest.mark.parametrize(("has_room", "load_s"), [(True, 600.0), (False, 2.0)])
def test_sigterm_while_a_checkpoint_loads(
    start_faulty: Callable[..., FaultyServer],
    rollouts: list[Rollout],
    chaos: Helpers,
    checkpoints: dict[int, Path],
    has_room: bool,
    load_s: float,
) -> None:
    """With room for both, the old weights answer, and the load is not waited for. Without room,
    the requests wait for the new weights and are scored by them."""
    own = start_faulty("--follow", str(checkpoints[10].parent))
    own.tell(has_room=has_room, load_s=load_s)
    descendants = own.process.children(recursive=True)
    chaos.wait_until(lambda: f"loading {checkpoints[20]}" in own.log_text)
    stop = lambda: own.server.process.send_signal(signal.SIGTERM)  # noqa: E731
    answers = chaos.run(_send_then(own, rollouts, chaos, stop))
    assert own.server.process.wait(10) == 0
    chaos.assert_rewarded(list(zip(rollouts, answers, strict=True)))
    versions = {answer.body["extra_logs"]["policy_version"][0] for answer in answers}
    assert versions == {0 if has_room else 20}
    chaos.wait_until(lambda: not any(map(psutil.Process.is_running, descendants)))
    assert "ERROR" not in own.log_text
    assert "Traceback" not in own.log_text


class _Playback:
    """Stands in for the rollout engine: generates the given token ids."""

    def __init__(self, tokenizer: Any, response_ids: list[int]) -> None:
        self._ids = response_ids
        self._text = tokenizer.decode(response_ids)

    async def generate(self, *_: Any, **__: Any) -> Any:
        output = SimpleNamespace(
            token_ids=list(self._ids), text=self._text, finish_reason="stop", logprobs=None
        )
        return SimpleNamespace(outputs=[output])


def _create_executions(url: str, tokenizer: Any, count: int) -> list[Any]:
    """What OpenRLHF's worker awaits for each rollout, and the expected score."""
    made = []
    for index, problem in enumerate(islice(generate(seed=31, held_out=True), count)):
        prompt = render_prompt(tokenizer, problem.question, DEFAULT_SYSTEM_PROMPT)
        response = problem.wrong_end if index % 2 else problem.concise
        ids = tokenizer.encode(response + "<|im_end|>", add_special_tokens=False)
        execution = agent.SingleTurnAgentExecutor(url).execute(
            prompt,
            str(problem.answer),
            SimpleNamespace(max_tokens=400, logprobs=None),
            1024,
            tokenizer,
            _Playback(tokenizer, ids),
        )
        made.append((execution, float(index % 2 == 0)))
    return made


def _run_together(executions: list[Any]) -> list[dict[str, Any]]:
    async def run_all() -> list[dict[str, Any]]:
        async with asyncio.timeout(120):
            outputs = await asyncio.gather(*(execution for execution, _ in executions))
            return list(outputs)

    return asyncio.run(run_all())


def test_openrlhf_gets_every_reward_despite_sigkill_and_restart(
    start_server: Callable[..., TestedServer],
    bundled_tokenizer: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """With the real server and the bundled model; a new server starts on the same port at once."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    url = f"http://127.0.0.1:{port}/get_reward"
    calm = start_server("--port", port)
    calm.wait_until_ready()
    executions = _create_executions(url, bundled_tokenizer, 300)
    outputs: list[Any] = []
    clients = threading.Thread(
        target=lambda: outputs.extend(_run_together(executions)), daemon=True
    )
    with caplog.at_level(logging.INFO):
        clients.start()
        deadline = time.monotonic() + 30
        while calm.request("/healthz")[1]["rollouts"] < 20:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        calm.process.kill()
        calm.process.wait()
        killed_at = time.monotonic()
        new = start_server("--port", port)
        listening_s = time.monotonic() - killed_at
        clients.join(120)
    assert len(outputs) == len(executions)
    num_again = sum(output["reward"] is not None for output in outputs)
    print(f"listening again {listening_s:.1f} s after SIGKILL; {num_again} of 300 have rewards")
    assert [output["scores"] for output in outputs] == [[score] for _, score in executions]
    new.wait_until_ready()
    served_by_new = new.request("/healthz")[1]["rollouts"]
    assert served_by_new > 50, "killed too late: the new server had little to do"
    again = _run_together(_create_executions(url, bundled_tokenizer, 300))
    for output, calm_output in zip(outputs, again, strict=True):
        assert output["reward"] == pytest.approx(calm_output["reward"], abs=1e-4)
    assert new.stop() == 0
