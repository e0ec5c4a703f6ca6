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


@dataclass(frozen=True)
class Point:
    """A measured throughput, and the cluster that it was measured on."""

    cluster: Cluster
    rollouts_per_s: float
    lowest: float
    highest: float
    details: dict[str, Any]


@dataclass(frozen=True)
class Measured:
    """What `python -m performance --only scaling` wrote."""

    points: Sequence[Point]
    lengths: Sequence[dict[str, Any]]
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
        """Each part's processor time: from packs of one and of many rollouts, and from requests of
        one and of many rollouts to `MEASURED_AT` scorers."""
        one, many = self.find(MEASURED_AT), self.find(MEASURED_AT, self.many_rollouts)
        driver_pack_s, driver_rollout_s = self._split_pack("driver")
        worker_pack_s, worker_rollout_s = self._split_pack("workers")
        front_pack_s, _ = self._split_pack("front")
        # request / number + rollout = what is left of the front's time besides packs
        left_s = [
            _busy_s(point, "front") - front_pack_s / point.details["pack_rollouts"]
            for point in (one, many)
        ]
        request_s = (left_s[0] - left_s[1]) / (1 - 1 / self.many_rollouts)
        return Costs(
            front_request_s=max(0.0, request_s),
            front_rollout_s=left_s[0] - max(0.0, request_s),
            front_pack_s=front_pack_s,
            grader_rollout_s=_busy_s(one, "graders"),
            driver_pack_s=driver_pack_s,
            driver_rollout_s=driver_rollout_s,
            worker_pack_s=worker_pack_s,
            worker_rollout_s=worker_rollout_s,
            client_request_s=_busy_s(one, "client"),
            pack_rollouts=int(self.cost["pack_tokens"] / self.cost["tokens_per_rollout"]),
        )

    def _split_pack(self, part: str) -> tuple[float, float]:
        """Seconds for a pack, however large, and for each of its rollouts."""
        sizes = sorted(
            int(name.rpartition("_")[2]) for name in self.cost if name.startswith("processor_ms")
        )
        small, large = (self.cost[f"processor_ms_per_pack_of_{size}"][part] * _S for size in sizes)
        rollout_s = max(0.0, (large - small) / (sizes[1] - sizes[0]))
        return max(0.0, small - sizes[0] * rollout_s), rollout_s


def _read_point(row: dict[str, Any], cores: int) -> Point:
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
    return Point(cluster, row["value"], min(row["samples"]), max(row["samples"]), details)


def _busy_s(point: Point, part: str) -> float:
    """Processor seconds of a part for a rollout, less what it uses with nothing to do."""
    idle_s = float(point.details["idle_cores"].get(part, 0.0)) / point.rollouts_per_s
    used_s = float(point.details["processor_ms_per_rollout"][part]) * _S
    return max(0.0, used_s - idle_s)
