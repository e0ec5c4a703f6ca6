"""Where a response states its answer: after its thinking, at its last explicit marker.

Markers, the last one in the text winning: `\\boxed{}`, `<answer>`, `#### x`, `Answer: x`, and prose
such as "the answer is x". Linear in the response's length, whatever is in it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_MAX_STATEMENTS = 64

_THINK = r"(?:think|thinking|thought|reasoning|scratchpad)"
_THINK_OPEN = re.compile(rf"<{_THINK}>", re.IGNORECASE)
_THINK_CLOSE = re.compile(rf"</{_THINK}>", re.IGNORECASE)

_GRADING_TAG = re.compile(rf"</?(?:{_THINK[3:-1]}|answer)>", re.IGNORECASE)
_OPENS_THINKING = re.compile(rf"<{_THINK}>\s*\Z", re.IGNORECASE)

_BOX_EVENT = re.compile(r"\\(?:boxed|fbox|framebox)\s*\{|\\[\\{}]|[{}]")
_BARE_BOX = re.compile(r"\\(?:boxed|fbox)\s*([^\s{}$\\.,;]+)")
# Boxes with only this between them are one answer of several parts.
_BOX_JOINT = re.compile(
    r"[\s$]*(?:,|;|\\quad|\\text\w*\{)?[\s,$]*(?:and|or|,|;|\\quad)[\s},$]*", re.IGNORECASE
)
_TAG_OPEN = re.compile(r"<answer>", re.IGNORECASE)
_TAG_CLOSE = re.compile(r"</answer>", re.IGNORECASE)
_HASHES = re.compile(r"####[ \t]*(\S[^\n]{0,400})")
_HEADING = re.compile(
    r"(?i)[*_]*(?:\d+\.\s+[a-z]|(?:step|part|case|conclusion|solution|explanation|verif|check|summary"
    r"|note|final|answer|reason|analysis|approach|calculat|option)[a-z]*\b)"
)
_HEADED = re.compile(
    r"(?im)^[ \t*_#>`-]{0,20}(?:(?:the|my|so|thus|hence|therefore)[, ]{1,3}){0,3}"
    r"(?:(?:final|correct|right|short)[ ]+){0,2}(?:answer|choice|result)s?\b[ \t*_]{0,9}"
    r"(?:[:：=][\s*_:]{0,20}|[ ][-–—][ ]|\n[\s*_]{0,20})(\S[^\n]{0,2000}(?:\n[^\n]{0,400}\\\])?)"
)
_PROSE = re.compile(
    r"(?i)\banswers?\b(?:\s+(?:to|for|of)\s[^.\n:]{1,80}?|,[^.,\n:]{1,40},|\s+[a-z]{1,12}ly)?"
    r"[\s*_]{0,9}(?:\bis\b|\bare\b|\bwas\b|\b(?:would|should|must|will)\s+be\b|\bequals\b|[:：=])"
    r"[\s*_]{0,9}(?:[:：=][\s*_]{0,9})?(?=(\S[^\n]{0,400}))"
)
# Directly before a marker: what follows is quoted, as from the question, and not stated.
_QUOTED = re.compile(r"[\"“„«](?:(?:the|my|final|correct|right)\s+){0,3}\Z", re.IGNORECASE)


@dataclass(frozen=True)
class Statement:
    """One place where a response states its answer."""

    start: int
    text: str
    is_explicit: bool
    """The marker leaves no doubt; prose such as "the answer is" can go on to say anything."""
    is_formula: bool = False
    """The text is a box's content: mathematics and not a sentence."""


def is_grading_tag(text: str) -> bool:
    """Whether a token's text means something here, such as `<think>`, and must be kept."""
    return _GRADING_TAG.fullmatch(text) is not None


def find_thinking_tag(prompt: str) -> str:
    """The tag of a thinking block that a prompt opened for its response; empty if it did not."""
    opened = _OPENS_THINKING.search(prompt)
    return opened[0].strip() if opened else ""


def strip_thinking(response: str) -> str:
    """The response without its thinking; empty while the thinking is not closed."""
    for end in _last_matches(_THINK_CLOSE, response):
        response = response[end.end() :]
    if opened := _THINK_OPEN.search(response):
        response = response[: opened.start()]
    return response.strip()


def find_statements(text: str) -> list[Statement]:
    """The stated answers, in the order of the text; of very many, the last ones."""
    found = [
        *_boxes(text),
        *_tag(text),
        *(
            Statement(m.start(1), m[1].strip(), True)
            for m in _HASHES.finditer(text)
            if not _HEADING.match(m[1])
        ),
        *(Statement(m.start(1), m[1].strip(), True) for m in _HEADED.finditer(text)),
        *(
            Statement(m.start(1), m[1].strip(), False)
            for m in _PROSE.finditer(text)
            if not _QUOTED.search(text[max(0, m.start() - 40) : m.start()])
        ),
    ]
    return sorted((s for s in found if s.text), key=lambda s: s.start)[-_MAX_STATEMENTS:]


def _tag(text: str) -> list[Statement]:
    """The last `<answer>`; it may be unclosed where generation stopped at the closing tag."""
    return [
        Statement(opened.end(), _TAG_CLOSE.split(text[opened.end() :], maxsplit=1)[0].strip(), True)
        for opened in _last_matches(_TAG_OPEN, text)
    ]


def _boxes(text: str) -> list[Statement]:
    """Contents of complete boxes; boxes side by side are merged into one list."""
    spans: list[tuple[int, int, int]] = []  # start of the command, start and end of the content
    open_braces: list[tuple[int, int] | None] = []
    for event in _BOX_EVENT.finditer(text):
        if event[0] == "{":
            open_braces.append(None)
        elif event[0] == "}":
            box = open_braces.pop() if open_braces else None
            if box:
                spans.append((*box, event.start()))
        elif event[0].endswith("{") and len(event[0]) > 2:
            open_braces.append((event.start(), event.end()))
    spans.extend((m.start(), m.start(1), m.end(1)) for m in _BARE_BOX.finditer(text))
    spans = sorted(spans)[-_MAX_STATEMENTS:]

    boxes: list[Statement] = []
    previous_end = -1
    for start, content_start, content_end in spans:
        content = text[content_start:content_end].strip()
        if not content:
            continue
        gap = text[previous_end + 1 : start] if 0 <= previous_end < start else None
        if (
            gap is not None
            and len(gap) <= 30
            and (not gap.strip(" $\t") or _BOX_JOINT.fullmatch(gap))
        ):
            parts = boxes.pop().text.split(", ")
            content = ", ".join(dict.fromkeys([*parts, content]))
        boxes.append(Statement(content_start, content, True, is_formula=True))
        previous_end = content_end
    return boxes


def _last_matches(pattern: re.Pattern[str], text: str) -> list[re.Match[str]]:
    return list(pattern.finditer(text))[-1:]
