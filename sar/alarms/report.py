"""The HTML page of `python -m sar audit --output`: one file that runs and loads nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from html import escape

from sar.alarms.alarm import Alarm
from sar.alarms.audit import Audit, Finding
from sar.alarms.monitor import AlarmState
from sar.errors import shorten

_WIDTH, _HEIGHT = 720, 130
# Around the lines; the numbers of the axes stand at the left and below.
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 8, 8, 22
_CODE = re.compile("`([^`]+)`")
_STYLE = """
:root { color-scheme: light dark; --line: #2563eb; --bad: #c2410c; --quiet: #777 }
@media (prefers-color-scheme: dark) { :root { --line: #7aa7ff; --bad: #ff9466; --quiet: #999 } }
body { font: 15px/1.45 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid #8884;
  vertical-align: top; overflow-wrap: anywhere }
svg { width: 100%; height: auto; background: #8881 }
polyline { fill: none; stroke: var(--line); stroke-width: 1.5 }
svg text { font-size: 11px; fill: var(--quiet) } .end { text-anchor: end }
svg .limit { fill: var(--bad) } .axis { stroke: var(--quiet); stroke-width: .5 }
.threshold { stroke: var(--bad); stroke-dasharray: 5 4 }
.first { stroke: var(--bad) }
.fired { color: var(--bad); font-weight: 600 }
.quiet { color: var(--quiet) }
"""


def render(audits: Mapping[str, Audit]) -> str:
    """The page.

    Args:
        audits: what was found, by the log's name.
    """
    names = list(audits)
    title = escape(f"Audit of {names[0] if len(names) == 1 else f'{len(names)} logs'}")
    is_one = len(names) == 1
    return (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"<title>{title}</title>\n<style>{_STYLE}</style>\n<h1>{title}</h1>\n"
        f"{'' if is_one else _render_contents(audits)}"
        f"{''.join(_render_logs(audits))}"
        "</html>\n"
    )


def describe_state(state: AlarmState) -> str:
    """What an alarm says now, or why it says nothing."""
    return state.message or "cannot be told from these rollouts"


def describe_earliest(audit: Audit) -> str:
    """Which alarm fired first, and when."""
    finding = audit.earliest
    if not finding or not (first := finding.state.first):
        return "no alarm fired"
    version = "" if first.policy_version is None else f", policy version {first.policy_version}"
    return f"first alarm: {finding.state.alarm.name} at rollout {first.rollout:,}{version}"


def format_number(value: float) -> str:
    """Three significant digits; no exponent for ordinary numbers."""
    return f"{value:.3g}"


def describe_threshold(alarm: Alarm) -> str:
    """Such as `0.6 or less`."""
    return f"{format_number(alarm.threshold)} or {'more' if alarm.is_high else 'less'}"


def _render_contents(audits: Mapping[str, Audit]) -> str:
    """Of several logs: which there are, and which alarm fired first in each."""
    rows = "".join(
        f'<tr><td><a href="#log-{number}">{escape(name)}</a><td>{audit.num_rollouts:,}'
        f"<td>{escape(describe_earliest(audit))}</tr>\n"
        for number, (name, audit) in enumerate(audits.items(), 1)
    )
    return f"<table>\n<tr><th>log<th>rollouts<th>what rang first</tr>\n{rows}</table>\n"


def _render_logs(audits: Mapping[str, Audit]) -> Iterator[str]:
    for number, (name, audit) in enumerate(audits.items(), 1):
        section = f"log-{number}"
        heading = "" if len(audits) == 1 else f"<h2>{escape(name)}</h2>\n"
        yield f'<section id="{section}">\n{heading}{"".join(_render_summary(audit))}'
        yield _render_table(audit.findings, section)
        for finding in audit.findings:
            yield _render_finding(finding, audit, section)
        yield "</section>\n"


def _render_summary(audit: Audit) -> Iterator[str]:
    text = f"{audit.num_rollouts:,} rollouts"
    if audit.first and audit.last:
        text += f", {audit.first.time} to {audit.last.time}"
    text += f". Windows have {audit.window:,} rollouts."
    if audit.num_eval:
        text += f" {audit.num_eval:,} rollouts of mode eval were left out."
    yield f"<p>{escape(text)}</p>\n"
    earliest = describe_earliest(audit)
    yield f"<p><b>{escape(earliest[0].upper() + earliest[1:])}.</b></p>\n"
    if audit.is_too_short:
        yield (
            f"<p>The log is too short to compare with its start: that takes "
            f"{2 * audit.window:,} rollouts.</p>\n"
        )


def _render_table(findings: Sequence[Finding], section: str) -> str:
    header = "<tr><th>alarm<th>fired<th>first at rollout<th>policy version<th>time</tr>\n"
    rows = "".join(_render_row(finding, section) for finding in findings)
    return f"<table>\n{header}{rows}</table>\n"


def _render_row(finding: Finding, section: str) -> str:
    alarm, first = finding.state.alarm, finding.state.first
    link = f'<a href="#{section}-{escape(alarm.name)}">{escape(alarm.title)}</a>'
    if first is None:
        fired = "no" if finding.state.state == "ok" else "cannot be told"
        return f'<tr><td>{link}<td class="quiet">{fired}<td><td><td></tr>\n'
    times = "once" if finding.state.num_fired == 1 else f"{finding.state.num_fired} times"
    version = "" if first.policy_version is None else str(first.policy_version)
    return (
        f'<tr><td>{link}<td class="fired">{times}<td>{first.rollout:,}<td>{escape(version)}'
        f"<td>{escape(first.time)}</tr>\n"
    )


def _render_finding(finding: Finding, audit: Audit, section: str) -> str:
    state = finding.state
    alarm = state.alarm
    lines = [
        f'<h3 id="{section}-{escape(alarm.name)}">{escape(alarm.title)}</h3>\n',
        f"<p>{_render_text(alarm.definition)} Window: {_render_text(alarm.window)}. "
        f"Threshold: {describe_threshold(alarm)}. {_render_text(alarm.reason)}</p>\n",
    ]
    if state.first:
        lines.append(
            f'<p class="fired">First at rollout {state.first.rollout:,}: '
            f"{_render_text(finding.first_message)}</p>\n"
        )
    lines.append(f'<p class="quiet">At the end: {_render_text(describe_state(state))}</p>\n')
    if len(finding.line.points) > 1:
        lines.append(_draw_line(finding, audit))
    return "".join(lines)


def _render_text(text: str) -> str:
    """A text in which `this` is code."""
    return _CODE.sub(r"<code>\1</code>", escape(text))


def _draw_line(finding: Finding, audit: Audit) -> str:
    """The alarm's values over the log, its threshold, and where it fired first."""
    alarm, points = finding.state.alarm, finding.line.points
    values = [value for _, value in points] + [alarm.threshold]
    low, high = min(0.0, *values), max(values)
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM

    def place_x(rollout: int) -> float:
        return _LEFT + (right - _LEFT) * (rollout - 1) / max(audit.num_rollouts - 1, 1)

    def place_y(value: float) -> float:
        return bottom - (bottom - _TOP) * (value - low) / ((high - low) or 1.0)

    threshold = place_y(alarm.threshold)
    line = " ".join(f"{place_x(rollout):.1f},{place_y(value):.1f}" for rollout, value in points)
    parts = [
        f'<line class="axis" x1="{_LEFT}" x2="{_LEFT}" y1="{_TOP}" y2="{bottom}"/>',
        f'<line class="axis" x1="{_LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}"/>',
        f'<line class="threshold" x1="{_LEFT}" x2="{right}" y1="{threshold:.1f}" '
        f'y2="{threshold:.1f}"/>',
    ]
    if finding.state.first:
        x = place_x(finding.state.first.rollout)
        parts.append(f'<line class="first" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{bottom}"/>')
    parts.append(f'<polyline points="{line}"/>')
    parts += _draw_numbers(low, high, audit)
    # Above the line, unless it is at the top.
    y = threshold - 4 if threshold > _TOP + 14 else threshold + 12
    parts.append(
        f'<text class="end limit" x="{right - 4}" y="{y:.1f}">'
        f"threshold {format_number(alarm.threshold)}</text>"
    )
    label = f"{alarm.title}: values from {format_number(low)} to {format_number(high)}"
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(label)}">'
        f"{''.join(parts)}</svg>\n"
    )


def _draw_numbers(low: float, high: float, audit: Audit) -> Iterator[str]:
    """The ends of both axes."""
    bottom = _HEIGHT - _BOTTOM
    for value, y in ((high, _TOP + 8), (low, bottom)):
        yield f'<text class="end" x="{_LEFT - 5}" y="{y}">{format_number(value)}</text>'
    for moment, x, style in ((audit.first, _LEFT, ""), (audit.last, _WIDTH - _RIGHT, "end")):
        if moment:
            text = f"rollout {moment.rollout:,}"
            if moment.policy_version is not None:
                text += f", policy version {shorten(str(moment.policy_version), 20)}"
            yield f'<text class="{style}" x="{x}" y="{_HEIGHT - 6}">{escape(text)}</text>'
