"""Two values of which either may be meant: `5 or 6`, `73, maybe 74`, `from 70 to 73`."""

from __future__ import annotations

import re
from collections.abc import Sequence

_OR = r"or|ou|oder|maybe|perhaps|possibly|alternatively|otherwise"
# Between a value and a later number.
_RIVAL = re.compile(
    rf"\b(?:{_OR}|o|else|unless|although|though|but|could|might|may|either|also|failing|vs|versus"
    r"|through|to|then|no|wait|actually|sorry)\b"
    r"|^\s*(?:,|and|&|;|/|\||~|\?|\.\.+|…|-+|-?->|→|\\(?:to|rightarrow|ldots|dots))[\s$]*$",
    re.IGNORECASE,
)
# What relates the later number to the value, so that they do not compete: `35 miles in 7 days`.
_RELATED = re.compile(
    r"\b(?:because|since|as|which|where|in|for|per|at|from|with|by|after|before|every|each|on|over"
    r"|within|than|of|instead|rather|unlike|not|while|so|out|against|versus|[a-z]+ing)\b"
    r"|[=+*×(:]",
    re.IGNORECASE,
)
# Between an earlier number and the value.
_EITHER = re.compile(
    rf"\b(?:{_OR}|either|neither|could be|might be|may be|that is|namely|aka|alias)\b|\bi\.e\.",
    re.IGNORECASE,
)
_JOINED = re.compile(r"\s*(?:[a-z]+\s+)?(?:,|and|to|through|vs|;)[\s$]*", re.IGNORECASE)
_SAME_SENTENCE = r"[^\n.!?]"
_RIVAL_NUMBER = re.compile(
    r"[^\S\n]*[$*_)}\]\\]*(?:[^\S\n]+(?!or\b|and\b|to\b)[a-z]+\b){0,2}?(?:[^\S\n]|[$,;:(–—-]|\\q?quad)*"
    rf"(?:\b(?!or,? equivalently)(?:{_OR}|o|else|unless|although|though)\b{_SAME_SENTENCE}{{0,40}}?"
    r"|(?:\b(?:and|to|through|vs|also|even)\b|[&|/~]|-+>|→|\\to\b|\\text\{\s*or\s*\})[\s$]*"
    r"(?:also\s+|even\s+)?)(?:\\boxed\{)?[$\\]?\d(?![^\n.]{0,12}\bof\b)"
    r"|[^\S\n]*[$)]*(?:[,;]|\\q?quad)[\s$]*\d[\d.,]*[$]?\s*(?:$|[.\n])"
    rf"|{_SAME_SENTENCE}{{0,60}}?,\s+(?:or|else|otherwise)\s+\$?\d",
    re.IGNORECASE,
)


def has_rival(gap: str) -> bool:
    """Whether the text between a value and a later number offers this one as well."""
    clause = re.split(r"[,;]", gap)[-1]  # `73 before tax, 80 after tax`
    return _RIVAL.search(gap) is not None or not _RELATED.search(clause)


def is_alternative(gaps: Sequence[str]) -> bool:
    """Whether an earlier number and the value are alternatives.

    Args:
        gaps: the texts between the earlier numbers and the value, in order.
    """
    if not gaps:
        return False
    return any(map(_EITHER.search, gaps)) or _JOINED.fullmatch(gaps[-1]) is not None


def has_rival_number(after: str) -> bool:
    """Whether the text after a value offers another number besides: `or 74`, `, maybe 74`."""
    return _RIVAL_NUMBER.match(after) is not None
