"""A discrete-event simulation of a front and its scorers: which part limits the throughput.

Requests go through the parts in the server's order: front, batcher, Ray driver, scorer, and back.
Each part is a station with a number of servers and a queue. Work that computes also needs a core of
the station's machine, so a machine with few cores can be the limit. Idle scorers pull packs.

What is left out: the network's delay, garbage collection, and cores that slow each other down.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

# What waits for a core gets one after so long at most, as from an operating system.
_SLICE_S = 0.001

_Action = Callable[[], None]


@dataclass(frozen=True)
class Costs:
    """Processor seconds of each part, and what a pack holds at most."""

    front_request_s: float
    """The front's work for a request, however many rollouts it has."""
    front_rollout_s: float
    front_pack_s: float
    """The front's work for a pack: its batcher sends it, and reads what comes back."""
    grader_rollout_s: float
    driver_pack_s: float
    """The Ray driver's work for a pack, however many rollouts it has."""
    driver_rollout_s: float
    worker_pack_s: float
    """A scorer process's work for a pack besides the model: receiving and sending."""
    worker_rollout_s: float
    client_request_s: float = 0.0
    """The client's work for a request. 0: clients run elsewhere."""
    pack_rollouts: int = 64
    idle_cores: float = 0.0
    """Cores of the front's machine that processes use with nothing to do."""


@dataclass(frozen=True)
class Cluster:
    """Machines, and the load on them."""

    num_scorers: int
    scorer_rollouts_per_s: float
    """Rollouts that a scorer's model scores per second."""
    in_flight: int
    """Requests that wait for their answer at any time: each answer is followed by a request."""
    request_rollouts: int = 1
    front_cores: int = 16
    num_graders: int = 16
    scorers_share_the_cores: bool = False
    """Whether scorers run on the front's machine, as in the benchmark."""
    front_speedup: float = 1.0
    """Processes that the front's own work is spread over, evenly."""


@dataclass(frozen=True)
class Outcome:
    """What a simulation gave."""

    rollouts_per_s: float
    busy: dict[str, float]
    """Busy share of each part: of its servers, or of a machine's cores."""

    @property
    def limit(self) -> str:
        """The part that is busiest."""
        return max(self.busy, key=self.busy.__getitem__)

    @property
    def limit_busy(self) -> float:
        return self.busy[self.limit]


def simulate(costs: Costs, cluster: Cluster, num_rollouts: int = 20_000) -> Outcome:
    """Runs a cluster until so many rollouts are answered, after a warm-up in which each request in
    flight is answered twice."""
    return _Run(costs, cluster).go(num_rollouts)


@dataclass
class _Part:
    """Servers that do one job at a time each, or a machine's cores."""

    capacity: int
    num_taken: int = 0
    num_busy: int = 0
    """Servers that work; one that is taken may still wait for a core."""
    waiting: deque[_Action] = field(default_factory=deque)
    counted_s: float = 0.0
    busy_s: float = 0.0
    """Seconds of all servers' work, counted until `counted_s`."""

    def change(self, now_s: float, number: int) -> None:
        """More servers, or fewer, are busy from now on."""
        self.busy_s += self.num_busy * (now_s - self.counted_s)
        self.counted_s = now_s
        self.num_busy += number


@dataclass
class _Request:
    num_unscored: int
    num_ungraded: int


class _Run:
    def __init__(self, costs: Costs, cluster: Cluster) -> None:
        self._costs = costs
        self._cluster = cluster
        self._now_s = 0.0
        self._order = count()
        self._events: list[tuple[float, int, _Action]] = []
        self._queue: deque[_Request] = deque()
        self._num_without_pack = cluster.num_scorers
        self._num_answered = 0
        self._parts = {
            "front": _Part(1),
            "graders": _Part(cluster.num_graders),
            "driver": _Part(1),
            "scorers": _Part(cluster.num_scorers),
            "cores": _Part(cluster.front_cores),
        }

    def go(self, num_rollouts: int) -> Outcome:
        for _ in range(self._cluster.in_flight):
            self._send_request()
        num_warm_up = 2 * self._cluster.in_flight * self._cluster.request_rollouts
        self._go_until(num_warm_up)
        start_s = self._now_s
        for part in self._parts.values():
            part.change(start_s, 0)
            part.busy_s = 0.0
        num_before = self._num_answered
        self._go_until(num_before + num_rollouts)
        elapsed_s = self._now_s - start_s
        busy = {}
        for name, part in self._parts.items():
            part.change(self._now_s, 0)
            busy[name] = part.busy_s / (part.capacity * elapsed_s)
        return Outcome((self._num_answered - num_before) / elapsed_s, busy)

    def _go_until(self, num_answered: int) -> None:
        while self._num_answered < num_answered:
            self._now_s, _, action = heapq.heappop(self._events)
            action()

    def _after(self, seconds: float, action: _Action) -> None:
        heapq.heappush(self._events, (self._now_s + seconds, next(self._order), action))

    def _take(self, name: str, action: _Action, *, is_first: bool = False) -> None:
        """Calls the action as soon as a server of the part is free.

        Args:
            is_first: before all that wait already.
        """
        part = self._parts[name]
        if part.num_taken < part.capacity:
            part.num_taken += 1
            action()
        elif is_first:
            part.waiting.appendleft(action)
        else:
            part.waiting.append(action)

    def _give(self, name: str) -> None:
        """Frees a server, or hands it to whoever waits for it."""
        part = self._parts[name]
        if part.waiting:
            part.waiting.popleft()()
        else:
            part.num_taken -= 1

    def _work(self, name: str, number: int) -> None:
        """More servers of a part work from now on, or fewer."""
        self._parts[name].change(self._now_s, number)

    def _compute(
        self,
        seconds: float,
        then: _Action,
        station: str | None = None,
        *,
        is_first: bool = False,
    ) -> None:
        """Work on a core of the front's machine, and at a station if one is named."""
        if seconds <= 0:
            self._after(0.0, then)
            return

        # What idle processes use slows the others down.
        cores = self._cluster.front_cores
        left_s = seconds * cores / (cores - self._costs.idle_cores)
        working = ("cores", station) if station else ("cores",)

        def run() -> None:
            nonlocal left_s
            slice_s = min(left_s, _SLICE_S)
            left_s -= slice_s
            for name in working:
                self._work(name, 1)
            self._after(slice_s, pause)

        def pause() -> None:
            for name in working:
                self._work(name, -1)
            self._give("cores")
            if left_s > 0:
                self._take("cores", run)
                return
            if station:
                self._give(station)
            then()

        if station:
            self._take(station, lambda: self._take("cores", run), is_first=is_first)
        else:
            self._take("cores", run)

    def _send_request(self) -> None:
        number = self._cluster.request_rollouts
        request = _Request(number, number)
        # Half of the front's work is done when a request comes, half when its rollouts are scored.
        work_s = self._front_s(number) / 2

        def arrive() -> None:
            self._queue.extend([request] * number)
            grading_s = number * self._costs.grader_rollout_s
            self._compute(grading_s, lambda: self._settle(request, graded=number), "graders")
            self._feed_scorers()

        self._compute(self._costs.client_request_s, lambda: self._compute(work_s, arrive, "front"))

    def _front_s(self, num_rollouts: int) -> float:
        costs = self._costs
        work_s = costs.front_request_s + num_rollouts * costs.front_rollout_s
        return work_s / self._cluster.front_speedup

    def _feed_scorers(self) -> None:
        while self._queue and self._num_without_pack:
            # Idle scorers split what is there.
            share = -(-len(self._queue) // self._num_without_pack)
            size = min(share, self._costs.pack_rollouts)
            self._num_without_pack -= 1
            self._send_pack([self._queue.popleft() for _ in range(size)])

    def _send_pack(self, pack: list[_Request]) -> None:
        """Through the front's batcher and the driver to a scorer, and back. A scorer has one pack
        at a time."""
        costs, size = self._costs, len(pack)
        driver_s = (costs.driver_pack_s + size * costs.driver_rollout_s) / 2
        front_s = costs.front_pack_s / self._cluster.front_speedup / 2
        worker_s = (costs.worker_pack_s + size * costs.worker_rollout_s) / 2

        def work(then: _Action) -> None:
            if self._cluster.scorers_share_the_cores:
                self._compute(worker_s, then)
            else:
                self._after(worker_s, then)

        def score() -> None:
            self._work("scorers", 1)
            self._after(size / self._cluster.scorer_rollouts_per_s, end_score)

        def end_score() -> None:
            self._work("scorers", -1)
            work(go_back)

        def compute_in_front(then: _Action) -> None:
            # The batcher's threads do not wait for all answers that are being written.
            self._compute(front_s, then, "front", is_first=True)

        def go_back() -> None:
            self._compute(driver_s, lambda: compute_in_front(arrive), "driver")

        def arrive() -> None:
            self._num_without_pack += 1
            self._feed_scorers()
            for request in pack:
                self._settle(request, scored=1)

        compute_in_front(lambda: self._compute(driver_s, lambda: work(score), "driver"))

    def _settle(self, request: _Request, *, scored: int = 0, graded: int = 0) -> None:
        """Answers a request whose rollouts are all scored and graded; its client sends the next."""
        request.num_unscored -= scored
        request.num_ungraded -= graded
        if request.num_unscored or request.num_ungraded:
            return

        def answer() -> None:
            self._num_answered += self._cluster.request_rollouts
            self._send_request()

        self._compute(self._front_s(self._cluster.request_rollouts) / 2, answer, "front")
