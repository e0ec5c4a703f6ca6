"""The parts of `python -m performance.gpu` that measure the scorer, one function each.

A part yields its results one at a time, so that those before a failure are kept.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from functools import partial, reduce
from operator import add
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from performance.gpu.models import (
    STEP_GROUPS,
    Shape,
    count_packed_work,
    count_unshared_work,
    draw_groups,
    draw_sequences,
    make_model,
)
from performance.gpu.timing import (
    Bench,
    NotMeasured,
    make_matmul_timer,
    measure_peak_bytes,
    time_in_turns,
    time_task,
)
from performance.naive import BATCH_SIZE, NaiveScorer
from performance.report import Measurement
from performance.workload import GROUP_SIZE, ModelShape, list_sequences, split_into_batches
from sar.scoring.packed_attention import _can_use_varlen
from sar.scoring.transformers_scorer import TransformersScorer, _Attention

Result = Measurement | NotMeasured
Results = Iterator[Result]

GIB = 2**30
UTILISATION = 0.60
# Largest mean difference of log-probabilities that rounding explains, in nats: the scorer's own
# bounds for float32 and for half precision.
MAX_DIFFERENCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2}


def measure_matmul(bench: Bench) -> Results:
    """How fast the device multiplies large matrices, which utilisation is relative to."""
    rates = {size: make_matmul_timer(bench, size) for size in bench.matmul_sizes}
    samples: dict[int, list[float]] = {size: [] for size in rates}
    for _ in range(bench.rounds):
        for size, rate in rates.items():
            samples[size].append(rate())
    for size, values in samples.items():
        yield Measurement(
            f"product of two {size:,} x {size:,} matrices, {_name(bench.dtype)}",
            [value / 1e12 for value in values],
            "TFLOP/s",
        )
    bench.matmul_size = max(samples, key=lambda size: float(np.median(samples[size])))


def measure_scorer(bench: Bench, shape: Shape) -> Results:
    """Tokens per second and utilisation of a model of this shape."""
    scoring = TransformersScorer(
        make_model(shape, bench.device, bench.dtype), bench.max_batch_tokens
    )
    if not scoring._attention:
        raise RuntimeError("the scorer does not pack this model, so its work is not what we count")
    pack_tokens = scoring._max_pack_tokens
    # Scores all rollouts in one call, then in the batches that the server would make of them.
    num_groups = bench.fit_groups(2 * _time_group(bench, shape, scoring))
    drawn = draw_groups(num_groups, shape.vocabulary, bench.lengths)
    sequences, batches = list_sequences(drawn), split_into_batches(drawn, bench.max_batch_tokens)
    rate = make_matmul_timer(bench, bench.matmul_size)
    rates, at_once_s, in_batches_s = [], [], []
    scoring.response_logprobs(sequences)
    for _ in range(bench.rounds):
        # Next to the scoring, so that both see the same clock rate and temperature.
        rates.append(rate())
        at_once_s.append(time_task(bench.device, lambda: scoring.response_logprobs(sequences)))
        in_batches_s.append(
            time_task(bench.device, lambda: [scoring.response_logprobs(b) for b in batches])
        )

    work = count_packed_work(shape, sequences, pack_tokens)
    batched = reduce(add, [count_packed_work(shape, batch, pack_tokens) for batch in batches])
    unshared = count_unshared_work(shape, sequences)
    num_rollouts = num_groups * GROUP_SIZE
    about = {
        "rollouts": num_rollouts,
        "matmul_tflops_per_s": [r / 1e12 for r in rates],
        "attention": scoring._attention.name.lower(),
        "max_batch_tokens": pack_tokens,
    }

    def measure_utilisation(
        name: str, flops: int, times: list[float], **options: Any
    ) -> Measurement:
        samples = [flops / t / r for t, r in zip(times, rates, strict=True)]
        return Measurement(f"{shape.name}: {name}", samples, "of matmul", **options)

    yield Measurement(
        f"{shape.name}: tokens of both passes scored per second",
        [work.sequence_tokens / t for t in at_once_s],
        "tokens/s",
        details=about | {"seconds": at_once_s} | dataclasses.asdict(work),
    )
    yield measure_utilisation(
        "utilisation: products with weights, and attention",
        work.flops,
        at_once_s,
        at_least=bench.utilisation_bound,
        details=dataclasses.asdict(work),
    )
    yield measure_utilisation(
        "utilisation: products with weights alone", work.matmul_flops, at_once_s
    )
    yield measure_utilisation(
        "utilisation if no token were shared",
        unshared.flops,
        at_once_s,
        details=dataclasses.asdict(unshared),
    )
    bench.rollouts_per_s[shape.name] = [num_rollouts / t for t in in_batches_s]
    yield Measurement(
        f"{shape.name}: rollouts scored per second in the server's batches",
        bench.rollouts_per_s[shape.name],
        "rollouts/s",
        details=about | {"batches": len(batches)} | dataclasses.asdict(batched),
    )
    yield measure_utilisation("utilisation in the server's batches", batched.flops, in_batches_s)


def measure_memory(bench: Bench) -> Results:
    """Peak memory above the weights, by size of the vocabulary: it must not grow with it."""
    for vocabulary in bench.vocabularies:
        name = f"peak memory above the weights, vocabulary {vocabulary:,}"
        shape = dataclasses.replace(bench.small, vocabulary=vocabulary)
        scoring = TransformersScorer(
            make_model(shape, bench.device, bench.dtype), bench.max_batch_tokens
        )
        sequences = draw_sequences(min(4, bench.max_groups), vocabulary, bench.lengths)
        score = partial(scoring.response_logprobs, sequences)
        yield measure_peak(bench, name, score, max_batch_tokens=bench.max_batch_tokens)


def measure_naive(bench: Bench) -> Results:
    """Time of the naive loop (padded batches) relative to the scorer's, on the same rollouts."""
    shape = bench.small
    model = make_model(shape, bench.device, bench.dtype)
    scoring = TransformersScorer(model, bench.max_batch_tokens)
    # They can share a model: outside of the scorer, it runs transformers' own attention.
    loop = NaiveScorer(model)
    num_groups = bench.fit_groups(1.5 * _time_group(bench, shape, loop), 0.4)
    sequences = draw_sequences(num_groups, shape.vocabulary, bench.lengths)
    samples = time_in_turns(
        bench.device,
        {
            "naive": lambda: loop.response_logprobs(sequences),
            "scorer": lambda: scoring.response_logprobs(sequences),
        },
        bench.rounds,
    )
    yield Measurement(
        f"{shape.name}: time of the naive loop, batches of {BATCH_SIZE}, to the scorer's",
        [n / s for n, s in zip(samples["naive"], samples["scorer"], strict=True)],
        "times",
        details={"rollouts": num_groups * GROUP_SIZE} | samples,
    )
    yield _compare_logprobs(
        bench,
        f"{shape.name}: mean difference between the naive loop's numbers and the scorer's",
        scoring.response_logprobs(sequences),
        loop.response_logprobs(sequences),
    )
    for name, one in (("the naive loop", loop), ("the scorer", scoring)):
        title = f"{shape.name}: peak memory above the weights of {name} on these"
        yield measure_peak(bench, title, partial(one.response_logprobs, sequences), 2)


def measure_attention(bench: Bench) -> Results:
    """Variable-length attention in one kernel against blockwise attention."""
    shape = bench.small
    scoring = TransformersScorer(
        make_model(shape, bench.device, bench.dtype), bench.max_batch_tokens
    )
    chosen = scoring._attention
    heads = torch.empty(1, 1, 1, shape.head_dim, device=bench.device, dtype=bench.dtype)
    ways = [_Attention.BLOCKWISE]
    if _can_use_varlen(heads, heads, None):
        ways.insert(0, _Attention.VARLEN)
    else:
        yield NotMeasured(
            "variable-length attention",
            f"not for {_name(bench.dtype)} on {bench.device.type} in torch {torch.__version__}",
        )
    scoring._attention = _Attention.BLOCKWISE  # the slower one limits the rollouts
    num_groups = bench.fit_groups(1.7 * _time_group(bench, shape, scoring), 0.5)
    sequences = draw_sequences(num_groups, shape.vocabulary, bench.lengths)

    def score(way: _Attention) -> list[npt.NDArray[np.float32]]:
        scoring._attention = way
        return scoring.response_logprobs(sequences)

    tasks: dict[str, Callable[[], Any]] = {w.name.lower(): partial(score, w) for w in ways}
    samples = time_in_turns(bench.device, tasks, bench.rounds)
    num_tokens = sum(map(len, sequences))
    for name, times in samples.items():
        yield Measurement(
            f"{shape.name}: {name} attention, tokens scored per second",
            [num_tokens / t for t in times],
            "tokens/s",
            details={
                "seconds": times,
                "chosen_by_the_scorer": chosen.name.lower() if chosen else "none",
            },
        )
    if len(ways) == 2:
        yield Measurement(
            f"{shape.name}: time of blockwise attention to that of varlen, all of scoring",
            [b / v for b, v in zip(samples["blockwise"], samples["varlen"], strict=True)],
            "times",
        )
        yield _compare_logprobs(
            bench,
            f"{shape.name}: mean difference between varlen's numbers and blockwise's",
            *map(score, ways),
        )


def measure_budgets(bench: Bench) -> Results:
    """Speed and memory by the token budget of a forward pass."""
    shape = bench.small
    model = make_model(shape, bench.device, bench.dtype)
    scorers = {budget: TransformersScorer(model, budget) for budget in bench.token_budgets}
    per_group_s = _time_group(bench, shape, scorers[bench.token_budgets[0]])
    num_groups = bench.fit_groups(len(scorers) * per_group_s, 0.45)
    sequences = draw_sequences(num_groups, shape.vocabulary, bench.lengths)
    tasks: dict[str, Callable[[], Any]] = {
        str(budget): partial(s.response_logprobs, sequences) for budget, s in scorers.items()
    }
    samples = time_in_turns(bench.device, tasks, bench.rounds)
    num_tokens = sum(map(len, sequences))
    for budget, scoring in scorers.items():
        work = count_packed_work(shape, sequences, scoring._max_pack_tokens)
        yield Measurement(
            f"{shape.name}: budget of {budget:,} tokens, tokens scored per second",
            [num_tokens / t for t in samples[str(budget)]],
            "tokens/s",
            details={"rollouts": num_groups * GROUP_SIZE, "body_tokens": work.body_tokens},
        )
        title = f"{shape.name}: budget of {budget:,} tokens, peak memory above the weights"
        yield measure_peak(bench, title, tasks[str(budget)], 1)


def measure_step(bench: Bench) -> Results:
    """Scoring time per training step, from the measured rates; the step's length is assumed."""
    if not bench.rollouts_per_s:
        raise ValueError("no scoring rate: run the parts scorer or scorer-large too")
    num_rollouts = STEP_GROUPS * GROUP_SIZE
    for name, rates in bench.rollouts_per_s.items():
        times = [num_rollouts / rate for rate in rates]
        yield Measurement(
            f"{name}: seconds to score a step of {STEP_GROUPS} x {GROUP_SIZE} rollouts", times, "s"
        )
        yield Measurement(
            f"{name}: share of a step that is ASSUMED to take {bench.step_seconds:g} s",
            [100 * t / bench.step_seconds for t in times],
            "%",
            details={"assumed_step_seconds": bench.step_seconds},
        )


def _time_group(bench: Bench, shape: ModelShape, scoring: Any) -> float:
    """Seconds per group, from a few groups: one run to warm up, one run timed."""
    num_groups = min(4, bench.max_groups)
    sequences = draw_sequences(num_groups, shape.vocabulary, bench.lengths)
    scoring.response_logprobs(sequences)
    return time_task(bench.device, lambda: scoring.response_logprobs(sequences)) / num_groups


def measure_peak(
    bench: Bench, name: str, task: Callable[[], Any], rounds: int | None = None, **details: Any
) -> Result:
    """Peak memory of a task. Its first run does not count: libraries allocate workspace in it."""
    if not bench.is_cuda:
        return NotMeasured(name, "needs CUDA: PyTorch does not count what a CPU allocates")
    task()
    peaks = [measure_peak_bytes(bench.device, task) / GIB for _ in range(rounds or bench.rounds)]
    return Measurement(name, peaks, "GiB", details=details)


def _compare_logprobs(
    bench: Bench,
    name: str,
    one: list[npt.NDArray[np.float32]],
    other: list[npt.NDArray[np.float32]],
) -> Measurement:
    off = np.abs(np.concatenate(one) - np.concatenate(other))
    details = {"largest": float(off.max())}
    return Measurement(
        name, [float(off.mean())], "nats", at_most=MAX_DIFFERENCE[bench.dtype], details=details
    )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
