"""Measures a front with 1 to 64 stand-in scorers on Ray, and what Ray costs for each rollout."""

from __future__ import annotations

import itertools
import json
import os
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Self

from performance.load import SteadyLoad, encode_request
from performance.report import Measurement
from performance.scaling.front import (
    PACK_TOKENS,
    Front,
    check_ray,
    read_processor_s,
    start_front,
    start_scorer,
)
from performance.scaling.stand_in import TOKENS_PER_S, InstantScorer, WaitingScorer
from performance.servers import generate_requests
from sar.models import BUNDLED_MODEL
from sar.prompts import DEFAULT_SYSTEM_PROMPT
from sar.scoring import TokenSequence

NUM_SCORERS = (1, 2, 4, 8, 16, 64)
# Up to so many, throughput must be nearly linear.
LINEAR_UP_TO = 8
# Requests in flight for each scorer: several packs, so that none is idle for lack of work.
IN_FLIGHT = 64
MAX_IN_FLIGHT = 2048
MANY_ROLLOUTS = 64
"""Rollouts of a request, where requests have many."""
PACK_ROLLOUTS = 64
WARM_UP_S = 4.0
WINDOW_S = 8.0
NUM_WINDOWS = 5
NUM_PACKS = 400

# The head of an answer, about.
_HEAD_BYTES = 150

# Times that a response is repeated, to make it long.
REPEATS = (1, 8, 64)

_Pair = tuple[TokenSequence, ...]


class _Load(NamedTuple):
    in_flight: int
    request_rollouts: int
    repeats: int = 1

    @classmethod
    def of(cls, num_scorers: int, request_rollouts: int) -> Self:
        """Keeps so many scorers busy."""
        rollouts = min(IN_FLIGHT * num_scorers, MAX_IN_FLIGHT)
        return cls(max(2, rollouts // request_rollouts), request_rollouts)


def measure(quick: bool) -> list[Measurement]:
    """Measures throughput by the number of scorers, and the cost of Ray."""
    check_ray()
    rows = _measure_cost(5 if quick else NUM_PACKS)
    numbers = (1, 2) if quick else NUM_SCORERS
    windows = (1.0, 2.0, 2) if quick else (WARM_UP_S, WINDOW_S, NUM_WINDOWS)
    with start_front(WaitingScorer) as front:
        rates = {}
        for number in numbers:
            front.set_scorers(number)
            idle = _measure_idle(front, windows[1])
            row = _measure_rate(front, number, _Load.of(number, 1), *windows, idle)
            rates[number] = row.value
            rows.append(row)
            if 1 < number <= LINEAR_UP_TO:
                rows.append(_compare_with_linear(row, number, rates[1]))
            if number in (LINEAR_UP_TO, numbers[-1]):
                in_many = _Load.of(number, MANY_ROLLOUTS)
                rows.append(_measure_rate(front, number, in_many, *windows, idle))
    return rows + _measure_lengths(*windows)


def _measure_idle(front: Front, duration_s: float) -> dict[str, float]:
    """Cores that the parts use while nothing is to be done."""
    start_s, before = time.perf_counter(), front.read_processor_s()
    time.sleep(duration_s)
    after = front.read_processor_s()
    elapsed_s = time.perf_counter() - start_s
    return {part: (after[part] - before[part]) / elapsed_s for part in after}


def _measure_lengths(warm_up_s: float, window_s: float, num_windows: int) -> list[Measurement]:
    """A front whose scorers take no time, with responses of several lengths."""
    rows = []
    with start_front(InstantScorer, "--max-batch-tokens=16384") as front:
        idle = _measure_idle(front, window_s)
        for repeats in REPEATS:
            load = _Load(128, 1, repeats)
            row = _measure_rate(front, 2, load, warm_up_s, window_s, num_windows, idle)
            tokens = f"{row.details['tokens_per_rollout']:.0f}"
            details = {"repeats": repeats, **row.details}
            del details["scorers"]
            rows.append(
                replace(row, name=f"front alone, {tokens} tokens per rollout", details=details)
            )
    return rows


def _measure_rate(
    front: Front,
    number: int,
    load: _Load,
    warm_up_s: float,
    window_s: float,
    num_windows: int,
    idle_cores: dict[str, float],
) -> Measurement:
    """Rollouts per second, in windows after a warm-up."""
    rollouts = load.request_rollouts
    sender = SteadyLoad(front.url, _encode_requests(front, load, seed=number), load.in_flight)
    try:
        sender.run(warm_up_s)
        before = _read(front)
        rates = []
        num_rollouts = 0
        for _ in range(num_windows):
            start_s = time.perf_counter()
            answers = sender.run(window_s)
            num = sum(len(answer["scores"]) for answer in answers)
            rates.append(num / (time.perf_counter() - start_s))
            num_rollouts += num
            if any(score != 1.0 for answer in answers for score in answer["scores"]):
                raise RuntimeError("the server gave wrong scores")
        after = _read(front)
    finally:
        sender.close()
    print(f"scaling: {number} scorers, {statistics.median(rates):.0f} rollouts/s", flush=True)
    return Measurement(
        f"scorers: {number}" + (f", requests of {rollouts} rollouts" if rollouts > 1 else ""),
        rates,
        "rollouts/s",
        at_least=1000 if number == NUM_SCORERS[-1] and rollouts == 1 else None,
        details={
            "scorers": number,
            "request_rollouts": rollouts,
            "in_flight": load.in_flight,
            "idle_cores": idle_cores,
            "answer_bytes": len(json.dumps(answers[0])) + _HEAD_BYTES,
            **_count(before, after, num_rollouts),
        },
    )


def _read(front: Front) -> tuple[float, dict[str, float], dict[str, Any], float]:
    """The clock, processor seconds by part, the front's counters, and the machine's processor
    seconds."""
    import psutil

    seconds = front.read_processor_s()
    seconds["client"] = time.process_time()
    times = psutil.cpu_times()
    of_all_s = sum(times) - times.idle - times.iowait
    return time.perf_counter(), seconds, front.ask("/healthz"), of_all_s


def _count(
    before: tuple[float, dict[str, float], dict[str, Any], float],
    after: tuple[float, dict[str, float], dict[str, Any], float],
    num_rollouts: int,
) -> dict[str, Any]:
    """What a rollout took of each part, and the size of packs."""
    elapsed_s = after[0] - before[0]
    used_s = {part: seconds - before[1][part] for part, seconds in after[1].items()}
    num_tokens = after[2]["tokens"] - before[2]["tokens"]
    num_scored = (after[2]["sequences"] - before[2]["sequences"]) / 2
    return {
        "processor_ms_per_rollout": {part: 1e3 * s / num_rollouts for part, s in used_s.items()},
        "busy_cores": sum(used_s.values()) / elapsed_s,
        # Of other programs. Where it is not small, the machine was not idle before.
        "other_cores": max(0.0, (after[3] - before[3] - sum(used_s.values())) / elapsed_s),
        "tokens_per_rollout": num_tokens / num_scored,
        "pack_rollouts": num_scored / (after[2]["batches"] - before[2]["batches"]),
        "scorer_rollouts_per_s": TOKENS_PER_S / (num_tokens / num_scored),
    }


def _compare_with_linear(row: Measurement, number: int, of_one: float) -> Measurement:
    shares = [rate / (number * of_one) for rate in row.samples]
    return Measurement(f"scorers: {number}, of {number} times one", shares, "x", at_least=0.9)


def _encode_requests(front: Front, load: _Load, seed: int) -> Iterator[bytes]:
    host = front.url.removeprefix("http://").partition("/")[0]
    payloads = generate_requests(seed)
    if load.repeats > 1:
        payloads = _lengthen(payloads, load.repeats)
    while True:
        some = list(itertools.islice(payloads, load.request_rollouts))
        merged = {name: [one[name][0] for one in some] for name in some[0]}
        yield encode_request(host, merged, front.headers)


def _lengthen(payloads: Iterator[dict[str, Any]], repeats: int) -> Iterator[dict[str, Any]]:
    """The same rollouts, each with its response so many times."""
    from transformers import AutoTokenizer

    eos: str = AutoTokenizer.from_pretrained(BUNDLED_MODEL).eos_token
    for payload in payloads:
        prompt, query = payload["prompts"][0], payload["query"][0]
        response = query.removeprefix(prompt).removesuffix(eos) + "\n"
        yield {**payload, "query": [prompt + response * repeats + eos]}


def _measure_cost(num_packs: int) -> list[Measurement]:
    """The same packs in this process and on Ray, in turn; and the processor time of each part."""
    rollouts = _tokenize(4 * PACK_ROLLOUTS)
    here = InstantScorer()
    added: dict[int, list[float]] = {}
    details: dict[str, Any] = {
        "tokens_per_rollout": _count_tokens(rollouts) / len(rollouts),
        "pack_tokens": PACK_TOKENS,
    }
    with start_scorer(InstantScorer) as there:
        for size in (1, PACK_ROLLOUTS):
            packs = itertools.cycle(_make_packs(rollouts, size))
            for pack in itertools.islice(packs, 5):  # the first packs load code
                there.response_logprobs(pack)
            before = read_processor_s(os.getpid())
            added[size] = []
            in_this_process_s = 0.0
            for pack in itertools.islice(packs, num_packs):
                here_s = _time(here, pack)
                start_s = time.process_time()
                added[size].append(1e3 * (_time(there, pack) - here_s) / size)
                in_this_process_s += time.process_time() - start_s
            after = read_processor_s(os.getpid())
            used_s = {part: after[part] - before[part] for part in after}
            used_s["front"] = in_this_process_s
            details[f"processor_ms_per_pack_of_{size}"] = {
                part: 1e3 * seconds / num_packs for part, seconds in used_s.items()
            }
    return [
        Measurement(
            f"what Ray adds to a rollout, in packs of {PACK_ROLLOUTS}",
            added[PACK_ROLLOUTS],
            "ms",
            at_most=1.0,
            details=details,
        ),
        Measurement("what Ray adds to a rollout alone", added[1], "ms"),
    ]


def _make_packs(rollouts: Sequence[_Pair], size: int) -> list[list[TokenSequence]]:
    return [
        [sequence for pair in rollouts[start : start + size] for sequence in pair]
        for start in range(0, len(rollouts), size)
    ]


def _count_tokens(rollouts: Sequence[_Pair]) -> int:
    return sum(len(sequence) for pair in rollouts for sequence in pair)


def _time(scorer: Any, pack: Sequence[TokenSequence]) -> float:
    start_s = time.perf_counter()
    scorer.response_logprobs(pack)
    return time.perf_counter() - start_s


def _tokenize(number: int) -> list[_Pair]:
    """Both sequences of rollouts, as the server makes them."""
    from transformers import AutoTokenizer

    from sar.tokenization import RolloutTokenizer

    tokenizer = RolloutTokenizer(
        AutoTokenizer.from_pretrained(BUNDLED_MODEL), system_prompt=DEFAULT_SYSTEM_PROMPT
    )
    sequences = []
    for payload in itertools.islice(generate_requests(seed=5), number):
        prompt, query = payload["prompts"][0], payload["query"][0]
        sequences.append(tuple(tokenizer.encode(prompt, query.removeprefix(prompt)).sequences))
    return sequences
