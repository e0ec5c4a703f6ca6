"""The grader processes of a command: their command line options, and the pool itself."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

from sar.arguments import number

if TYPE_CHECKING:
    from sar.grading.processes.pool import GraderPool

DEFAULT_TIMEOUT_S = 5.0
_MAX_DEFAULT_WORKERS = 16
# Responses read ahead for each worker, so that the others have work while one is slow.
_IN_FLIGHT_PER_WORKER = 16


def add_grader_options(parser: argparse.ArgumentParser) -> None:
    """Adds `--grader-workers` and `--grader-timeout`; their defaults are None."""
    parser.add_argument(
        "--grader-workers",
        type=number(1, 256, int),
        help=f"number of grader processes (default: one per CPU, at most {_MAX_DEFAULT_WORKERS})",
    )
    parser.add_argument(
        "--grader-timeout",
        type=number(0.1, 3600),
        help=f"seconds for grading one response (default: {DEFAULT_TIMEOUT_S})",
    )


@contextmanager
def open_graders(arguments: argparse.Namespace) -> Iterator[tuple[GraderPool, int]]:
    """Starts the grader processes that the options ask for, and ends them after the block.

    Yields the pool, and how many responses to read ahead for it.
    """
    from sar.grading.processes.pool import GraderPool

    num_workers = arguments.grader_workers or min(os.cpu_count() or 1, _MAX_DEFAULT_WORKERS)
    timeout_s = arguments.grader_timeout or DEFAULT_TIMEOUT_S
    with closing(GraderPool(num_workers, timeout_s)) as graders:
        yield graders, _IN_FLIGHT_PER_WORKER * num_workers
