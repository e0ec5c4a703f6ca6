"""Ray clusters of several nodes on this machine, servers whose scorers run there, and OpenRLHF's
client that sends them rollouts.

`make scale-test` runs these tests in build/real, which has Ray; elsewhere they are skipped.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import os
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest import mock

import psutil
import pytest

from recipes.cpu_demo.leftovers import Leftovers
from sar.models.problems import generate
from sar.prompts import DEFAULT_SYSTEM_PROMPT, render_prompt

if TYPE_CHECKING:
    from tests.conftest import TestedServer

ROOT = Path(__file__).parents[2]
FOLDER = Path(__file__).parent
WAIT_S = 120.0
_STORE_BYTES = 80_000_000
_ACTOR = "ray::ScorerActor"


@pytest.fixture(scope="session", autouse=True)
def parts() -> None:
    """Skips the folder without Ray. `make scale-test` installs it."""
    if importlib.util.find_spec("ray") is None:
        reason = "ray is not installed: make scale-test"
        if os.environ.get("REAL_TEST") == "1":
            pytest.fail(reason)
        pytest.skip(reason)


def wait_until(condition: Callable[[], object], within_s: float = WAIT_S) -> float:
    """Polls until a condition holds, and returns the seconds it took; fails if too long."""
    started_s = time.monotonic()
    while not condition():
        assert time.monotonic() - started_s < within_s, "the condition did not become true"
        time.sleep(0.05)
    return time.monotonic() - started_s


class Node:
    """A node of a cluster: the processes that Ray started for it."""

    def __init__(self, cluster: Any, node: Any) -> None:
        self._cluster = cluster
        self._node = node

    @property
    def processes(self) -> list[psutil.Process]:
        """Ray's processes of this node, with the scorers'."""
        found: list[psutil.Process] = []
        for infos in self._node.all_processes.values():
            for info in infos:
                with suppress(psutil.NoSuchProcess):
                    process = psutil.Process(info.process.pid)
                    found += [process, *process.children(recursive=True)]
        return found

    def kill(self) -> None:
        """Ends all of its processes at once, as when the machine loses its power."""
        for process in self.processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._cluster.remove_node(self._node, allow_graceful=False)


class RayCluster:
    """Several Ray nodes on this machine. The head runs no scorers."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._cluster: Any = None
        self.head: Node
        self.start_head()

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    def start_head(self) -> None:
        from ray.cluster_utils import Cluster

        self._cluster = Cluster(shutdown_at_exit=False)
        self.head = self._add(gcs_server_port=self._port, num_cpus=0, include_dashboard=False)

    def add_node(self, num_cpus: int, **resources: float) -> Node:
        return self._add(num_cpus=num_cpus, resources=resources)

    def _add(self, **options: Any) -> Node:
        node = self._cluster.add_node(
            num_gpus=0,
            object_store_memory=_STORE_BYTES,
            **options,
        )
        return Node(self._cluster, node)

    def shutdown(self) -> None:
        self._cluster.shutdown()


@pytest.fixture(scope="session")
def leftovers() -> Iterator[Leftovers]:
    """Ends what Ray leaves behind."""
    found = Leftovers()
    yield found
    found.remove()


@pytest.fixture(scope="session")
def control(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of orders for stand-in scorers."""
    return tmp_path_factory.mktemp("control")


@pytest.fixture
def orders(control: Path) -> Iterator[Path]:
    """The same folder; empty after the test."""
    yield control
    for file in control.iterdir():
        file.unlink()


@pytest.fixture(scope="session")
def ray_environ(leftovers: Leftovers, control: Path) -> Iterator[dict[str, str]]:
    """What every process of Ray's has in its environment, and the servers of these tests."""
    # Ray's sockets lie in it, and a socket's path has at most 107 characters.
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    environ = {
        **leftovers.environ,
        "RAY_TMPDIR": folder,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES": str(_STORE_BYTES),
        "RAY_gcs_rpc_server_reconnect_timeout_s": "3",
        "HF_HUB_OFFLINE": "1",
        "STAND_IN_CONTROL": str(control),
        "STAND_IN_S_PER_TOKEN": "0.00005",
        "PYTHONPATH": f"{ROOT}{os.pathsep}{FOLDER}",
    }
    with mock.patch.dict(os.environ, environ):
        yield environ
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def start_cluster(ray_environ: dict[str, str]) -> Iterator[Callable[[], RayCluster]]:
    """Starts clusters that have a head only."""
    started: list[RayCluster] = []

    def start() -> RayCluster:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        started.append(RayCluster(port))
        return started[-1]

    yield start
    for cluster in started:
        cluster.shutdown()


@pytest.fixture(scope="session")
def cluster(start_cluster: Callable[[], RayCluster]) -> RayCluster:
    """A cluster that the session shares, with a node for two scorers and one for three."""
    shared = start_cluster()
    shared.add_node(2)
    shared.add_node(3)
    return shared


class Front:
    """A server whose scorers run on Ray."""

    def __init__(self, server: TestedServer) -> None:
        self.server = server
        self.url = server.url + "/get_reward"

    @property
    def health(self) -> dict[str, Any]:
        health: dict[str, Any] = self.server.request("/healthz")[1]
        return health

    @property
    def scorers(self) -> list[dict[str, Any]]:
        scorers: list[dict[str, Any]] = self.health["scorers"]
        return scorers

    @property
    def num_up(self) -> int:
        return sum(scorer["state"] == "up" for scorer in self.scorers)

    @property
    def log_text(self) -> str:
        return self.server.log.read_text()

    @property
    def pids(self) -> list[int]:
        """The processes of the scorers that run, from the log: those of dead ones are left out."""
        lines = [line for line in self.log_text.splitlines() if " runs on " in line]
        found = {int(line.split("scorer ")[1].split()[0]): int(line.split()[-1]) for line in lines}
        return [pid for pid in found.values() if psutil.pid_exists(pid)]

    def wait_for_up(self, num: int) -> float:
        return wait_until(lambda: self.num_up == num)


@pytest.fixture(scope="session")
def start_front(
    start_server: Callable[..., TestedServer], ray_environ: dict[str, str]
) -> Iterator[Callable[..., Front]]:
    """Starts a server: `start_front("--scorers", "4", "--ray-address", address)`. With stand-in
    scorers unless `real`. Waits until it is ready."""
    started: list[Front] = []

    def start(*flags: str, real: bool = False, **environ: str) -> Front:
        chosen = {} if real else {"SCALING_SCORER_CLASS": "stand_in:StandIn"}
        server = start_server(*flags, environ={**ray_environ, **chosen, **environ})
        started.append(Front(server))
        server.wait_until_ready()
        return started[-1]

    yield start
    for front in started:
        front.server.stop()


@dataclass(frozen=True)
class Rollout:
    """A rollout, and how OpenRLHF asks for its reward."""

    prompt: str
    response: str
    label: str
    tokenizer: Any

    @property
    def body(self) -> dict[str, list[str]]:
        return {
            "query": [self.prompt + self.response],
            "prompts": [self.prompt],
            "labels": [self.label],
        }

    async def execute(self, url: str) -> float:
        """The reward that OpenRLHF's worker gets."""
        from openrlhf.utils import agent

        ids = self.tokenizer.encode(self.response, add_special_tokens=False)
        output = SimpleNamespace(
            token_ids=ids, text=self.response, finish_reason="stop", logprobs=None
        )

        async def generate_(*_: Any, **__: Any) -> Any:
            return SimpleNamespace(outputs=[output])

        got = await agent.SingleTurnAgentExecutor(url).execute(
            self.prompt,
            self.label,
            SimpleNamespace(max_tokens=400, logprobs=None),
            1024,
            self.tokenizer,
            SimpleNamespace(generate=generate_),
        )
        return float(got["reward"][0])


class Trainer:
    """OpenRLHF's client, which sends rollouts from a thread of its own."""

    def __init__(self, url: str, rollouts: Sequence[Rollout], at_once: int = 64) -> None:
        self.num_done = 0
        self._rewards: list[float] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(
            target=self._run, args=(url, rollouts, at_once), daemon=True
        )
        self._thread.start()

    @property
    def is_done(self) -> bool:
        return not self._thread.is_alive()

    def wait(self) -> list[float]:
        """The rewards. Fails if one is missing."""
        self._thread.join(WAIT_S)
        assert self.is_done, f"no answer for some of the rollouts; {self.num_done} are done"
        if self._error:
            raise self._error
        return self._rewards

    def _run(self, url: str, rollouts: Sequence[Rollout], at_once: int) -> None:
        async def send_all() -> list[float]:
            places = asyncio.Semaphore(at_once)

            async def send(rollout: Rollout) -> float:
                async with places:
                    reward = await rollout.execute(url)
                self.num_done += 1
                return reward

            return list(await asyncio.gather(*map(send, rollouts)))

        try:
            self._rewards = asyncio.run(send_all())
        except BaseException as error:  # noqa: BLE001  `wait` raises it
            self._error = error


@pytest.fixture(scope="session")
def rollouts(bundled_tokenizer: Any) -> list[Rollout]:
    """A thousand rollouts, each with a text of its own."""
    made = []
    for number, problem in enumerate(islice(generate(seed=31, held_out=True), 250)):
        prompt = render_prompt(bundled_tokenizer, problem.question, DEFAULT_SYSTEM_PROMPT)
        for sibling in range(4):
            text = problem.wrong_end if (number + sibling) % 3 == 0 else problem.concise
            response = f"{'So, ' * sibling}{text}<|im_end|>"
            made.append(Rollout(prompt, response, str(problem.answer), bundled_tokenizer))
    return made


@pytest.fixture(scope="session")
def known_rewards(rollouts: list[Rollout], bundled_tokenizer: Any) -> Callable[..., list[float]]:
    """The rewards that rollouts must get from stand-in scorers, computed without a server."""
    sys.path.insert(0, str(FOLDER))
    compute_logprobs = importlib.import_module("stand_in").compute_logprobs

    from sar.grading.grade import grade
    from sar.grading.label import parse_label
    from sar.reward import Likelihood, combine
    from sar.tokenization import RolloutTokenizer

    tokenizer = RolloutTokenizer(
        bundled_tokenizer, system_prompt=DEFAULT_SYSTEM_PROMPT, max_context_tokens=1024
    )

    def compute(step: int = 0, wanted: Sequence[Rollout] = rollouts) -> list[float]:
        rewards = []
        for one in wanted:
            encoded = tokenizer.encode(one.prompt, one.response)
            logprobs = [
                compute_logprobs(s.context_ids, s.response_ids, step) for s in encoded.sequences
            ]
            likelihood = Likelihood.from_logprobs(encoded, logprobs)
            label = parse_label(one.label)
            verdict = grade(tokenizer.make_graded_text(one.prompt, one.response), label)
            rewards.append(combine(verdict, likelihood, sar_weight=0.2, mode=label.mode).value)
        return rewards

    return compute


class Helpers:
    """What the `scaling` fixture gives to tests, which cannot import from this file."""

    Trainer = Trainer
    Rollout = Rollout
    wait_until = staticmethod(wait_until)


@pytest.fixture(scope="session")
def scaling() -> Helpers:
    return Helpers()
