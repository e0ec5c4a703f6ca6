"""Finds all `<answer>` tags of a text: two that differ are a hedge."""

from __future__ import annotations

import re

from sar.grading.rules.answers import Statement, find_statements
from sar.grading.verdict import Source

_TAG = re.compile(r"<answer>([^<]{0,1000})</answer>", re.IGNORECASE)
_MAX_TAGS = 64


def find_statements_and_tags(text: str) -> list[Statement]:
    """Returns the stated answers, and the closed tags before the last one, in the text's order."""
    found = list(_TAG.finditer(text))[-_MAX_TAGS:]
    tags = [Statement(m.start(1), m[1].strip(), Source.TAG) for m in found if m[1].strip()]
    by_start = {statement.start: statement for statement in (*tags, *find_statements(text))}
    return [by_start[start] for start in sorted(by_start)]
