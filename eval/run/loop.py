"""Generates, grades and records samples at the same time.

The backend yields completions as they finish. A grader process grades each one while the backend
generates the next, and the record is written as soon as it is graded. Memory holds only the samples
in flight.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass

from eval.backends.base import Backend, Completion, Request
from eval.benchmarks import Benchmark, Problem
from eval.errors import UserError
from eval.records import Record
from eval.run.prompts import PromptStyle
from sar.errors import one_line
from sar.grading.graded_text import make_graded_text
from sar.grading.processes.pool import GraderPool

# Responses per grader process that may wait for a verdict. Beyond that, generation pauses.
_MAX_UNGRADED_PER_WORKER = 16
# After so many consecutive errors we assume that the backend will not recover.
_MAX_CONSECUTIVE_ERRORS = 100


@dataclass(frozen=True)
class Task:
    """One sample to generate and grade."""

    benchmark: Benchmark
    problem: Problem
    sample: int


def make_requests(
    tasks: Iterable[Task], backend: Backend, style: PromptStyle, seed: int | None
) -> Iterator[Request]:
    """Yields the backend request of each task.

    Args:
        seed: the run's seed; None when decoding is greedy.
    """
    for task in tasks:
        user_turn = style.format_user_turn(task.problem.question, task.benchmark.joiner)
        yield Request(
            key=task,
            system_prompt=style.system_prompt,
            user_turn=user_turn,
            prompt=backend.render_prompt(style.system_prompt, user_turn),
            seed=None if seed is None else derive_seed(seed, task),
        )


def derive_seed(seed: int, task: Task) -> int:
    """Derives the seed of one sample, 31 bits, from the run's seed and the task alone."""
    text = f"{seed}/{task.benchmark.name}/{task.problem.id}/{task.sample}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]) >> 1


def ask_and_grade(
    requests: Iterable[Request],
    backend: Backend,
    graders: GraderPool,
    write: Callable[[Task, Record], None],
    num_workers: int,
) -> None:
    """Generates a response to every request, grades it and passes on its record.

    Args:
        write: called with each record as soon as it is ready, by one thread at a time.
        num_workers: number of grader processes.
    Raises:
        UserError: the backend failed `_MAX_CONSECUTIVE_ERRORS` times in a row.
        Exception: whatever `write` raised, such as OSError on a full disk.
    """
    writing = threading.Lock()

    def finish(completion: Completion) -> None:
        record = grade_completion(completion, graders)
        with writing:
            write(completion.request.key, record)

    room = threading.BoundedSemaphore(_MAX_UNGRADED_PER_WORKER * num_workers)
    num_consecutive_errors = 0
    with (
        ThreadPoolExecutor(2 * num_workers, thread_name_prefix="grading") as pool,
        closing(backend.generate(requests)) as completions,
    ):
        pending: set[Future[None]] = set()
        for completion in completions:
            num_consecutive_errors = num_consecutive_errors + 1 if completion.error else 0
            room.acquire()
            future = pool.submit(finish, completion)
            future.add_done_callback(lambda _: room.release())
            pending = _drop_done({*pending, future})
            if num_consecutive_errors == _MAX_CONSECUTIVE_ERRORS:
                raise UserError(
                    f"stopped after {num_consecutive_errors} errors in a row, "
                    f"the last: {completion.error}"
                )
        for future in pending:
            future.result()


def grade_completion(completion: Completion, graders: GraderPool) -> Record:
    """Grades one completion. If the grader fails, the record is an error, not a wrong answer."""
    task: Task = completion.request.key
    error, verdict = completion.error, None
    if completion.response is not None and error is None:
        try:
            # The prompt may have opened the thinking that the response ends.
            text = make_graded_text(completion.response, prompt=completion.request.prompt)
            verdict = graders.submit(text, task.problem.label).result()
        except Exception as failure:  # noqa: BLE001  the other samples of the run go on
            error = f"the grader failed: {one_line(failure)}"
    return Record(
        id=task.problem.id,
        sample=task.sample,
        question=task.problem.question,
        prompt=completion.request.prompt,
        response=completion.response,
        label=task.problem.label.answer,
        correct=None if verdict is None else verdict.correctness == 1.0,
        reason=None if verdict is None else verdict.reason.value,
        answer=None if verdict is None else verdict.answer,
        num_tokens=completion.num_tokens,
        finish_reason=completion.finish_reason,
        seed=completion.request.seed,
        error=error,
    )


def _drop_done(futures: set[Future[None]]) -> set[Future[None]]:
    """Returns the futures still running. If a finished one failed, raises its exception."""
    done = {future for future in futures if future.done()}
    for future in done:
        future.result()
    return futures - done
