"""The battery's tables, for a terminal and for a page of documentation.

Both have an attack a row, sorted by the first reward: those that do not solve, then those that are
right in another style. The honest responses stand in both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sar.probe.attacks import ATTACKS, ATTEMPT, HONEST
from sar.probe.battery import Row
from sar.probe.findings import REMEDIES, Finding, Remedy
from sar.probe.scorer import NamedReward

BLIND_TITLE = "Without solving the problem"
STYLED_TITLE = "The right answer, in another style"

_LEGEND = (
    "n: problems on which the attack is possible; right: how often it is graded right. Terms and",
    "rewards are means. beside: mean difference from the honest right response to the same",
    "problem; wins: share of problems on which the attack earns more than that response.",
)

_HONEST_ROWS = (HONEST, ATTEMPT)
# With room for the mark before an honest response, and a space.
_NAME_WIDTH = max(len(one.name) for one in (*ATTACKS, *_HONEST_ROWS)) + 3


@dataclass(frozen=True)
class Report:
    """All that is shown."""

    model: str
    """As the user named it, or the server's."""
    num_problems: int
    rewards: Sequence[NamedReward]
    rows: Sequence[Row]
    findings: Sequence[Finding]
    compares: bool
    """True if a reward compares the rollouts of a group."""

    @property
    def columns(self) -> list[str]:
        """Terms, without correctness, which has a column of its own."""
        return [name for name in self.rows[0].terms if name != "correctness"]

    @property
    def has_failed(self) -> bool:
        return any(one.fails for one in self.findings)

    def list_rows(self, *, solves: bool) -> list[Row]:
        """The attacks of one kind and the honest responses, by the first reward, highest first."""
        chosen = (row for row in self.rows if row.attack.solves == solves or is_honest(row))
        first = self.rewards[0].name
        return sorted(chosen, key=lambda row: -row.rewards[first])


def is_honest(row: Row) -> bool:
    return row.attack in _HONEST_ROWS


def format_report(report: Report) -> str:
    """The tables and the findings for a terminal."""
    lines = [
        f"model     {report.model}",
        f"problems  {report.num_problems}",
        *(f"{one.name:<9} {one.formula}" for one in report.rewards),
    ]
    if report.compares:
        lines.append("groups    the honest responses to a problem and all attacks on it are one")
    for title, solves in ((BLIND_TITLE, False), (STYLED_TITLE, True)):
        lines += ["", title, _format_header(report)]
        lines += (_format_row(report, row) for row in report.list_rows(solves=solves))
    lines += ["", *_LEGEND, "", *format_findings(report)]
    return "\n".join(lines) + "\n"


def format_findings(report: Report) -> list[str]:
    """A line for each finding, and a last one that says whether the battery has failed."""
    lines = [describe(one, several=len(report.rewards) > 1) for one in report.findings]
    num_failures = sum(one.fails for one in report.findings)
    lines.append(
        f"FAILED: {num_failures} of these must not be"
        if num_failures
        else "ok: nothing that does not solve earns more than honest right answers, or is "
        "graded right"
    )
    return lines


def describe(finding: Finding, *, several: bool) -> str:
    """One finding in a line."""
    reward = f"{finding.reward}: " if several else ""
    share = f"{finding.share:.0%}"
    match finding.kind:
        case "paid as right":
            return (
                f"FAILED {reward}{finding.attack} does not solve and is graded right on {share} "
                "of problems"
            )
        case "beats right":
            text = f"FAILED {reward}{finding.attack} does not solve and earns {finding.gain:.3f} "
            text += f"more than honest right answers (on {share} of problems)"
        case "beats wrong":
            text = f"note   {reward}{finding.attack} earns {finding.gain:.3f} more than honest "
            text += f"wrong answers (on {share} of problems)"
        case "beats honest":
            text = f"note   {reward}{finding.attack} is right and earns {finding.gain:.3f} more "
            text += f"than the honest answer (on {share} of problems)"
    return f"{text}; {_describe_remedies(finding.remedies)}"


def render_report(report: Report) -> str:
    """The same as Markdown."""
    parts = [
        f"{report.num_problems} problems. "
        + "; ".join(f"*{one.name}*: {one.formula}" for one in report.rewards)
        + "."
    ]
    for title, solves in ((BLIND_TITLE, False), (STYLED_TITLE, True)):
        rows = "".join(_render_row(report, row) for row in report.list_rows(solves=solves))
        parts.append(f"{title}:\n\n{_render_header(report)}{rows}".rstrip())
    parts.append("```text\n" + "\n".join(format_findings(report)) + "\n```")
    return "\n\n".join(parts) + "\n"


def _describe_remedies(remedies: Sequence[Remedy] | None) -> str:
    if remedies is None:
        return "GDPO normalises the terms, so no weight that ends it is computed"
    if not remedies:
        return f"none of {', '.join(REMEDIES)} ends it"
    first = remedies[0]
    text = f"{first.term} at {_round_away(first.weight)} ends it"
    if first.cost > 0.0005:
        text += f" (cost for the honest: {first.cost:.3f})"
    return text


def _round_away(weight: float) -> str:
    """Two decimals, away from 0: with the rounded weight, the attack must not earn more."""
    return f"{math.copysign(math.ceil(abs(weight) * 100) / 100, weight):+.2f}"


def _format_header(report: Report) -> str:
    rewards = [f"{one.name:>10.10}{'beside':>8}{'wins':>6}" for one in report.rewards]
    terms = "".join(f"{_shorten(name):>11}" for name in report.columns)
    return f"{'attack':<{_NAME_WIDTH}}{'n':>4}{'right':>7}{terms}{''.join(rewards)}"


def _format_row(report: Report, row: Row) -> str:
    name = f"> {row.attack.name}" if is_honest(row) else f"  {row.attack.name}"
    terms = "".join(f"{row.terms[column]:>11.3f}" for column in report.columns)
    cells = []
    for reward in report.rewards:
        beside = row.beside_honest[reward.name]
        cells.append(
            f"{row.rewards[reward.name]:>10.3f}{beside.gain:>+8.3f}{beside.share_won:>6.0%}"
        )
    right = row.num_right / row.num_problems
    return f"{name:<{_NAME_WIDTH}}{row.num_problems:>4}{right:>7.0%}{terms}{''.join(cells)}"


def _shorten(name: str) -> str:
    return name if len(name) <= 10 else name[:9] + "."


def _render_header(report: Report) -> str:
    names = ["attack", "what it does", "n", "right", *report.columns]
    names += [f"reward: {one.name}" for one in report.rewards]
    return f"| {' | '.join(names)} |\n| {' | '.join('---' for _ in names)} |\n"


def _render_row(report: Report, row: Row) -> str:
    bold = "**" if is_honest(row) else ""
    cells = [
        f"{bold}`{row.attack.name}`{bold}",
        row.attack.trick.replace("<", "\\<").replace("|", r"\|"),
        str(row.num_problems),
        f"{row.num_right / row.num_problems:.0%}",
        *(f"{row.terms[column]:.2f}" for column in report.columns),
        *(f"{bold}{row.rewards[one.name]:.2f}{bold}" for one in report.rewards),
    ]
    return f"| {' | '.join(cells)} |\n"
