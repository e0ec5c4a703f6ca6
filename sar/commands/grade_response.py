"""Grades one response for `python -m sar grade`, and prints the verdict and its explanation."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

from sar.commands.grader_options import open_graders
from sar.commands.verdict_text import UNREADABLE, name_verdict, say_why
from sar.errors import one_line
from sar.grading.explain import Excerpt, Explanation
from sar.grading.label import GraderName, Label, names_grader
from sar.grading.processes.pool import GraderPool
from sar.grading.verdict import Reason, Verdict
from sar.terminal import cut_middle, join_lines, make_printable

_MAX_WIDTH = 500
_FORMS: dict[GraderName, str] = {
    "math": "it has a number or formula, or no words",
    "choice": "it is a letter from A to E, or has choices",
    "boolean": "it is true, false, yes or no",
    "exact": "it is words",
}

Line = tuple[str, str]
"""A name and its text."""


def grade_response(response: str, label: Label, arguments: argparse.Namespace) -> int:
    """Grades a response and prints the report; returns 0 if it is correct, else 1."""
    with open_graders(arguments) as (graders, _):
        verdict = graders.grade(response, label)
        lines = _report(verdict)
        if arguments.explain:
            lines += _explain(response, label, verdict, arguments, graders)
    sys.stdout.writelines(
        f"{name:<9} {cut_middle(make_printable(text), _MAX_WIDTH)}\n" for name, text in lines
    )
    return 0 if verdict.reason is Reason.CORRECT else 1


def _report(verdict: Verdict) -> list[Line]:
    name = name_verdict(verdict)
    lines = [("verdict", f"{name} (counts as wrong)" if name == UNREADABLE else name)]
    if verdict.answer is not None:
        lines += [("answer", verdict.answer), ("found", verdict.source)]
    return [*lines, ("why", say_why(verdict))]


def _explain(
    response: str,
    label: Label,
    verdict: Verdict,
    arguments: argparse.Namespace,
    graders: GraderPool,
) -> list[Line]:
    lines = [("label", arguments.label), ("grader", _say_who_chose(label, arguments))]
    try:
        return [*lines, *_format_explanation(graders.explain(response, label, verdict))]
    except Exception as error:  # noqa: BLE001  the verdict stands without its explanation
        return [*lines, ("read as", f"not known: {one_line(error)}")]


def _say_who_chose(label: Label, arguments: argparse.Namespace) -> str:
    if arguments.grader:
        return f"{label.grader}, named by --grader"
    if names_grader(arguments.label):
        return f"{label.grader}, named by the label"
    return f"{label.grader}, chosen by the form of the label: {_FORMS[label.grader]}"


def _format_explanation(explanation: Explanation) -> Iterator[Line]:
    for accepted in explanation.accepted:
        yield "accepts", f"{accepted.text}: {accepted.read_as}"
    if explanation.answer:
        yield "read as", explanation.answer.read_as
    if explanation.num_thinking_chars:
        yield "thinking", f"{explanation.num_thinking_chars:,} characters, not graded"
    yield "text", _format_excerpt(explanation.excerpt)


def _format_excerpt(excerpt: Excerpt) -> str:
    """The text in one line, the answer marked: `... so it is >>>5<<<.`"""
    marked = f">>>{excerpt.answer}<<<" if excerpt.answer else ""
    text = join_lines(excerpt.before + marked + excerpt.after)
    start, end = "" if excerpt.is_start else "... ", "" if excerpt.is_end else " ..."
    return f"{start}{text}{end}" if text else "(nothing to grade)"
