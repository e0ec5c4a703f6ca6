"""The table of alarms in docs/alarms.md."""

from __future__ import annotations

from collections.abc import Sequence

from sar.alarms.alarm import Alarm
from sar.alarms.definitions import ALARMS
from sar.alarms.report import describe_threshold, format_number

UPDATE_COMMAND = "python -m sar audit --update docs/alarms.md"
"""What writes the table into the documentation."""


def render_table(alarms: Sequence[Alarm] = ALARMS) -> str:
    """A Markdown table of alarms."""
    header = "| alarm | what it means | over | fires at | ends at | why there |\n"
    return header + "| --- " * 6 + "|\n" + "".join(map(_render_row, alarms))


def _render_row(alarm: Alarm) -> str:
    cells = (
        f"`{alarm.name}`",
        alarm.definition,
        alarm.window,
        describe_threshold(alarm),
        format_number(alarm.clear),
        alarm.reason,
    )
    row = " | ".join(cell.replace("|", r"\|") for cell in cells)
    return f"| {row} |\n"
