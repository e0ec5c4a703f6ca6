"""The measurement of scaling runs: a front, Ray, stand-in scorers, and processor time by part."""

from __future__ import annotations

import os

import pytest

if not os.environ.get("REAL_TEST"):
    pytest.importorskip("ray", reason="needs Ray: make scale-test")

from performance.scaling import measuring
from performance.scaling.front import PARTS, start_front
from performance.scaling.stand_in import InstantScorer


def test_what_ray_adds_to_a_pack_comes_out() -> None:
    in_packs, alone = measuring._measure_cost(4)
    assert (len(in_packs.samples), len(alone.samples)) == (4, 4)
    assert in_packs.at_most == 1.0
    assert 0 < alone.value < 1000
    for size in (1, measuring.PACK_ROLLOUTS):
        used_ms = in_packs.details[f"processor_ms_per_pack_of_{size}"]
        assert set(used_ms) == set(PARTS)
        assert used_ms["front"] > 0


def test_a_front_with_two_scorers_is_measured() -> None:
    with start_front(InstantScorer) as front:
        front.set_scorers(2)
        idle = measuring._measure_idle(front, 0.2)
        assert set(idle) == set(PARTS)
        load = measuring._Load(in_flight=4, request_rollouts=8)
        row = measuring._measure_rate(front, 2, load, 1.0, 1.0, 2, idle)
    details = row.details
    assert (details["scorers"], details["request_rollouts"]) == (2, 8)
    assert min(row.samples) > 0
    # Two sequences of the bundled problems, and packs of up to a request's rollouts or a few.
    assert 100 < details["tokens_per_rollout"] < 400
    assert 1 <= details["pack_rollouts"] <= 32
    assert all(details["processor_ms_per_rollout"][part] > 0 for part in ("front", "client"))
