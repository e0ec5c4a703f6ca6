"""Calls of candidates per second: reward functions that run in pydantic-monty's processes.

As many threads call as there are cores, as the server's threads do. The candidates are of the kinds
that a search writes: short formulas, and ones that read the whole response.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

from performance.report import Measurement
from sar.models.problems import generate
from sar.terms.candidate.runner import CandidateRunner
from sar.terms.candidate.sample import PlainSample

NUM_CALLS = 4000
NUM_ROUNDS = 5
_FORMULA = """
import math

def reward(sample):
    if not sample["correct"]:
        return -0.2
    return 1.0 - 0.3 * math.tanh(sample["response_tokens"] / 400) + 0.2 * sample["sar"]
"""
_READER = """
import re

FILLERS = ("let me", "wait", "hmm", "actually", "let's see")

def count_repeats(words):
    seen = {}
    for word in words:
        seen[word] = seen.get(word, 0) + 1
    return sum(n - 1 for n in seen.values() if n > 3)

def reward(sample):
    text = sample["response"].lower()
    words = text.split()
    score = 1.0 if sample["correct"] else 0.0
    if re.search(r"answer|boxed", text):
        score += 0.1
    score -= 0.02 * min(5, sum(text.count(filler) for filler in FILLERS))
    score -= 0.3 * min(1.0, count_repeats(words) / (1 + len(words)))
    numbers = re.findall(r"-?[0-9]+", text)
    if numbers and numbers[-1] == sample["label"]:
        score += 0.05
    return max(-1.0, min(2.0, score))
"""


def measure(quick: bool) -> list[Measurement]:
    """Measures the throughput of a short candidate and of one that reads the response."""
    samples = list(islice(_make_samples(), 40 if quick else NUM_CALLS))
    num_words = sum(len(one["response"].split()) for one in samples) / len(samples)
    details = {"threads": os.cpu_count() or 1, "words of a response": round(num_words)}
    return [
        Measurement(
            f"calls of a candidate that {what}",
            [_time_calls(source, samples) for _ in range(2 if quick else NUM_ROUNDS)],
            "calls/s",
            at_least=2000,
            details=details,
        )
        for what, source in (("is a formula", _FORMULA), ("reads the response", _READER))
    ]


def _time_calls(source: str, samples: list[PlainSample]) -> float:
    runner = CandidateRunner(source)
    runner.score(samples[0])  # starts the processes
    with ThreadPoolExecutor(os.cpu_count() or 1) as threads:
        started_s = time.perf_counter()
        rewards = list(threads.map(runner.score, samples))
        elapsed_s = time.perf_counter() - started_s
    if len(set(rewards)) < 2:
        raise RuntimeError("the candidate does not tell the responses apart")
    return len(samples) / elapsed_s


def _make_samples() -> Iterator[PlainSample]:
    """Responses of about 200 words to bundled problems; every third is wrong."""
    for index, problem in enumerate(generate(seed=5, held_out=True)):
        sentence = f"{problem.question} {problem.concise} "
        yield {
            "prompt": f"Question: {problem.question}",
            "response": sentence * (1 + 200 // len(sentence.split())) + f"Answer: {problem.answer}",
            "label": str(problem.answer),
            "correct": index % 3 != 0,
            "response_tokens": 200 + index % 100,
            "ppl_qa": 1.5,
            "ppl_a": 2.0,
            "sar": (index % 10) / 10 - 0.3,
        }
