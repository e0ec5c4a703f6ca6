"""The progress bar of a run: samples, throughput, running accuracy, errors."""

from __future__ import annotations

import sys
import time

from tqdm import tqdm

from eval.records import Record

# A log file gets a line every 30 s, a terminal an update every 0.3 s.
_LOG_INTERVAL_S = 30.0
_TERMINAL_INTERVAL_S = 0.3


class Progress:
    """Counts records and shows them on stderr."""

    def __init__(self, *, total: int, num_done: int, num_correct: int) -> None:
        """
        Args:
            total: number of samples in the whole run.
            num_done: samples that an earlier start of this run has graded.
            num_correct: how many of those are correct.
        """
        is_terminal = sys.stderr.isatty()
        self._bar = tqdm(
            total=total,
            initial=num_done,
            unit=" samples",
            dynamic_ncols=is_terminal,
            mininterval=_TERMINAL_INTERVAL_S if is_terminal else _LOG_INTERVAL_S,
        )
        self._num_graded = num_done
        self._num_correct = num_correct
        self._num_errors = 0
        self._num_tokens = 0
        self._started = time.monotonic()

    def count(self, benchmark: str, record: Record) -> None:
        """Adds a new record to the counts and updates the bar."""
        if record.correct is None:
            self._num_errors += 1
        else:
            self._num_graded += 1
            self._num_correct += record.correct
        self._num_tokens += record.num_tokens or 0
        self._bar.set_description(benchmark, refresh=False)
        self._bar.set_postfix_str(self._format_postfix(), refresh=False)
        self._bar.update()

    def close(self) -> None:
        self._bar.close()

    def _format_postfix(self) -> str:
        parts = [f"{self._num_tokens / (time.monotonic() - self._started):.0f} tok/s"]
        if self._num_graded:
            parts.insert(0, f"accuracy {self._num_correct / self._num_graded:.1%}")
        if self._num_errors:
            parts.append(f"{self._num_errors} errors")
        return ", ".join(parts)
