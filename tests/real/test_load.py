"""A server on SmolLM2 with many clients at once, and with texts that take long to tokenise."""

from __future__ import annotations

import itertools
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import Any

import pytest

from sar.prompts import DEFAULT_SYSTEM_PROMPT

QUESTIONS = {
    "A box holds 6 eggs. How many eggs do 4 boxes hold?": "24",
    "Tom has 9 marbles and loses 5. How many marbles has he?": "4",
}
RESPONSES = ("It is 24.<|im_end|>", "It is 4.<|im_end|>", "我不知道。<|im_end|>", "")
NUM_CLIENTS = 96
NUM_CHARS = 999_900  # the server takes texts of a million characters


@pytest.fixture(scope="module")
def rollouts(make_rollout: Any) -> list[Any]:
    return [
        make_rollout(question, response, label, system=DEFAULT_SYSTEM_PROMPT)
        for question, label in QUESTIONS.items()
        for response in RESPONSES
    ]


def test_each_of_many_clients_gets_its_own_reward(
    smollm2_server: Any, rollouts: list[Any], ask: Any, reference: Any, assert_agrees: Any
) -> None:
    """OpenRLHF sends each rollout in a request of its own, hundreds at once."""
    expected = [reference.compute(one, system=DEFAULT_SYSTEM_PROMPT) for one in rollouts]
    assert len({round(one["sar"], 4) for one in expected}) >= 7, "a mix-up would not be seen"
    at_once = threading.Barrier(NUM_CLIENTS)

    def send(index: int) -> dict[str, float]:
        at_once.wait()
        (got,) = ask(smollm2_server, [rollouts[index]])
        return dict(got)

    indices = [index for index, _ in zip(itertools.cycle(range(len(rollouts))), range(NUM_CLIENTS))]
    with ThreadPoolExecutor(NUM_CLIENTS) as clients:
        answers = list(clients.map(send, indices))
    right = ["24" in RESPONSES[0], False, False, False, False, True, False, False]
    for index, got in zip(indices, answers, strict=True):
        assert_agrees(got, expected[index], float(right[index]))
    health = smollm2_server.request("/healthz")[1]
    assert health["in_flight"] == 0


def test_healthz_answers_while_long_texts_are_tokenised(smollm2_server: Any) -> None:
    """Prompts of a million characters with empty responses: tokenised, but not scored. If they were
    tokenised by the thread that answers, /healthz would wait as long as they take."""
    words = "the quick brown fox Zürich 1234567890 naïve 北京 _-+= qwxz "
    prompts = [(f"{index} {words}" * (NUM_CHARS // len(words)))[:NUM_CHARS] for index in range(4)]

    def send(prompt: str) -> float:
        started = time.monotonic()
        # After a BOS, the server looks for the prompt in its tokenised and decoded form too.
        body = {"query": [f"<|im_start|>{prompt}"], "prompts": [prompt], "labels": ["5"]}
        status, answer = smollm2_server.request("/get_reward", body)
        assert status == HTTPStatus.OK, answer
        assert answer["extra_logs"]["response_tokens"] == [0]
        return time.monotonic() - started

    waits = []
    with ThreadPoolExecutor(len(prompts)) as clients:
        sent = [clients.submit(send, prompt) for prompt in prompts]
        while not all(one.done() for one in sent):
            started = time.monotonic()
            assert smollm2_server.request("/healthz")[0] == HTTPStatus.OK
            waits.append(time.monotonic() - started)
            time.sleep(0.02)
        durations = [one.result() for one in sent]
    print(
        f"longest request {max(durations):.2f} s, {len(waits)} health checks, "
        f"longest {max(waits):.2f} s"
    )
    assert len(waits) >= 5
    assert max(waits) < max(durations) / 2
