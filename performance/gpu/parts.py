"""What `python -m performance.gpu` measures of the scorer itself, each part in a function.

A part gives what it has measured, or could not, one by one: what came before a failure is kept.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from performance.gpu.models import (
    STEP_GROUPS,
    Work,
    draw,
    make_model,
    rollouts,
    work_in_packs,
    work_unshared,
)
from performance.gpu.timing import (
    Bench,
    NotMeasured,
    interleaved,
    matmul_flops_per_s,
    peak_bytes,
    seconds,
)
from performance.naive import BATCH_SIZE, NaiveScorer
from performance.report import Measurement
from performance.workload import GROUP_SIZE, ModelShape, sequences_of, server_batches
from sar.scoring.packed_attention import _can_use_varlen
from sar.scoring.transformers_scorer import TransformersScorer, _Attention

Result = Measurement | NotMeasured
Results = Iterator[Result]

GIB = 2**30
UTILISATION = 0.60
# Mean difference of log-probabilities that rounding explains, nats; the scorer's own bound for
# float32 and for half precision.
SAME = {torch.float32: 1e-4, torch.bfloat16: 5e-2}

NO_GPU_MEMORY = "needs CUDA: PyTorch does not count what a CPU allocates"


def matmul(bench: Bench) -> Results:
    """How fast the device multiplies large matrices: the yardstick of utilisation."""
    rates = {size: matmul_flops_per_s(bench, size) for size in bench.matmul_sizes}
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


def scorer(bench: Bench) -> Results:
    """Tokens per second and utilisation, the smaller model."""
    return _scorer(bench, bench.small)


def scorer_large(bench: Bench) -> Results:
    """Tokens per second and utilisation, the larger model."""
    return _scorer(bench, bench.large)


def _scorer(bench: Bench, shape: Any) -> Results:
    scoring = TransformersScorer(
        make_model(shape, bench.device, bench.dtype), bench.max_batch_tokens
    )
    assert scoring._attention, "the scorer does not pack: what it computes is not what is counted"
    pack_tokens = scoring._max_pack_tokens
    # All at once, and in the batches in which the server would hand them over.
    num_groups = bench.num_groups(2 * _seconds_per_group(bench, shape, scoring))
    drawn = draw(num_groups, shape.vocabulary, bench.lengths)
    sequences, batches = sequences_of(drawn), server_batches(drawn, bench.max_batch_tokens)
    rate = matmul_flops_per_s(bench, bench.matmul_size)
    rates, at_once_s, in_batches_s = [], [], []
    scoring.response_logprobs(sequences)
    for _ in range(bench.rounds):
        # Beside the scoring, so that both have the same clock and temperature.
        rates.append(rate())
        at_once_s.append(seconds(bench.device, lambda: scoring.response_logprobs(sequences)))
        in_batches_s.append(
            seconds(bench.device, lambda: [scoring.response_logprobs(b) for b in batches])
        )

    work = work_in_packs(shape, sequences, pack_tokens)
    batched = _sum([work_in_packs(shape, batch, pack_tokens) for batch in batches])
    unshared = work_unshared(shape, sequences)
    num_rollouts = num_groups * GROUP_SIZE
    about = {
        "rollouts": num_rollouts,
        "matmul_tflops_per_s": [r / 1e12 for r in rates],
        "attention": scoring._attention.name.lower(),
        "max_batch_tokens": pack_tokens,
    }

    def utilisation(name: str, flops: int, times: list[float], **options: Any) -> Measurement:
        samples = [flops / t / r for t, r in zip(times, rates, strict=True)]
        return Measurement(f"{shape.name}: {name}", samples, "of matmul", **options)

    yield Measurement(
        f"{shape.name}: tokens of both passes scored per second",
        [work.sequence_tokens / t for t in at_once_s],
        "tokens/s",
        details=about | {"seconds": at_once_s} | dataclasses.asdict(work),
    )
    yield utilisation(
        "utilisation: products with weights, and attention",
        work.flops,
        at_once_s,
        at_least=bench.utilisation_bound,
        details=dataclasses.asdict(work),
    )
    yield utilisation("utilisation: products with weights alone", work.matmul_flops, at_once_s)
    yield utilisation(
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
    yield utilisation("utilisation in the server's batches", batched.flops, in_batches_s)


def memory(bench: Bench) -> Results:
    """Peak memory above the weights, which must not grow with the vocabulary."""
    for vocabulary in bench.vocabularies:
        name = f"peak memory above the weights, vocabulary {vocabulary:,}"
        if not bench.is_cuda:
            yield NotMeasured(name, NO_GPU_MEMORY)
            continue
        shape = dataclasses.replace(bench.small, vocabulary=vocabulary)
        scoring = TransformersScorer(
            make_model(shape, bench.device, bench.dtype), bench.max_batch_tokens
        )
        sequences = rollouts(min(4, bench.max_groups), vocabulary, bench.lengths)
        peaks = _peaks(bench, partial(scoring.response_logprobs, sequences))
        yield Measurement(name, peaks, "GiB", details={"max_batch_tokens": bench.max_batch_tokens})


def naive(bench: Bench) -> Results:
    """The loop of padded batches on the same rollouts: how many times as long it takes."""
    shape = bench.small
    model = make_model(shape, bench.device, bench.dtype)
    scoring = TransformersScorer(model, bench.max_batch_tokens)
    # The scorer's attention is transformers' own wherever the scorer is not at work.
    loop = NaiveScorer(model)
    num_groups = bench.num_groups(1.5 * _seconds_per_group(bench, shape, loop), 0.4)
    sequences = rollouts(num_groups, shape.vocabulary, bench.lengths)
    samples = interleaved(
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
    yield _difference(
        bench,
        f"{shape.name}: mean difference between the naive loop's numbers and the scorer's",
        scoring.response_logprobs(sequences),
        loop.response_logprobs(sequences),
    )
    for name, one in (("the naive loop", loop), ("the scorer", scoring)):
        title = f"{shape.name}: peak memory above the weights of {name} on these"
        if bench.is_cuda:
            peaks = _peaks(bench, partial(one.response_logprobs, sequences), 2)
            yield Measurement(title, peaks, "GiB")
        else:
            yield NotMeasured(title, NO_GPU_MEMORY)


def attention(bench: Bench) -> Results:
    """Variable-length attention in one kernel against attention block by block."""
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
    scoring._attention = _Attention.BLOCKWISE  # the slower one decides how much there is time for
    num_groups = bench.num_groups(1.7 * _seconds_per_group(bench, shape, scoring), 0.5)
    sequences = rollouts(num_groups, shape.vocabulary, bench.lengths)

    def score(way: _Attention) -> list[npt.NDArray[np.float32]]:
        scoring._attention = way
        return scoring.response_logprobs(sequences)

    tasks: dict[str, Callable[[], Any]] = {w.name.lower(): partial(score, w) for w in ways}
    samples = interleaved(bench.device, tasks, bench.rounds)
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
        yield _difference(
            bench,
            f"{shape.name}: mean difference between varlen's numbers and blockwise's",
            *map(score, ways),
        )


def budgets(bench: Bench) -> Results:
    """Speed and memory by how many tokens may share a forward pass."""
    shape = bench.small
    model = make_model(shape, bench.device, bench.dtype)
    scorers = {budget: TransformersScorer(model, budget) for budget in bench.token_budgets}
    per_group_s = _seconds_per_group(bench, shape, scorers[bench.token_budgets[0]])
    num_groups = bench.num_groups(len(scorers) * per_group_s, 0.45)
    sequences = rollouts(num_groups, shape.vocabulary, bench.lengths)
    tasks: dict[str, Callable[[], Any]] = {
        str(budget): partial(s.response_logprobs, sequences) for budget, s in scorers.items()
    }
    samples = interleaved(bench.device, tasks, bench.rounds)
    num_tokens = sum(map(len, sequences))
    for budget, scoring in scorers.items():
        work = work_in_packs(shape, sequences, scoring._max_pack_tokens)
        yield Measurement(
            f"{shape.name}: budget of {budget:,} tokens, tokens scored per second",
            [num_tokens / t for t in samples[str(budget)]],
            "tokens/s",
            details={"rollouts": num_groups * GROUP_SIZE, "body_tokens": work.body_tokens},
        )
        title = f"{shape.name}: budget of {budget:,} tokens, peak memory above the weights"
        if bench.is_cuda:
            yield Measurement(title, _peaks(bench, tasks[str(budget)], 1), "GiB")
        else:
            yield NotMeasured(title, NO_GPU_MEMORY)


def step(bench: Bench) -> Results:
    """What the measured rates mean for a step of training; the step's length is an assumption."""
    if not bench.rollouts_per_s:
        raise ValueError("no rate to reckon with: the scorer parts measured none")
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


def _seconds_per_group(bench: Bench, shape: ModelShape, scoring: Any) -> float:
    """From a first few groups, once to warm up and once timed."""
    num_groups = min(4, bench.max_groups)
    sequences = rollouts(num_groups, shape.vocabulary, bench.lengths)
    scoring.response_logprobs(sequences)
    return seconds(bench.device, lambda: scoring.response_logprobs(sequences)) / num_groups


def _sum(works: Sequence[Work]) -> Work:
    total = works[0]
    for work in works[1:]:
        total += work
    return total


def _peaks(bench: Bench, task: Callable[[], Any], rounds: int | None = None) -> list[float]:
    """GiB; the first run does not count, as libraries set their own workspace aside in it."""
    task()
    return [peak_bytes(bench.device, task) / GIB for _ in range(rounds or bench.rounds)]


def _difference(
    bench: Bench,
    name: str,
    one: list[npt.NDArray[np.float32]],
    other: list[npt.NDArray[np.float32]],
) -> Measurement:
    off = np.abs(np.concatenate(one) - np.concatenate(other))
    details = {"largest": float(off.max())}
    return Measurement(
        name, [float(off.mean())], "nats", at_most=SAME[bench.dtype], details=details
    )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
