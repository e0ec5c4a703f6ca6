"""Watches reward logs for alarms, and says which fired and when first.

python -m sar audit DIR
python -m sar audit DIR DIR
python -m sar audit DIR --output audit.html --json audit.json
python -m sar audit --update docs/alarms.md
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sar.arguments import CommandParser, number
from sar.errors import MAX_MESSAGE_CHARS, quote, shorten
from sar.terminal import make_printable

if TYPE_CHECKING:
    from tqdm import tqdm

    from sar.alarms.audit import Audit, Finding
    from sar.alarms.logs import Log

_BLOCKS_PER_WINDOW = 8  # as in `sar.alarms.windows`, which --help need not load
_DEFAULT_WINDOW = 256
_MAX_RINGS = 8


class _NothingToAuditError(ValueError):
    """The log has no rollout to watch."""


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit status: 1 if an alarm fired, 2 for the user's mistake."""
    parser = _make_parser()
    arguments = parser.parse_args(argv)
    if bool(arguments.update) == bool(arguments.logs):
        parser.error("give a reward log, or --update and a page")
    # Imported here, so that --help is instant.
    from sar.alarms.catalogue import UPDATE_COMMAND, render_table
    from sar.pages import PageError, update_page
    from sar.rescore import RescoreError

    try:
        if arguments.update:
            update_page(arguments.update, UPDATE_COMMAND, render_table())
            return 0
        audits = _audit(arguments)
        _write_outputs(arguments, audits)
    except BrokenPipeError:
        raise
    except (RescoreError, PageError, _NothingToAuditError, OSError) as error:
        sys.stderr.write(f"error: {shorten(str(error), MAX_MESSAGE_CHARS)}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("stopped: no output was written\n")
        return 130
    for name, audit in audits.items():
        if len(audits) > 1:
            sys.stdout.write(f"{make_printable(name)}\n\n")
        sys.stdout.write(_format_audit(audit))
        if len(audits) > 1:
            sys.stdout.write("\n\n")
    return 1 if any(audit.has_fired for audit in audits.values()) else 0


def _make_parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="python -m sar audit",
        description=(
            "Watches reward logs for alarms, such as a collapse of length, each on its own. "
            "docs/alarms.md says what each means. The exit status is 1 if an alarm fired."
        ),
    )
    parser.add_argument(
        "logs", metavar="LOG", nargs="*", type=Path, help="folder of a run's log, or a file"
    )
    parser.add_argument("--output", type=Path, metavar="FILE.html", help="write a report")
    parser.add_argument("--json", type=Path, metavar="FILE.json", help="write the same as JSON")
    parser.add_argument(
        "--window",
        type=_parse_window,
        default=_DEFAULT_WINDOW,
        metavar="N",
        help="rollouts in a window, a multiple of 8 (default: %(default)s)",
    )
    parser.add_argument(
        "--update",
        type=Path,
        metavar="PAGE.md",
        help="write the table of alarms into a page, between its markers",
    )
    return parser


def _parse_window(text: str) -> int:
    window: int = number(_BLOCKS_PER_WINDOW, 10**6, int)(text)
    if window % _BLOCKS_PER_WINDOW:
        raise argparse.ArgumentTypeError(f"{quote(text)} is not a multiple of {_BLOCKS_PER_WINDOW}")
    return window


def _audit(arguments: argparse.Namespace) -> dict[str, Audit]:
    """What was found, by the log's name.

    Raises:
        RescoreError: a log cannot be read.
        _NothingToAuditError: one has no rollout, or an output would be read as a log.
    """
    from tqdm import tqdm

    from sar.alarms.logs import split_into_logs

    logs = split_into_logs(arguments.logs)
    files = [file for log in logs for file in log.files]
    for name in ("output", "json"):
        path: Path | None = getattr(arguments, name)
        if path and path.resolve() in {file.resolve() for file in files}:
            raise _NothingToAuditError(f"--{name} {path}: would replace the log")
    total = sum(file.stat().st_size for file in files)
    with tqdm(total=total, unit="B", unit_scale=True, disable=None, desc="auditing") as bar:
        return {log.name: _audit_one(log, arguments.window, bar) for log in logs}


def _audit_one(log: Log, window: int, bar: tqdm[Any]) -> Audit:
    from sar.alarms.audit import audit, read_decisions

    def warn(place: str) -> None:
        bar.write(f"warning: {place}: skipped an incomplete last line", file=sys.stderr)

    found = audit(read_decisions(log.files, on_torn=warn, on_bytes=bar.update), window=window)
    if not found.num_rollouts:
        only = f": all {found.num_eval:,} are of mode eval" if found.num_eval else ""
        raise _NothingToAuditError(f"{log.name}: no rollout of training{only}")
    return found


def _write_outputs(arguments: argparse.Namespace, audits: Mapping[str, Audit]) -> None:
    from sar.alarms.report import render
    from sar.files import open_atomically

    runs = [{"log": name, **audit.to_json()} for name, audit in audits.items()]
    texts = {
        arguments.output: lambda: render(audits),
        arguments.json: lambda: json.dumps({"runs": runs}, indent=1, allow_nan=False) + "\n",
    }
    for path, make_text in texts.items():
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open_atomically(path, is_private=True) as file:  # as the log is
                file.write(make_text())


def _format_audit(audit: Audit) -> str:
    from sar.alarms.report import describe_earliest

    rows: list[tuple[str, ...]] = [("alarm", "fired", "first at rollout", "version", "time")]
    rows.append(("",) * len(rows[0]))
    rows += map(_make_row, audit.findings)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    lines[1] = "-" * len(lines[0])
    lines.append("")
    for finding in audit.findings:
        if finding.rings:
            rings = ", ".join(map(_describe_ring, finding.rings[:_MAX_RINGS]))
            more = ", ..." if len(finding.rings) > _MAX_RINGS else ""
            title = finding.state.alarm.title
            lines.append(f"{title}, rollouts {rings}{more}: {finding.first_message}")
    lines.append(describe_earliest(audit))
    lines.append(f"{audit.num_rollouts:,} rollouts; windows of {audit.window:,}")
    if audit.num_eval:
        lines.append(f"{audit.num_eval:,} rollouts of mode eval were left out")
    if audit.is_too_short:
        lines.append(
            f"too short to compare with the run's start: that takes {2 * audit.window:,} rollouts"
        )
    return "".join(f"{make_printable(line)}\n" for line in lines)


def _describe_ring(ring: tuple[int, int | None]) -> str:
    begin, end = ring
    return f"{begin:,} to {'the end' if end is None else f'{end:,}'}"


def _make_row(finding: Finding) -> tuple[str, ...]:
    state = finding.state
    if first := state.first:
        times = "once" if state.num_fired == 1 else f"{state.num_fired} times"
        version = "" if first.policy_version is None else shorten(str(first.policy_version), 20)
        return state.alarm.name, times, f"{first.rollout:,}", version, shorten(first.time, 32)
    return state.alarm.name, "no" if state.state == "ok" else "cannot be told", "", "", ""
