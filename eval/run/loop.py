"""Generates, grades and records at the same time, a few samples ahead of each other.

The backend yields completions as they finish. Each is graded in a grader process while the next are
generated, and written as soon as its verdict is there. Memory holds what is in flight only.
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
from eval.run.grading import Grader
from eval.run.prompts import PromptStyle
from sar.errors import one_line

# Responses that wait for a verdict, per grader process, before generation has to wait for them.
_AHEAD_PER_WORKER = 16
# A backend that answers nothing but errors will not recover by itself.
_MAX_ERRORS_IN_A_ROW = 100


@dataclass(frozen=True)
class Task:
    """One sample that is to be made."""

    benchmark: Benchmark
    problem: Problem
    sample: int


def requests_of(
    tasks: Iterable[Task], backend: Backend, style: PromptStyle, seed: int | None
) -> Iterator[Request]:
    """
    Args:
        seed: the run's; None when greedy.
    """
    for task in tasks:
        user_turn = style.user_turn(task.problem.question, task.benchmark.joiner)
        yield Request(
            key=task,
            system_prompt=style.system_prompt,
            user_turn=user_turn,
            prompt=backend.prompt(style.system_prompt, user_turn),
            seed=None if seed is None else sample_seed(seed, task),
        )


def sample_seed(seed: int, task: Task) -> int:
    """A seed of its own for each sample, the same in every run with this seed; 31 bits."""
    text = f"{seed}/{task.benchmark.name}/{task.problem.id}/{task.sample}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]) >> 1


def ask_and_grade(
    requests: Iterable[Request],
    backend: Backend,
    grader: Grader,
    record: Callable[[Task, Record], None],
    num_workers: int,
) -> None:
    """Answers, grades and records all requests.

    Args:
        record: takes each record as it is ready; called by one thread at a time.
        num_workers: the grader's processes.
    Raises:
        UserError: the backend fails time and again.
    """
    recording = threading.Lock()

    def finish(completion: Completion) -> None:
        done = graded(completion, grader)
        with recording:
            record(completion.request.key, done)

    room = threading.BoundedSemaphore(_AHEAD_PER_WORKER * num_workers)
    errors_in_a_row = 0
    with (
        ThreadPoolExecutor(2 * num_workers, thread_name_prefix="grading") as pool,
        closing(backend.generate(requests)) as completions,
    ):
        pending: set[Future[None]] = set()
        for completion in completions:
            errors_in_a_row = errors_in_a_row + 1 if completion.error else 0
            room.acquire()
            future = pool.submit(finish, completion)
            future.add_done_callback(lambda _: room.release())
            pending = _still_pending({*pending, future})
            if errors_in_a_row == _MAX_ERRORS_IN_A_ROW:
                raise UserError(
                    f"stopped after {errors_in_a_row} errors in a row, the last: {completion.error}"
                )
        for future in pending:
            future.result()


def graded(completion: Completion, grader: Grader) -> Record:
    """The record of a completion; a grader that fails is an error, never a wrong answer."""
    task: Task = completion.request.key
    error, verdict = completion.error, None
    if completion.response is not None and error is None:
        try:
            verdict = grader.verdict(
                completion.request.prompt, completion.response, task.problem.label
            )
        except Exception as failure:  # noqa: BLE001  whatever it is, the run's other samples go on
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


def _still_pending(futures: set[Future[None]]) -> set[Future[None]]:
    """Those that are not done; what failed in one that is, such as a full disk, is raised."""
    done = {future for future in futures if future.done()}
    for future in done:
        future.result()
    return futures - done
