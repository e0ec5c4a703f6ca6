"""The costs and tables of scorers on Ray: from made-up measurements, and the committed ones."""

from __future__ import annotations

import json
import socketserver
import threading
import time
from collections.abc import Iterator
from itertools import count, repeat
from pathlib import Path
from typing import Any

import pytest

from performance.load import SteadyLoad, encode_request
from performance.scaling.__main__ import main
from performance.scaling.costs import DEFAULT_RESULTS, MEASURED_AT, Measured
from performance.scaling.simulation import Costs
from performance.scaling.sizes import count_bytes
from performance.scaling.stand_in import InstantScorer, WaitingScorer
from performance.scaling.tables import COMMAND, MAX_OTHER_CORES, TABLES, list_predictions
from sar.pages import render_page
from sar.scoring import TokenSequence

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "scaling.md"
# What the simulation may be off by. It leaves out much, see its docstring; most of all, how many
# rollouts come together while the threads of the front wait for each other.
TOLERANCE = 0.25

COSTS = Costs(
    front_request_s=4e-4,
    front_rollout_s=3e-4,
    front_pack_s=2e-4,
    grader_rollout_s=2e-4,
    driver_pack_s=6e-4,
    driver_rollout_s=1e-5,
    worker_pack_s=5e-4,
    worker_rollout_s=2e-5,
    client_request_s=2.5e-4,
    pack_rollouts=16,
)


def make_document() -> dict[str, Any]:
    """What would be measured if parts had these costs and no other."""

    def make_point(request_rollouts: int) -> dict[str, Any]:
        pack = 12.5
        front_s = (
            COSTS.front_request_s / request_rollouts
            + COSTS.front_rollout_s
            + COSTS.front_pack_s / pack
        )
        idle = {"front": 0.02, "graders": 0.01, "driver": 0.0, "workers": 0.1, "client": 0.0}
        rate = 400.0
        used = {
            "front": front_s + idle["front"] / rate,
            "graders": COSTS.grader_rollout_s + idle["graders"] / rate,
            "driver": 0.0,
            "workers": 0.0,
            "client": COSTS.client_request_s,
        }
        details = {
            "scorers": MEASURED_AT,
            "request_rollouts": request_rollouts,
            "in_flight": 512,
            "idle_cores": idle,
            "pack_rollouts": pack,
            "scorer_rollouts_per_s": 50.0,
            "processor_ms_per_rollout": {part: 1e3 * seconds for part, seconds in used.items()},
        }
        return {"value": rate, "samples": [rate], "details": details}

    def time_pack(size: int) -> dict[str, float]:
        return {
            "front": 1e3 * (COSTS.front_pack_s + size * 1e-5),
            "driver": 1e3 * (COSTS.driver_pack_s + size * COSTS.driver_rollout_s),
            "workers": 1e3 * (COSTS.worker_pack_s + size * COSTS.worker_rollout_s),
        }

    cost = {
        "tokens_per_rollout": 250.0,
        "pack_tokens": 4096,
        "processor_ms_per_pack_of_1": time_pack(1),
        "processor_ms_per_pack_of_64": time_pack(64),
    }
    rows = [{"value": 0.05, "samples": [0.05], "details": cost}, make_point(1), make_point(64)]
    return {"machine": {"cores": 2}, "measurements": rows}


def test_the_costs_that_were_put_in_come_out(tmp_path: Path) -> None:
    file = tmp_path / "scaling.json"
    file.write_text(json.dumps(make_document()))
    found = Measured.read(file).compute_costs()
    for name in Costs.__dataclass_fields__:
        assert getattr(found, name) == pytest.approx(getattr(COSTS, name)), name


def test_bytes_are_those_of_the_numbers_that_travel() -> None:
    sizes = count_bytes(1000, answer=500)
    # Two sequences: 200 and 40 tokens of context, and the response after each; one int32 a token.
    assert sizes.pack == 4 * (1 + 2 * 4) + 4 * (200 + 40 + 2 * 1000)
    assert sizes.results == 4 * (1 + 2 * 2) + 4 * 2 * 1000
    # The prompt goes twice: in the query and beside it.
    assert 0 < sizes.request - 4 * (2 * 200 + 1000) < 300


def test_stand_ins_take_time_by_the_token_or_none() -> None:
    pair = [TokenSequence([1, 2], list(range(3, 103))) for _ in range(2)]
    times_s = []
    for scorer in (WaitingScorer(), InstantScorer()):
        start_s = time.perf_counter()
        first, second = scorer.response_logprobs(pair)
        times_s.append(time.perf_counter() - start_s)
        assert (first == second).all()
        assert first.tolist() == pytest.approx([token % 97 / -97 for token in range(3, 103)])
    assert times_s[0] >= 204 * WaitingScorer.seconds_per_token > times_s[1]


class Counting(socketserver.StreamRequestHandler):
    """Answers once eight requests wait, and then at once. Counts how many wait."""

    lock = threading.Lock()
    now = most = 0
    are_eight = threading.Event()

    def handle(self) -> None:
        length = 0
        while line := self.rfile.readline().strip():
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        body = self.rfile.read(length)
        if not length:  # the load has ended
            return
        with self.lock:
            type(self).now += 1
            type(self).most = max(self.most, self.now)
            if self.now == 8:
                self.are_eight.set()
        self.are_eight.wait(60)
        with self.lock:
            type(self).now -= 1
        self.wfile.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + body)


class LongQueueServer(socketserver.ThreadingTCPServer):
    """Accepts eight connections at once: by default, some would be tried again after a second."""

    request_queue_size = 64


def test_a_steady_load_keeps_its_requests_in_flight() -> None:
    def encode(host: str) -> Iterator[bytes]:
        for number in count():
            yield encode_request(host, {"number": number}, {"Authorization": "Bearer x"})

    with LongQueueServer(("127.0.0.1", 0), Counting) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        host = "{}:{}".format(*server.server_address)
        load = SteadyLoad(f"http://{host}/get_reward", encode(host), in_flight=8)
        numbers: list[int] = []
        ends_at_s = time.monotonic() + 60
        while len(numbers) <= 16 and time.monotonic() < ends_at_s:
            numbers += [answer["number"] for answer in load.run(0.2)]
        more = [answer["number"] for answer in load.run(0.2)]
        load.close()
        server.shutdown()
    assert len(numbers) == len(set(numbers)) > 16
    assert set(numbers).isdisjoint(more)
    assert Counting.most == 8


def test_an_answer_that_is_no_reward_ends_a_steady_load() -> None:
    class Refusing(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.rfile.readline()
            self.wfile.write(b"HTTP/1.1 503 Service Unavailable\r\n\r\n")

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        host = "{}:{}".format(*server.server_address)
        load = SteadyLoad(f"http://{host}/", repeat(encode_request(host, {})), in_flight=1)
        with pytest.raises((RuntimeError, ConnectionError)):
            load.run(5.0)
        load.close()
        server.shutdown()


@pytest.fixture(scope="module")
def measured() -> Measured:
    return Measured.read()


@pytest.mark.slow
def test_the_simulation_predicts_what_was_measured(measured: Measured) -> None:
    """From costs measured with eight scorers, the throughput with one to 64."""
    if any(point.details["other_cores"] > MAX_OTHER_CORES for point in measured.points):
        pytest.skip("measured beside other programs: run python -m performance --only scaling")
    predictions = list(list_predictions(measured))
    assert {point.cluster.num_scorers for point, _ in predictions} == {1, 2, 4, 8, 16, 64}
    for point, outcome in predictions:
        assert outcome.rollouts_per_s == pytest.approx(point.rollouts_per_s, rel=TOLERANCE), (
            point.cluster
        )


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in TABLES if name != "large"])
def test_the_tables_of_the_page_are_those_of_the_results(measured: Measured, name: str) -> None:
    text = PAGE.read_text(encoding="utf-8")
    command = COMMAND.format(name)
    assert render_page(text, command, TABLES[name](measured)) == text, f"run `{command}`"


@pytest.mark.slow
def test_the_large_cluster_of_the_page_is_what_the_simulation_gives(measured: Measured) -> None:
    text = PAGE.read_text(encoding="utf-8")
    command = COMMAND.format("large")
    assert render_page(text, command, TABLES["large"](measured)) == text, f"run `{command}`"


def test_mistakes_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.md"
    page.write_text("no marker")
    for arguments, message in (
        (["--results", str(tmp_path / "none.json")], "No such file"),
        (["costs", "--update", str(page)], "needs two lines"),
        (["nothing"], "no table 'nothing'"),
    ):
        assert main(arguments) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line
    assert DEFAULT_RESULTS.is_file()
