"""What a measurement says of each part's cost, in the terms of the simulation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from performance.report import RESULTS
from performance.scaling.simulation import Cluster, Costs

DEFAULT_RESULTS = RESULTS / "scaling.json"
# The costs are those of the front with so many scorers, and no others: the rest is predicted.
MEASURED_AT = 8
_S = 1e-3
"""Seconds of a millisecond."""

Row = dict[str, Any]
"""A measurement, as it is in the file."""


@dataclass(frozen=True)
class Point:
    """A measured throughput, and the cluster that it was measured on."""

    cluster: Cluster
    rollouts_per_s: float
    lowest: float
    highest: float
    row: Row

    @property
    def details(self) -> dict[str, Any]:
        details: dict[str, Any] = self.row["details"]
        return details


@dataclass(frozen=True)
class Measured:
    """What `python -m performance --only scaling` wrote."""

    points: Sequence[Point]
    lengths: Sequence[Row]
    """Rows of a front whose scorers take no time, by the length of rollouts."""
    cost: dict[str, Any]
    """Details of the packs sent to one scorer."""
    added_ms: float
    """What Ray adds to a rollout in full packs, as time."""
    machine: dict[str, Any]

    @classmethod
    def read(cls, path: Path = DEFAULT_RESULTS) -> Measured:
        """
        Raises:
            OSError, ValueError: there are no measurements in the file.
        """
        document = json.loads(path.read_text(encoding="utf-8"))
        rows = document["measurements"]
        cores = document["machine"]["cores"]
        points = [_read_point(row, cores) for row in rows if "scorers" in row["details"]]
        (cost,) = (row for row in rows if "pack_tokens" in row["details"])
        lengths = [row for row in rows if "repeats" in row["details"]]
        return cls(points, lengths, cost["details"], cost["value"], document["machine"])

    def find(self, num_scorers: int, request_rollouts: int = 1) -> Point:
        for point in self.points:
            cluster = point.cluster
            if (cluster.num_scorers, cluster.request_rollouts) == (num_scorers, request_rollouts):
                return point
        raise ValueError(f"no measurement with {num_scorers} scorers and {request_rollouts}")

    @property
    def many_rollouts(self) -> int:
        """Rollouts of the requests that have many."""
        return max(point.cluster.request_rollouts for point in self.points)

    def predict_front_s(self, tokens_per_rollout: float) -> float:
        """Processor seconds of the front for a rollout of this length: a straight line through
        what was measured."""
        import numpy as np

        tokens = [row["details"]["tokens_per_rollout"] for row in self.lengths]
        front_ms = [row["details"]["processor_ms_per_rollout"]["front"] for row in self.lengths]
        slope, at_none = np.polyfit(tokens, front_ms, 1)
        return float(at_none + slope * tokens_per_rollout) * _S

    @property
    def answer_bytes(self) -> int:
        """Bytes of the answer to a request of one rollout."""
        return int(self.find(1).details["answer_bytes"])

    def compute_costs(self) -> Costs:
        """Each part's processor time, from three runs.

        With `MEASURED_AT` scorers that are busy, packs are full; with scorers that take no time,
        packs are small: the difference is what packs cost. Requests of one and of many rollouts
        give what requests cost.
        """
        full = self.find(MEASURED_AT).row
        many = self.find(MEASURED_AT, self.many_rollouts).row
        small = self.lengths[0]
        front_pack_s, front_s = _split_pack(full, small, "front")
        driver_pack_s, driver_rollout_s = _split_pack(full, small, "driver")
        worker_pack_s, worker_rollout_s = _split_pack(full, small, "workers")
        # request / number + rollout = what is left of the front's time besides packs
        many_s = _busy_s(many, "front") - front_pack_s / many["details"]["pack_rollouts"]
        request_s = max(0.0, (front_s - many_s) / (1 - 1 / self.many_rollouts))
        return Costs(
            front_request_s=request_s,
            front_rollout_s=max(0.0, front_s - request_s),
            front_pack_s=front_pack_s,
            grader_rollout_s=_busy_s(full, "graders"),
            driver_pack_s=driver_pack_s,
            driver_rollout_s=driver_rollout_s,
            worker_pack_s=worker_pack_s,
            worker_rollout_s=worker_rollout_s,
            client_request_s=_busy_s(full, "client"),
            pack_rollouts=int(self.cost["pack_tokens"] / self.cost["tokens_per_rollout"]),
        )


def _split_pack(full: Row, small: Row, part: str) -> tuple[float, float]:
    """Seconds for a pack, however large, and for each rollout, from runs with full packs and with
    small ones."""
    shares = [1 / float(row["details"]["pack_rollouts"]) for row in (full, small)]
    used_s = [_busy_s(row, part) for row in (full, small)]
    if shares[1] <= shares[0]:
        raise ValueError("packs were not smaller where scorers take no time: measure again")
    pack_s = max(0.0, (used_s[1] - used_s[0]) / (shares[1] - shares[0]))
    return pack_s, max(0.0, used_s[0] - pack_s * shares[0])


def _read_point(row: Row, cores: int) -> Point:
    details = row["details"]
    cluster = Cluster(
        num_scorers=details["scorers"],
        scorer_rollouts_per_s=details["scorer_rollouts_per_s"],
        in_flight=details["in_flight"],
        request_rollouts=details["request_rollouts"],
        front_cores=cores,
        num_graders=cores,
        scorers_share_the_cores=True,
    )
    return Point(cluster, row["value"], min(row["samples"]), max(row["samples"]), row)


def _busy_s(row: Row, part: str) -> float:
    """Processor seconds of a part for a rollout, less what it uses with nothing to do."""
    details = row["details"]
    idle_s = float(details["idle_cores"].get(part, 0.0)) / float(row["value"])
    used_s = float(details["processor_ms_per_rollout"][part]) * _S
    return max(0.0, used_s - idle_s)
