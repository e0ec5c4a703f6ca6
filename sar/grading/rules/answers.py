"""Finds where a response states its answer: after its thinking, at a marker. The last one counts.

Markers are `\\boxed{}`, `<answer>`, `#### x`, a line such as `Answer: x`, and prose such as "the
answer is x". The search takes time linear in the response's length, whatever the text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from sar.grading.verdict import Source

_MAX_STATEMENTS = 64

_THINK_NAMES = "think|thinking|thought|reasoning|scratchpad"
_THINK_OPEN = re.compile(rf"<(?:{_THINK_NAMES})>", re.IGNORECASE)
_THINK_CLOSE = re.compile(rf"</(?:{_THINK_NAMES})>", re.IGNORECASE)
_GRADING_TAG = re.compile(rf"</?(?:{_THINK_NAMES}|answer)>", re.IGNORECASE)
_OPENS_THINKING = re.compile(rf"<(?:{_THINK_NAMES})>\s*\Z", re.IGNORECASE)

# In order: `\boxed{`, an escaped brace or backslash, a brace.
_BOX_EVENT = re.compile(r"\\(?:boxed|fbox|framebox)\s*\{|\\[\\{}]|[{}]")
# `\boxed 5` (math-boxed-012).
_BARE_BOX = re.compile(r"\\(?:boxed|fbox)\s*([^\s{}$\\.,;]+)")
# Between boxes that together are one answer: `\boxed{0} and \boxed{4}` (second-m2-set-244).
_BOX_JOINT = re.compile(
    r"[\s$]*(?:,|;|\\quad|\\text\w*\{)?[\s,$]*(?:and|or|,|;|\\quad)[\s},$]*", re.IGNORECASE
)
_TAG_OPEN = re.compile(r"<answer>", re.IGNORECASE)
_TAG_CLOSE = re.compile(r"</answer>", re.IGNORECASE)
# `#### 16`, as in GSM8K (math-chatter_after-008).
_HASHES = re.compile(r"####[ \t]*(\S[^\n]{0,400})")
# What makes `####` the heading of a section: `#### Step 2`, `#### 1. Setup`.
_HEADING = re.compile(
    r"(?i)[*_]*(?:\d+\.\s+[a-z]|(?:step|part|case|conclusion|solution|explanation|verif|check|summary"
    r"|note|final|answer|reason|analysis|approach|calculat|option)[a-z]*\b)"
)
# `Answer: 5`, `**Final answer:** 5`, `Result: 5`, `Answer - 25 years` (math-answer_prefix-039), or
# the word alone and the answer in the next line.
_ANSWER_LINE = re.compile(
    r"(?im)^[ \t*_#>`-]{0,20}(?:(?:the|my|so|thus|hence|therefore)[, ]{1,3}){0,3}"
    r"(?:(?:final|correct|right|short)[ ]+){0,2}(?:answer|choice|result)s?\b[ \t*_]{0,9}"
    r"(?:[:：=][\s*_:]{0,20}|[ ][-–—][ ]|\n[\s*_]{0,20})(\S[^\n]{0,2000}(?:\n[^\n]{0,400}\\\])?)"
)
# `the answer is 5`, `the answer to this question must be 5`, `the answer, then, is 5`. As the text
# is only looked ahead at, the next match can start inside it.
_ANSWER_IS = re.compile(
    r"(?i)\banswers?\b(?:\s+(?:to|for|of)\s[^.\n:]{1,80}?|,[^.,\n:]{1,40},|\s+[a-z]{1,12}ly)?"
    r"[\s*_]{0,9}(?:\bis\b|\bare\b|\bwas\b|\b(?:would|should|must|will)\s+be\b|\bequals\b|[:：=])"
    r"[\s*_]{0,9}(?:[:：=][\s*_]{0,9})?(?=(\S[^\n]{0,400}))"
)
# Before a marker: the response quotes the question, `It says "Answer: 73"`, and does not answer.
_QUOTED = re.compile(r"[\"“„«](?:(?:the|my|final|correct|right)\s+){0,3}\Z", re.IGNORECASE)


@dataclass(frozen=True)
class Statement:
    """One place where a response states its answer."""

    start: int
    text: str
    source: Source

    @property
    def is_explicit(self) -> bool:
        """False for prose: "the answer is" may be followed by something else than the answer."""
        return self.source is not Source.PROSE

    @property
    def is_formula(self) -> bool:
        """Whether the text is a box's content, so it is mathematics and not a sentence."""
        return self.source is Source.BOX


def is_grading_tag(text: str) -> bool:
    """Whether a token is a tag that graders read, such as `<think>`, and so must be kept."""
    return _GRADING_TAG.fullmatch(text) is not None


def find_thinking_tag(prompt: str) -> str:
    """Returns the opening tag of thinking that a prompt ends with, or an empty string."""
    opened = _OPENS_THINKING.search(prompt)
    return opened[0].strip() if opened else ""


def strip_thinking(response: str) -> str:
    """Returns the text after the last closed thinking, without any thinking that is still open."""
    for end in _find_last(_THINK_CLOSE, response):
        response = response[end.end() :]
    if opened := _THINK_OPEN.search(response):
        response = response[: opened.start()]
    return response.strip()


def find_statements(text: str) -> list[Statement]:
    """Returns the stated answers in the order of the text, at most the last 64."""
    found = [
        Statement(m.start(1), m[1].strip(), Source.HASHES)
        for m in _HASHES.finditer(text)
        if not _HEADING.match(m[1])
    ]
    found += [Statement(m.start(1), m[1].strip(), Source.LINE) for m in _ANSWER_LINE.finditer(text)]
    found += [
        Statement(m.start(1), m[1].strip(), Source.PROSE)
        for m in _ANSWER_IS.finditer(text)
        if not _QUOTED.search(text[max(0, m.start() - 40) : m.start()])
    ]
    found = [*_find_boxes(text), *_find_tag(text), *found]
    return sorted((s for s in found if s.text), key=lambda s: s.start)[-_MAX_STATEMENTS:]


def _find_tag(text: str) -> list[Statement]:
    """Finds the last `<answer>`. It may be unclosed, if generation stopped at the closing tag."""
    return [
        Statement(
            opened.end(),
            _TAG_CLOSE.split(text[opened.end() :], maxsplit=1)[0].strip(),
            Source.TAG,
        )
        for opened in _find_last(_TAG_OPEN, text)
    ]


def _find_boxes(text: str) -> list[Statement]:
    """Finds the contents of closed boxes, and joins neighbours into one list: `0, 4`."""
    spans: list[tuple[int, int, int]] = []  # start of the command, start and end of the content
    open_braces: list[tuple[int, int] | None] = []  # for a box: starts of command and content
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

    boxes: list[Statement] = []
    previous_end = -1
    for start, content_start, content_end in sorted(spans)[-_MAX_STATEMENTS:]:
        content = text[content_start:content_end].strip()
        if not content:
            continue
        if 0 <= previous_end < start and _joins_boxes(text[previous_end + 1 : start]):
            parts = boxes.pop().text.split(", ")
            content = ", ".join(dict.fromkeys([*parts, content]))
        boxes.append(Statement(content_start, content, Source.BOX))
        previous_end = content_end
    return boxes


def _joins_boxes(gap: str) -> bool:
    return len(gap) <= 30 and (not gap.strip(" $\t") or _BOX_JOINT.fullmatch(gap) is not None)


def _find_last(pattern: re.Pattern[str], text: str) -> list[re.Match[str]]:
    return list(pattern.finditer(text))[-1:]
