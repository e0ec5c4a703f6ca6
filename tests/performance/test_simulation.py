"""The simulation of scorers: against sums and ratios that hold for any queue, and known limits."""

from __future__ import annotations

from dataclasses import replace

import pytest

from performance.scaling.simulation import Cluster, Costs, simulate

pytestmark = pytest.mark.slow  # minutes of a simulated cluster

FREE = Costs(0, 0, 0, 0, 0, 0, 0, 0)
COSTS = Costs(
    front_request_s=3e-4,
    front_rollout_s=2e-4,
    front_pack_s=1e-3,
    grader_rollout_s=1e-4,
    driver_pack_s=8e-4,
    driver_rollout_s=2e-5,
    worker_pack_s=5e-4,
    worker_rollout_s=2e-5,
    client_request_s=1e-4,
)
CLUSTER = Cluster(num_scorers=8, scorer_rollouts_per_s=50, in_flight=1024)


@pytest.mark.parametrize("number", [1, 2, 8, 64])
def test_scorers_alone_are_linear(number: int) -> None:
    cluster = replace(CLUSTER, num_scorers=number, in_flight=160 * number)
    outcome = simulate(FREE, cluster)
    assert outcome.rollouts_per_s == pytest.approx(50 * number, rel=0.03)
    assert outcome.busy["scorers"] == pytest.approx(1)
    assert outcome.limit == "scorers"


def test_a_lone_request_takes_the_sum_of_its_parts() -> None:
    # One rollout in flight meets no queue: nothing overlaps but grading, which is shorter.
    cluster = replace(CLUSTER, in_flight=1)
    outcome = simulate(COSTS, cluster, 8_000)
    parts_s = 1e-4 + 3e-4 + 2e-4 + 1e-3 + 8e-4 + 2e-5 + 5e-4 + 2e-5 + 1 / 50
    assert outcome.rollouts_per_s == pytest.approx(1 / parts_s, rel=0.01)


@pytest.mark.parametrize(
    ("costs", "rate", "limit"),
    [
        (replace(FREE, front_rollout_s=1e-3), 1000, "front"),
        (replace(FREE, front_request_s=2e-3), 500, "front"),
        (replace(FREE, driver_rollout_s=1e-3), 1000, "driver"),
        (replace(FREE, grader_rollout_s=8e-3), 2000, "graders"),
    ],
)
def test_the_slowest_part_is_the_limit(costs: Costs, rate: float, limit: str) -> None:
    cluster = replace(CLUSTER, num_scorers=100, in_flight=1024, front_cores=64)
    outcome = simulate(costs, cluster)
    assert outcome.rollouts_per_s == pytest.approx(rate, rel=0.03)
    assert outcome.limit == limit
    assert outcome.limit_busy == pytest.approx(1, abs=0.02)


def test_a_machine_with_few_cores_is_the_limit() -> None:
    cluster = replace(CLUSTER, num_scorers=100, in_flight=1024, front_cores=2)
    costs = replace(FREE, front_rollout_s=4e-4, grader_rollout_s=1.6e-3)
    outcome = simulate(costs, cluster, 30_000)
    assert outcome.rollouts_per_s == pytest.approx(2 / 2e-3, rel=0.05)
    assert outcome.limit == "cores"


def test_scorers_may_share_the_cores_of_the_front() -> None:
    cluster = replace(CLUSTER, num_scorers=100, in_flight=1024, front_cores=1)
    costs = replace(FREE, front_rollout_s=4e-4, worker_rollout_s=6e-4)
    elsewhere = simulate(costs, cluster, 30_000)
    assert elsewhere.rollouts_per_s == pytest.approx(1 / 4e-4, rel=0.03)
    here = simulate(costs, replace(cluster, scorers_share_the_cores=True), 30_000)
    assert here.rollouts_per_s == pytest.approx(1 / 1e-3, rel=0.03)


@pytest.mark.parametrize("number", [2, 16, 64])
def test_a_part_is_busy_for_its_share_of_each_rollout(number: int) -> None:
    """The utilisation law: busy share = rollouts per second x seconds per rollout."""
    cluster = replace(CLUSTER, num_scorers=number, in_flight=64 * number)
    costs = replace(COSTS, front_pack_s=0, driver_pack_s=0)
    outcome = simulate(costs, cluster, 8_000)
    rate = outcome.rollouts_per_s
    expected = {
        "front": rate * (3e-4 + 2e-4),
        "driver": rate * 2e-5,
        "graders": rate * 1e-4 / 16,
    }
    for part, share in expected.items():
        assert outcome.busy[part] == pytest.approx(share, rel=0.05), part


def test_requests_of_many_rollouts_spare_the_front() -> None:
    cluster = replace(CLUSTER, num_scorers=200, in_flight=1024)
    costs = replace(COSTS, front_pack_s=0, driver_pack_s=0)
    one = simulate(costs, cluster)
    many = simulate(costs, replace(cluster, request_rollouts=64, in_flight=256))
    assert one.limit == many.limit == "front"
    assert one.rollouts_per_s == pytest.approx(1 / (3e-4 + 2e-4), rel=0.05)
    assert many.rollouts_per_s == pytest.approx(1 / (3e-4 / 64 + 2e-4), rel=0.05)


def test_idle_scorers_that_split_what_there_is_make_packs_dear() -> None:
    """A request's rollouts go to as many scorers as are idle, each in a pack of its own."""
    costs = replace(FREE, front_pack_s=1e-3)
    cluster = replace(CLUSTER, request_rollouts=64, in_flight=1)
    few, many = (simulate(costs, replace(cluster, num_scorers=n), 3_200) for n in (1, 64))
    assert few.rollouts_per_s == pytest.approx(64 / (64 / 50 + 1e-3), rel=0.01)
    # Half of a pack's time is before it is scored, half after; the last of 64 waits for all.
    assert many.rollouts_per_s == pytest.approx(64 / (64 * 1e-3 + 1 / 50), rel=0.25)


def test_a_front_of_several_processes() -> None:
    cluster = replace(CLUSTER, num_scorers=200, in_flight=1024)
    costs = replace(FREE, front_rollout_s=1e-3)
    outcome = simulate(costs, replace(cluster, front_speedup=4))
    assert outcome.rollouts_per_s == pytest.approx(4000, rel=0.03)
