"""A front with stand-in scorers on Ray, and the processor time of each of its parts."""

from __future__ import annotations

import json
import os
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from performance.scaling.stand_in import WaitingScorer
from performance.workload import set_environment
from reward_server.launch import ServerProcess
from reward_server.pipeline.batcher import Batcher
from sar.models import BUNDLED_MODEL
from sar.scoring import LogprobScorer

ROOT = Path(__file__).parents[2]
KEY = "a-key-of-the-benchmark"
PACK_TOKENS = 4096
"""Tokens of a pack at most: 16 rollouts or so, of the bundled problems."""
_TIMEOUT_S = 600.0
_POLL_S = 0.2
PARTS = ("front", "graders", "driver", "workers", "ray")
"""Processes whose processor time is counted apart."""
# Words of a process's command line, and the part that it belongs to. The first that fits counts.
_PARTS = (
    ("ray::", "workers"),
    ("default_worker.py", "workers"),
    ("reward_server.scaling.driver", "driver"),
    ("/ray/", "ray"),
)


class Front:
    """A running front."""

    def __init__(self, server: ServerProcess) -> None:
        import psutil

        self._server = server
        self._process = psutil.Process(server.process.pid)
        self.url = f"{server.url}/get_reward"
        self.headers = {"Authorization": f"Bearer {KEY}"}

    def set_scorers(self, number: int) -> None:
        """Starts or ends scorers, and waits until that many are up.

        Raises:
            RuntimeError: it takes too long.
        """
        self.ask("/scorers", {"num": number})
        end_s = time.monotonic() + _TIMEOUT_S
        while [one["state"] for one in self.ask("/healthz")["scorers"]] != ["up"] * number:
            if time.monotonic() > end_s:
                raise RuntimeError(f"{number} scorers are not up; the server's log: {self.log}")
            time.sleep(_POLL_S)

    def ask(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """The answer of a GET, or of a POST with this body."""
        request = urllib.request.Request(
            self._server.url + path,
            None if body is None else json.dumps(body).encode(),
            {**self.headers, "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            answer: dict[str, Any] = json.load(response)
        return answer

    def read_processor_s(self) -> dict[str, float]:
        """See `read_processor_s`."""
        return read_processor_s(self._process.pid)

    @property
    def log(self) -> str:
        return self._server.log.read_text(errors="replace")[-2000:]


def read_processor_s(pid: int) -> dict[str, float]:
    """Processor seconds until now: of this process (`front`), its graders, its Ray driver, the
    scorers' processes (`workers`) and Ray's own."""
    import psutil

    front = psutil.Process(pid)
    seconds = dict.fromkeys(PARTS, 0.0)
    for process in [front, *front.children(recursive=True)]:
        try:
            times = process.cpu_times()
            words = " ".join(process.cmdline())
        except psutil.NoSuchProcess:
            continue
        part = next((part for mark, part in _PARTS if mark in words), "graders")
        used_s = times.user + times.system
        if part == "graders":  # those that have ended
            used_s += times.children_user + times.children_system
        seconds["front" if process is front else part] += used_s
    return seconds


@contextmanager
def start_front(scorer: type[WaitingScorer], *flags: str) -> Iterator[Front]:
    """A front with one stand-in scorer on a Ray that it starts, ready for requests."""
    environ = {
        "PYTHONPATH": _list_paths(),
        "SCALING_SCORER_CLASS": name_class(scorer),
        "REWARD_SERVER_API_KEY": KEY,
    }
    settings = ["--scorers=2", "--scorer-cpus=0", f"--max-batch-tokens={PACK_TOKENS}", *flags]
    with (
        TemporaryDirectory() as folder,
        ServerProcess(
            *settings, log=Path(folder) / "server.log", environ=environ, timeout_s=_TIMEOUT_S
        ) as server,
    ):
        server.wait_until_ready()
        yield Front(server)


def name_class(scorer: type[WaitingScorer]) -> str:
    return f"{scorer.__module__}:{scorer.__qualname__}"


def _list_paths() -> str:
    """PYTHONPATH of scorers: they import the stand-ins."""
    return os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])


def check_ray() -> None:
    """Ends the program with one line if Ray is missing."""
    from importlib.util import find_spec

    if find_spec("ray") is None:
        sys.exit(
            "error: the scaling rows need Ray: run build/real/bin/python -m performance --only "
            "scaling (make real-test makes build/real), or pip install -e '.[scale]'"
        )


class _Receiver(Batcher):
    """Takes the scorer that a pool gives to a batcher, and does nothing with it."""

    def __init__(self) -> None:
        super().__init__(None, PACK_TOKENS)

    def add_scorer(self, scorer: LogprobScorer, *_: Any, **__: Any) -> None:
        self.scorer = scorer


@contextmanager
def start_scorer(scorer: type[WaitingScorer]) -> Iterator[LogprobScorer]:
    """One stand-in on a Ray that this process starts, without a server."""
    from reward_server.scaling.options import ModelOptions, ScalingOptions
    from reward_server.scaling.pool import ScorerPool

    model = ModelOptions(
        "transformers", "cpu", "auto", PACK_TOKENS, 0.9, 1, trust_remote_code=False
    )
    with set_environment({"PYTHONPATH": _list_paths()}):
        pool = ScorerPool(
            ScalingOptions(1, None, model, num_cpus=0, scorer_class=name_class(scorer))
        )
        try:
            loaded = pool.load(str(BUNDLED_MODEL))
            receiver = _Receiver()
            loaded.serve(receiver)
            yield receiver.scorer
        finally:
            pool.close()
