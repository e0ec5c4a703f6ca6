"""Grades a file of responses for `python -m sar grade`, and prints a table and a summary."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TextIO

from sar.commands.grade_rows import BadRow, Keys, Row, read_rows
from sar.commands.grade_table import GradedRow, Summary, Table
from sar.commands.grader_options import open_graders
from sar.errors import MAX_MESSAGE_CHARS, one_line, shorten
from sar.files import open_atomically
from sar.grading.label import GraderName
from sar.grading.processes.pool import GraderPool
from sar.grading.verdict import Verdict
from sar.read_ahead import read_ahead

# For output that goes to a file or a pipe.
_WIDTH_WITHOUT_TERMINAL = 160


def grade_file(file: Path, keys: Keys, arguments: argparse.Namespace) -> int:
    """Grades the rows and prints them.

    Returns:
        2 if a row could not be graded, else 1 if a verdict is not the expected one, else 0.
    Raises:
        OSError: a file cannot be read or written.
    """
    table = Table(shutil.get_terminal_size((_WIDTH_WITHOUT_TERMINAL, 0)).columns)
    summary = Summary(keys.expected)
    with (
        _read_with_progress(file, keys, arguments.grader) as rows,
        _open_output(arguments.output) as output,
        open_graders(arguments) as (graders, num_ahead),
    ):
        sys.stdout.write(table.format_header())
        for graded in _grade(rows, graders, num_ahead):
            if isinstance(graded, BadRow):
                summary.add_bad(graded)
                message = f"{file}:{graded.line}: {graded.error}"
                sys.stderr.write(f"error: {shorten(message, MAX_MESSAGE_CHARS)}\n")
            else:
                summary.add(graded)
                sys.stdout.write(table.format_row(graded))
            if output:
                output.write(_to_json(graded))
    sys.stdout.write("\n" + summary.format())
    return 2 if summary.num_bad else 1 if summary.num_disagreeing else 0


def _grade(
    rows: Iterator[Row | BadRow], graders: GraderPool, num_ahead: int
) -> Iterator[GradedRow | BadRow]:
    """Grades rows in several processes at once, and yields them in order."""
    submitted = (
        row if isinstance(row, BadRow) else (row, graders.submit(row.text, row.label))
        for row in rows
    )
    for one in read_ahead(submitted, num_ahead):
        yield one if isinstance(one, BadRow) else _finish(*one)


def _finish(row: Row, verdict: Future[Verdict]) -> GradedRow | BadRow:
    try:
        return GradedRow(row, verdict.result())
    except Exception as error:  # noqa: BLE001  a grader that fails gives no verdict
        return BadRow(row.line, f"the grader failed: {one_line(error)}; grade this row again")


@contextmanager
def _read_with_progress(
    file: Path, keys: Keys, grader: GraderName | None
) -> Iterator[Iterator[Row | BadRow]]:
    """The rows of the file. A terminal gets a progress bar, unless it shows the table already."""
    from tqdm import tqdm

    size = file.stat().st_size
    is_shown = sys.stderr.isatty() and not sys.stdout.isatty()
    with tqdm(
        total=size or None, unit="B", unit_scale=True, disable=not is_shown, desc="grading"
    ) as bar:
        yield read_rows(file, keys, grader, on_bytes=bar.update)


def _open_output(path: Path | None) -> AbstractContextManager[TextIO | None]:
    return open_atomically(path, is_private=True) if path else nullcontext()


def _to_json(graded: GradedRow | BadRow) -> str:
    """A line of the output file."""
    if isinstance(graded, BadRow):
        fields = asdict(graded)
    else:
        row, verdict = graded.row, graded.verdict
        fields = {
            "line": row.line,
            "label": row.label_as_given,
            "grader": row.label.grader,
            "correctness": verdict.correctness,
            **asdict(verdict),
        }
        if row.expected is not None:
            fields["expected"] = float(row.expected)
    text = json.dumps(fields, ensure_ascii=False) + "\n"
    # JSON can hold half a surrogate pair, UTF-8 cannot; the escape that replaces it is JSON's own.
    return text.encode("utf-8", "backslashreplace").decode()
