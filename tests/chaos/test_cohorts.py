"""Groups whose rollouts come one by one: restarts, missing siblings, clients that leave.

OpenRLHF's own client sends them. What it gets is compared with GDPO (arXiv:2601.05242), computed
here from the values of the terms in the answers.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import statistics
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from openrlhf.utils import agent

from sar.models.problems import generate
from sar.prompts import DEFAULT_SYSTEM_PROMPT, render_prompt

if TYPE_CHECKING:
    from tests.chaos.conftest import FaultyServer, Helpers

GROUP_SIZE = 8
SAR_WEIGHT = 0.2
EPSILON = 1e-4
REWARD = f"""
group_size = {GROUP_SIZE}
normalize = "gdpo"
[[terms]]
term = "correctness"
[[terms]]
term = "sar"
weight = {SAR_WEIGHT}
"""


@dataclass(frozen=True)
class Sibling:
    """One rollout of a group, and what an unmodified trainer does with it."""

    prompt: str
    response: str
    label: str
    score: float
    tokenizer: Any

    @property
    def payload(self) -> dict[str, list[str]]:
        """The body that OpenRLHF sends."""
        ids = self.tokenizer.encode(self.response, add_special_tokens=False)
        query = self.prompt + self.tokenizer.decode(ids)
        return {"query": [query], "prompts": [self.prompt], "labels": [self.label]}

    async def execute(self, url: str) -> dict[str, Any]:
        """What OpenRLHF's worker awaits."""
        ids = self.tokenizer.encode(self.response, add_special_tokens=False)
        output: dict[str, Any] = await agent.SingleTurnAgentExecutor(url).execute(
            self.prompt,
            self.label,
            SimpleNamespace(max_tokens=400, logprobs=None),
            1024,
            self.tokenizer,
            _Playback(ids, self.tokenizer.decode(ids)),
        )
        return output


class _Playback:
    """Stands in for the rollout engine: generates the given token ids."""

    def __init__(self, ids: list[int], text: str) -> None:
        self._output = SimpleNamespace(
            token_ids=ids, text=text, finish_reason="stop", logprobs=None
        )

    async def generate(self, *_: Any, **__: Any) -> Any:
        return SimpleNamespace(outputs=[self._output])


def make_groups(tokenizer: Any, count: int, *, seed: int) -> list[list[Sibling]]:
    """Groups with right and wrong answers. Two siblings of each have equal texts."""
    groups = []
    for number, problem in enumerate(islice(generate(seed=seed, held_out=True), count)):
        prompt = render_prompt(tokenizer, problem.question, DEFAULT_SYSTEM_PROMPT)
        group: list[Sibling] = []
        for sibling in range(GROUP_SIZE):
            is_right = (number + sibling) % 3 != 0
            text = problem.concise if is_right else problem.wrong_end
            text = f"{'So, ' * (sibling // 2 if sibling < 2 else sibling)}{text}<|im_end|>"
            if sibling == 1:
                is_right, text = group[0].score == 1.0, group[0].response
            group.append(Sibling(prompt, text, str(problem.answer), float(is_right), tokenizer))
        groups.append(group)
    return groups


def execute(siblings: Sequence[Sibling], url: str) -> list[dict[str, Any]]:
    """Sends all rollouts at once, as OpenRLHF does."""

    async def run_all() -> list[dict[str, Any]]:
        async with asyncio.timeout(240):
            outputs = await asyncio.gather(*(sibling.execute(url) for sibling in siblings))
            return list(outputs)

    return asyncio.run(run_all())


class Trainer:
    """Sends rollouts from a thread of its own."""

    def __init__(self, siblings: Sequence[Sibling], url: str) -> None:
        self._outputs: list[dict[str, Any]] = []
        self._thread = threading.Thread(
            target=lambda: self._outputs.extend(execute(siblings, url)), daemon=True
        )
        self._thread.start()

    def wait(self) -> list[dict[str, Any]]:
        self._thread.join(240)
        assert not self._thread.is_alive(), "some rollouts have no answer"
        return self._outputs


def read(output: dict[str, Any], name: str) -> float:
    """A number of `extra_logs`, which OpenRLHF passes on as a list of one."""
    value = output["extra_logs"][name]
    return float(value[0] if isinstance(value, list) else value)


def compute_gdpo(outputs: Sequence[dict[str, Any]]) -> list[float]:
    rewards = [0.0] * len(outputs)
    for name, weight in (("correctness", 1.0), ("sar", SAR_WEIGHT)):
        values = [read(output, f"term_{name}") for output in outputs]
        if len(set(values)) > 1:
            mean, deviation = statistics.mean(values), statistics.stdev(values)
            for index, value in enumerate(values):
                rewards[index] += weight * (value - mean) / (deviation + EPSILON)
    return rewards


def read_rewards(outputs: Sequence[dict[str, Any]]) -> list[float]:
    """The rewards as OpenRLHF would use them."""
    rewards = [output["reward"] for output in outputs]
    assert None not in rewards, "OpenRLHF gave a rollout up"
    return [float(one[0] if isinstance(one, list) else one) for one in rewards]


def assert_settled(siblings: Sequence[Sibling], outputs: Sequence[dict[str, Any]]) -> None:
    """Fails unless all groups are complete, and each got the rewards of its own members."""
    assert len(siblings) == len(outputs)
    for start in range(0, len(siblings), GROUP_SIZE):
        group = outputs[start : start + GROUP_SIZE]
        assert read_rewards(group) == pytest.approx(compute_gdpo(group), abs=1e-5)
        assert [read(output, "cohort_incomplete") for output in group] == [0.0] * GROUP_SIZE
    scores = [read(output, "term_correctness") for output in outputs]
    assert scores == [sibling.score for sibling in siblings]


@pytest.fixture(scope="module")
def reward_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    path: Path = tmp_path_factory.mktemp("reward") / "reward.toml"
    path.write_text(REWARD)
    return str(path)


@pytest.fixture(scope="module")
def server(start_faulty: Callable[..., FaultyServer], reward_file: str) -> FaultyServer:
    return start_faulty("--reward", reward_file)


def flatten(groups: Sequence[Sequence[Sibling]]) -> list[Sibling]:
    return [sibling for group in groups for sibling in group]


def test_a_batch_of_openrlhf_in_groups_of_eight(
    server: FaultyServer, bundled_tokenizer: Any
) -> None:
    """1,024 requests at once, the siblings of a group far from each other."""
    groups = make_groups(bundled_tokenizer, 128, seed=51)
    by_number = [group[number] for number in range(GROUP_SIZE) for group in groups]
    outputs = execute(by_number, f"{server.url}/get_reward")
    in_groups = [outputs[start :: len(groups)] for start in range(len(groups))]
    assert_settled(flatten(groups), [output for group in in_groups for output in group])
    assert server.health["in_flight"] == 0


@pytest.mark.parametrize("step_s", [0.0, 1.0])
def test_sigterm_in_the_middle_of_groups_and_a_restart(
    start_faulty: Callable[..., FaultyServer],
    bundled_tokenizer: Any,
    reward_file: str,
    chaos: Helpers,
    step_s: float,
) -> None:
    """Held answers and rollouts that are being scored; a new server starts on the same port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    groups = make_groups(bundled_tokenizer, 20, seed=52)
    url = f"http://127.0.0.1:{port}/get_reward"
    old = start_faulty("--port", port, "--reward", reward_file)
    complete = execute(flatten(groups[:5]), url)
    early = flatten([group[:-1] for group in groups[5:]])
    old.tell(step_s=step_s)
    trainer = Trainer(early, url)
    chaos.wait_until(lambda: old.health["in_flight"] == len(early))
    old.server.process.send_signal(signal.SIGTERM)
    assert old.server.process.wait(60) == 0
    new = start_faulty("--port", port, "--reward", reward_file)
    last = Trainer([group[-1] for group in groups[5:]], url)
    outputs = trainer.wait()
    # OpenRLHF asks five times, a second apart. On a busy machine a restart takes longer than that.
    given_up = [index for index, output in enumerate(outputs) if output["reward"] is None]
    for index, output in zip(
        given_up, execute([early[index] for index in given_up], url), strict=True
    ):
        outputs[index] = output
    in_order = [
        output
        for number, one in enumerate(last.wait())
        for output in (*outputs[7 * number : 7 * number + 7], one)
    ]
    assert_settled(flatten(groups), [*complete, *in_order])
    for log in (old.log_text, new.log_text):
        assert "Traceback" not in log
    assert new.stop() == 0


def test_a_missing_sibling_and_one_that_comes_late(
    start_faulty: Callable[..., FaultyServer], bundled_tokenizer: Any, reward_file: str
) -> None:
    own = start_faulty("--reward", reward_file, "--request-timeout", "8")
    url = f"{own.url}/get_reward"
    groups = make_groups(bundled_tokenizer, 6, seed=53)
    whole, lacking = groups[:3], groups[3:]
    trainer = Trainer(flatten([*whole, *(group[:-1] for group in lacking)]), url)
    outputs = trainer.wait()
    assert_settled(flatten(whole), outputs[: 3 * GROUP_SIZE])
    late = execute([group[-1] for group in lacking], url)
    for number, last in enumerate(late):
        start = 3 * GROUP_SIZE + 7 * number
        early = outputs[start : start + 7]
        assert read_rewards(early) == pytest.approx(compute_gdpo(early), abs=1e-5)
        together = compute_gdpo([*early, last])
        assert read_rewards([last]) == pytest.approx(together[-1:], abs=1e-5)
        for output in (*early, last):
            assert read(output, "cohort_incomplete") == 1.0
    assert own.stop() == 0


def test_clients_that_leave_and_ask_again(
    server: FaultyServer, bundled_tokenizer: Any, chaos: Helpers
) -> None:
    """Every third rollout is sent by a client that leaves, before OpenRLHF sends it again."""
    groups = make_groups(bundled_tokenizer, 24, seed=54)
    siblings = flatten(groups)
    url = f"{server.url}/get_reward"
    with_losses = siblings[::3]

    async def leave() -> None:
        connections = []
        for sibling in with_losses:
            _, writer = await asyncio.open_connection(*server.address)
            writer.write(chaos.encode_request(sibling.payload))
            await writer.drain()
            connections.append(writer)
        while server.health["in_flight"] < len(with_losses):
            await asyncio.sleep(0.05)
        await asyncio.sleep(1.0)  # scored, and held
        for writer in connections:
            writer.close()
            await writer.wait_closed()

    chaos.run(leave())
    assert_settled(siblings, execute(siblings, url))


def test_answers_that_are_lost_are_given_again(
    server: FaultyServer, bundled_tokenizer: Any, chaos: Helpers
) -> None:
    """The clients of half of a group leave; the group is settled; they ask again."""
    (group,) = make_groups(bundled_tokenizer, 1, seed=55)
    url = f"{server.url}/get_reward"

    async def leave() -> None:
        for sibling in group[4:]:
            _, writer = await asyncio.open_connection(*server.address)
            writer.write(chaos.encode_request(sibling.payload))
            await writer.drain()
            await asyncio.sleep(0.5)
            writer.close()
            await writer.wait_closed()

    chaos.run(leave())
    answered = execute(group[:4], url)
    again = execute(group[4:], url)
    assert_settled(group, [*answered, *again])
