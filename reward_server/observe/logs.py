"""Sets up logging: one line for each event, as text or as JSON.

A text line has no control characters: what a client sent can neither begin a line of its own nor
act on a terminal. A message or traceback of several lines, such as the load report of transformers,
becomes one line, in which ` | ` stands for a line break.
"""

from __future__ import annotations

import io
import json
import logging
import os
import sys
import threading
from datetime import UTC, datetime
from types import TracebackType

from sar.terminal import join_lines, make_printable

# Long enough for a report of a library. What is quoted in our own messages is much shorter.
_MAX_MESSAGE_CHARS = 2000
_MAX_TRACEBACK_CHARS = 20_000

_log = logging.getLogger(__name__)


def start_logging(log_format: str) -> None:
    """Writes events of level INFO and above to standard error, and also Python warnings and
    exceptions that nobody caught.

    Args:
        log_format: "text" or "json".
    """
    if isinstance(sys.stderr, io.TextIOWrapper):
        sys.stderr.reconfigure(errors="backslashreplace")  # it may be ASCII
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter() if log_format == "json" else _TextFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.captureWarnings(True)
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_uncaught_in_thread
    if log_format == "json" or not sys.stderr.isatty():
        # Progress bars would not be log lines. transformers reads this when it is imported.
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def adopt_loggers(*names: str) -> None:
    """Makes libraries log in the server's format. Those named write in one of their own, through a
    handler that they add when they are imported."""
    for name in names:
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True


class _TextFormatter(logging.Formatter):
    """Formats an event as one line of printable characters, with its traceback at the end."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        text = _cut_message(record)
        if record.exc_info:
            text += "\n" + _cut_traceback(self, record)
        lines = (make_printable(join_lines(line)) for line in text.splitlines())
        record.message = " | ".join(filter(None, lines))
        record.asctime = self.formatTime(record)
        return self.formatMessage(record)


class _JsonFormatter(logging.Formatter):
    """Formats an event as one JSON object on one line; a traceback becomes a field."""

    def format(self, record: logging.LogRecord) -> str:
        event = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": _cut_message(record),
        }
        if record.exc_info:
            event["traceback"] = _cut_traceback(self, record)
        return json.dumps(event)


def _cut_message(record: logging.LogRecord) -> str:
    return _cut_middle(record.getMessage(), _MAX_MESSAGE_CHARS)


def _cut_traceback(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    assert record.exc_info
    return _cut_middle(formatter.formatException(record.exc_info), _MAX_TRACEBACK_CHARS)


def _cut_middle(text: str, max_chars: int) -> str:
    """Keeps start and end: a traceback's last line is the exception."""
    num_left_out = len(text) - max_chars
    if num_left_out <= 0:
        return text
    half = max_chars // 2
    return f"{text[:half]} ...({num_left_out:,} more characters)... {text[-half:]}"


def _log_uncaught(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    _log.critical("not caught", exc_info=(kind, error, trace))


def _log_uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_value and not isinstance(args.exc_value, SystemExit):
        name = args.thread.name if args.thread else "unknown"
        trace = (args.exc_type, args.exc_value, args.exc_traceback)
        _log.error("not caught in thread %s", name, exc_info=trace)
