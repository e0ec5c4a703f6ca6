"""The tables of docs/scaling.md, made of performance/results/scaling.json."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from performance.scaling.costs import Measured, Point
from performance.scaling.simulation import Cluster, Costs, Outcome, simulate
from performance.scaling.sizes import EMPTY_QUESTION_TOKENS, PROMPT_TOKENS, count_bytes

COMMAND = "python -m performance.scaling {} --update docs/scaling.md"
"""What writes a table into the documentation."""
LARGE_SCORERS = 1000
LARGE_SCORER_RATE = 100.0
"""Rollouts per second of each scorer of the large cluster."""
LINK_BYTES_PER_S = 25e9 / 8
"""A machine's network card: 25 Gbit/s."""
MAX_OTHER_CORES = 0.2
"""Cores of other programs, beyond which a measurement is not of an idle machine."""
FRONT_CORES = 16
RESPONSES = (200, 2_000, 16_000)
"""Tokens of a response."""
MODELS = (1.7, 8, 32)
"""Billions of parameters."""
GPU_FLOPS = 989e12
"""Operations per second in bfloat16 that NVIDIA states for an H100 or H200."""
GPU_SHARE = 0.4
"""Share of them that a forward pass reaches; an assumption."""
_IN_FLIGHT = 20
"""Requests in flight for each scorer of the large cluster."""
_WORN_OUT = 0.95
"""Busy share of scorers that a front keeps busy."""


def render_throughput(measured: Measured) -> str:
    """Measured throughput by the number of scorers, beside what the simulation says."""
    rows = []
    for point, outcome in list_predictions(measured):
        cluster = point.cluster
        of_one = measured.find(1).rollouts_per_s
        is_single = cluster.request_rollouts == 1
        share = point.rollouts_per_s / (cluster.num_scorers * of_one)
        difference = outcome.rollouts_per_s / point.rollouts_per_s - 1
        rows.append(
            [
                str(cluster.num_scorers),
                str(cluster.request_rollouts),
                _round(point.rollouts_per_s),
                f"{_round(point.lowest)} to {_round(point.highest)}",
                f"{share:.0%}" if is_single else "",
                _round(point.details["pack_rollouts"]),
                _round(outcome.rollouts_per_s),
                f"{difference:+.0%}",
                _describe_limit(outcome),
            ]
        )
    header = (
        "scorers",
        "rollouts per request",
        "rollouts/s",
        "range",
        "of linear",
        "rollouts in a pack",
        "simulated",
        "off by",
        "busiest part, simulated",
    )
    busiest = max(point.details["other_cores"] for point in measured.points)
    cores = measured.machine["cores"]
    note = (
        f"The machine has {cores} cores. Other programs used up to {busiest:.2f} of them meanwhile"
    )
    if busiest > MAX_OTHER_CORES:
        note += ", so the numbers are too low, and the simulation cannot fit them"
    return f"{_format(header, rows)}\n{note}.\n"


def list_predictions(measured: Measured) -> Iterator[tuple[Point, Outcome]]:
    """Each measured point with what the simulation says of it."""
    costs = measured.compute_costs()
    for point in measured.points:
        idle = sum(point.details["idle_cores"].values())
        yield point, simulate(replace(costs, idle_cores=idle), point.cluster)


def render_costs(measured: Measured) -> str:
    """What a rollout takes of each part, and how many rollouts per second that allows."""
    wanted = LARGE_SCORERS * LARGE_SCORER_RATE
    rows = [
        [name, f"{1e3 * seconds:.3g} ms", _round(limit), f"{wanted / limit:,.1f} {unit}"]
        for name, seconds, limit, unit in list_limits(measured)
    ]
    header = (
        "part",
        "takes for a rollout",
        "one does at most, rollouts/s",
        "for 100,000 rollouts/s",
    )
    costs = measured.compute_costs()
    note = (
        f"A pack takes, however small, {1e3 * costs.front_pack_s:.2g} ms of the front, "
        f"{1e3 * costs.driver_pack_s:.2g} ms of the Ray driver and {1e3 * costs.worker_pack_s:.2g} "
        f"ms of the scorer's process. In packs of {measured.many_rollouts}, the way to a scorer "
        f"and back adds {measured.added_ms:.2g} ms to a rollout."
    )
    return f"{_format(header, rows)}\n{note}\n"


def list_limits(measured: Measured) -> list[tuple[str, float, float, str]]:
    """Each part: its name, seconds per rollout, rollouts per second of one, and what one is."""
    costs = measured.compute_costs()
    size = costs.pack_rollouts
    front_s = costs.front_request_s + costs.front_rollout_s + costs.front_pack_s / size
    many = measured.many_rollouts
    front_many_s = costs.front_request_s / many + costs.front_rollout_s + costs.front_pack_s / size
    driver_s = costs.driver_rollout_s + costs.driver_pack_s / size
    return [
        ("front, requests of 1 rollout", front_s, 1 / front_s, "fronts"),
        (f"front, requests of {many}", front_many_s, 1 / front_many_s, "fronts"),
        (f"Ray driver, packs of {size}", driver_s, 1 / driver_s, "drivers"),
        ("graders", costs.grader_rollout_s, 1 / costs.grader_rollout_s, "cores"),
    ]


def render_large(measured: Measured) -> str:
    """The large cluster, as it is and with what one would change."""
    rows = [
        [
            name,
            _round(outcome.rollouts_per_s),
            f"{outcome.busy['scorers']:.0%}",
            _describe_limit(outcome),
        ]
        for name, outcome in list_changes(measured)
    ]
    header = (
        f"{LARGE_SCORERS:,} scorers of {LARGE_SCORER_RATE:g} rollouts/s",
        "rollouts/s",
        "scorers busy",
        "busiest other part",
    )
    return _format(header, rows)


def list_changes(measured: Measured) -> Iterator[tuple[str, Outcome]]:
    """The large cluster, simulated: one front, then one change after the other."""
    costs = _on_machines_of_their_own(measured.compute_costs())
    many = measured.many_rollouts
    whole = _make_cluster(LARGE_SCORERS)
    yield "one front, requests of 1 rollout", simulate(costs, whole)
    in_many = replace(whole, request_rollouts=many, in_flight=whole.in_flight // many)
    yield f"one front, requests of {many}", simulate(costs, in_many)
    split = replace(in_many, front_speedup=8, front_cores=128, num_graders=64)
    yield (
        f"the same, its work over 8 processes and {split.front_cores} cores",
        simulate(costs, split),
    )
    size, outcome = find_cell(costs)
    number = -(-LARGE_SCORERS // size)
    all_fronts = replace(outcome, rollouts_per_s=number * outcome.rollouts_per_s)
    yield f"{number} fronts with {size} scorers each, requests of 1", all_fronts


def find_cell(costs: Costs) -> tuple[int, Outcome]:
    """The most scorers that one front keeps busy."""
    best = 1, simulate(costs, _make_cluster(1))
    for size in range(2, LARGE_SCORERS):
        outcome = simulate(costs, _make_cluster(size))
        if outcome.busy["scorers"] < _WORN_OUT:
            break
        best = size, outcome
    return best


def render_bytes(measured: Measured) -> str:
    """Network bytes of a rollout, from the encoders themselves."""
    rows = []
    for response_tokens in RESPONSES:
        sizes = count_bytes(response_tokens, measured.answer_bytes)
        limit = LINK_BYTES_PER_S / max(sizes.into_front, sizes.out_of_front)
        rows.append(
            [
                f"{response_tokens:,}",
                _round(sizes.request),
                _round(sizes.answer),
                _round(sizes.pack),
                _round(sizes.results),
                _round(limit),
            ]
        )
    header = (
        "response tokens",
        "client to front",
        "front to client",
        "front to scorer",
        "scorer to front",
        "rollouts/s that 25 Gbit/s carry",
    )
    return _format(header, rows)


def render_lengths(measured: Measured) -> str:
    """What rollouts of several lengths take of a front, whose scorers take no time."""
    rows = []
    for row in measured.lengths:
        details = row["details"]
        used_ms = details["processor_ms_per_rollout"]
        rows.append(
            [
                _round(details["tokens_per_rollout"]),
                f"{used_ms['front']:.2f} ms",
                f"{used_ms['graders']:.2f} ms",
                f"{used_ms['driver']:.2f} ms",
                _round(row["value"]),
                _round(1e3 / used_ms["front"]),
            ]
        )
    header = (
        "tokens of both sequences",
        "front",
        "graders",
        "Ray driver",
        "rollouts/s, all on two cores",
        "one front at most",
    )
    return _format(header, rows)


def render_gpus(measured: Measured) -> str:
    """Rollouts per second of a GPU, by arithmetic, and how many GPUs one front feeds."""
    rows = []
    for response_tokens in RESPONSES:
        tokens = PROMPT_TOKENS + EMPTY_QUESTION_TOKENS + 2 * response_tokens
        front_rate = 1 / measured.predict_front_s(tokens)
        cells = [f"{response_tokens:,}", _round(front_rate)]
        for billions in MODELS:
            rate = GPU_FLOPS * GPU_SHARE / (2e9 * billions * tokens)
            cells += [_round(rate), _round(max(1, front_rate / rate))]
        rows.append(cells)
    header = ["response tokens", "one front at most"]
    for billions in MODELS:
        header += [f"{billions:g}B: a GPU", "GPUs for one front"]
    return _format(header, rows)


TABLES: dict[str, Callable[[Measured], str]] = {
    "throughput": render_throughput,
    "costs": render_costs,
    "lengths": render_lengths,
    "gpus": render_gpus,
    "bytes": render_bytes,
    "large": render_large,
}


def _on_machines_of_their_own(costs: Costs) -> Costs:
    """Clients run elsewhere, and packs may be as large as a GPU's."""
    return replace(costs, client_request_s=0.0, pack_rollouts=64)


def _make_cluster(num_scorers: int) -> Cluster:
    return Cluster(
        num_scorers,
        LARGE_SCORER_RATE,
        in_flight=max(256, _IN_FLIGHT * num_scorers),
        front_cores=FRONT_CORES,
        num_graders=FRONT_CORES,
    )


def _describe_limit(outcome: Outcome) -> str:
    """The busiest part besides the scorers."""
    others = {part: share for part, share in outcome.busy.items() if part != "scorers"}
    part = max(others, key=others.__getitem__)
    return f"{part}, {others[part]:.0%}"


def _round(number: float) -> str:
    """Three significant digits."""
    if number >= 1000:
        digits = len(str(int(number))) - 3
        return f"{round(number, -digits):,.0f}"
    return f"{number:.3g}"


def _format(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)
