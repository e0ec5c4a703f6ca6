"""Finds where a response states its answer: after its thinking, at a marker. The last one counts.

Markers are `\\boxed{}`, `<answer>`, `#### x`, a line such as `Answer: x`, and prose such as "the
answer is x". The search takes time linear in the response's length, whatever the text.
"""

from __future__ import annotations

import re
from bisect import bisect
from dataclasses import dataclass

from sar.grading.verdict import Source

_MAX_STATEMENTS = 64

_THINK_NAMES = "think|thinking|thought|reasoning|scratchpad"
# The last two are Magistral's and Kimi's.
_OPEN_TAG = rf"(?:<(?:{_THINK_NAMES})>|\[THINK\]|\u25c1think\u25b7)"
_CLOSE_TAG = rf"(?:</(?:{_THINK_NAMES})>|\[/THINK\]|\u25c1/think\u25b7)"
_THINK_OPEN = re.compile(_OPEN_TAG, re.IGNORECASE)
_THINK_CLOSE = re.compile(_CLOSE_TAG, re.IGNORECASE)
_GRADING_TAG = re.compile(rf"{_OPEN_TAG}|{_CLOSE_TAG}|</?answer>", re.IGNORECASE)
_OPENS_THINKING = re.compile(rf"{_OPEN_TAG}\s*\Z", re.IGNORECASE)

# In order: `\boxed{`, an escaped brace or backslash, a brace.
_BOX_EVENT = re.compile(r"\\(?:boxed|fbox|framebox)\s*\{|\\[\\{}]|[{}]")
# `\boxed 5` (math-boxed-012). What follows the number or word is outside: `\boxed5+1`.
_BARE_BOX = re.compile(r"\\(?:boxed|fbox)(?:\s+|(?=[\d-]))(-?\d+(?:[.,]\d+)*|[a-zA-Z]+)")
# Between boxes that together are one answer: `\boxed{0} and \boxed{4}` (second-m2-set-244), `$x=`
# `\boxed{2}$ and $x=\boxed{3}$` (math-boxed_several-011), neighbouring lines, a relation.
_BOX_JOINT = re.compile(
    r"(?:\s|[$,;:&|/~+=<>≈≠*•-]|\\\\|\\[\[\]() ,;:]|\\q?quad|\\(?:approx|neq?|equiv|to|cdot"
    r"|times|pm|(?:right|left)arrow|left|right|vee|lor|wedge|land)(?![a-z])|\\text\w*\{|[{}()]"
    r"|\b(?:and|or|also|maybe|perhaps|possibly|alternatively|else|both|either|by|to|vs|then|if"
    r"|you|prefer|case|option|guess|candidate|first|second|third|another|next)\b|(?<=\bvs)\.|[(\s][a-h1-9][.):]"
    r"|\b[a-zA-Z](?:_\{?\w{1,3}\}?)?\s*(?:=|is\b)|(?<=\n)\d{1,2}[.)]\s)*",
    re.IGNORECASE,
)
# One word between them, the unit of the first: `\boxed{5} apples and \boxed{6} pears`.
_BOX_UNIT = re.compile(r"[\s$]*[a-z]{1,15}(?=[\s$]*(?:,|and\b|or\b))")
_RELATION = re.compile(r"[=<>≈≠+/*~-]|\\(?:approx|neq?|equiv|to|cdot|times|pm|\w*arrow)(?![a-z])")
_TAG_OPEN = re.compile(r"<answer>", re.IGNORECASE)
_TAG_CLOSE = re.compile(r"</answer>", re.IGNORECASE)
# `#### 16`, as in GSM8K (math-chatter_after-008).
_HASHES = re.compile(r"####[ \t]*((?!#)\S(?:(?!####)[^\n]){0,400})")
# What makes `####` the heading of a section: `#### Step 2`, `#### 1. Setup` with text below it.
_HEADING = re.compile(
    r"(?i)[*_]*(?:\d+\.\s+[a-z].*\n\s*\S|(?:step|part|case|conclusion|solution|explanation|verif"
    r"|check|summary|note|final|answer|reason|analysis|approach|calculat|option)[a-z]*\b)"
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
    r"[\s*_}]{0,9}(?:[:：=](?!>)[\s*_]{0,9})?(?=(\S[^\n]{0,400}))"
)
# Before a marker: the response quotes the question, `It says "Answer: 73"`, and does not answer.
_QUOTED = re.compile(r"[\"“„«](?:(?:the|my|final|correct|right)\s+){0,3}\Z", re.IGNORECASE)
# What a model writes that runs on after its answer: the end of its turn (math-run_on-004), or a new
# question (math-run_on-001).
_END_OF_TURN = re.compile(
    r"<\|(?:im_end|im_start|endoftext|eot_id|end)\|>|</s>|<end_of_turn>|<eos>"
)
_NEW_QUESTION = re.compile(
    r"^[\s#*_>-]{0,12}(?:new |next )?(?:question|problem|human|user|q|exercise|instruction)"
    r"\s*\d{0,3}[*_]{0,3}\s?[:：]",
    re.IGNORECASE | re.MULTILINE,
)
_CONTROL_CHARACTERS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]+")


@dataclass(frozen=True)
class Statement:
    """One place where a response states its answer."""

    start: int
    """Where the answer starts in the response."""
    text: str
    source: Source
    end: int = 0
    """Where the statement ends in the response; for several boxes, the end of the last one."""
    lead_end: int = 0
    """Where the text before the statement and its marker ends."""


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


def cut_run_on(text: str) -> str:
    """Returns a text without a new question after its answer, tokens or control characters.

    The first stated answer stands if the model goes on with a question of its own.
    """
    text = _CONTROL_CHARACTERS.sub(" ", text)
    ends = (token.start() for token in _END_OF_TURN.finditer(text))
    text = text[: next((end for end in ends if text[:end].strip()), len(text))]
    questions = list(_NEW_QUESTION.finditer(text))
    if not questions:
        return text
    statements = find_statements(text)
    if not statements or statements[0].start > questions[-1].start():
        return text
    start = next(q.start() for q in questions if q.start() > statements[0].start)
    return text[:start]


def find_statements(text: str) -> list[Statement]:
    """Returns the stated answers in the order of the text, at most the last 64."""
    found = [
        _make_statement(m, Source.HASHES)
        for m in _HASHES.finditer(text)
        if not _HEADING.match(text, m.start(1))
    ]
    found += [_make_statement(m, Source.LINE) for m in _ANSWER_LINE.finditer(text)]
    found += [
        _make_statement(m, Source.PROSE)
        for m in _ANSWER_IS.finditer(text)
        if not _QUOTED.search(text[max(0, m.start() - 40) : m.start()])
    ]
    spans = _find_box_spans(text)
    found = [s for s in found if not _is_boxed(s, spans)]
    found = [*_find_boxes(text, spans), *_find_tag(text), *found]
    return sorted((s for s in found if s.text), key=lambda s: s.start)[-_MAX_STATEMENTS:]


def _is_boxed(statement: Statement, spans: list[tuple[int, int, int]]) -> bool:
    """Whether a statement is part of a box: `\\boxed{\\text{The answer is } 73}`."""
    index = bisect(spans, (statement.lead_end, 0, 0)) - 1
    return index >= 0 and spans[index][1] <= statement.lead_end < spans[index][2]


def _make_statement(match: re.Match[str], source: Source) -> Statement:
    return Statement(match.start(1), match[1].strip(), source, match.end(1), match.start())


def _find_tag(text: str) -> list[Statement]:
    """Finds the last `<answer>`. It may be unclosed, if generation stopped at the closing tag."""
    statements = []
    for opened in _find_last(_TAG_OPEN, text):
        closed = _TAG_CLOSE.search(text, opened.end())
        end = closed.start() if closed else len(text)
        content = text[opened.end() : end]
        start = opened.end() + len(content) - len(content.lstrip())
        statements.append(Statement(start, content.strip(), Source.TAG, end, opened.start()))
    return statements


def _find_boxes(text: str, spans: list[tuple[int, int, int]]) -> list[Statement]:
    """Finds the contents of closed boxes, and joins neighbours into one list: `0, 4`."""
    boxes: list[Statement] = []
    contents: list[str] = []  # of the boxes that are joined into the last statement
    for start, content_start, content_end in spans[-_MAX_STATEMENTS:]:
        content = text[content_start:content_end].strip()
        if not content:
            continue
        gap = text[boxes[-1].end : start].removeprefix("}") if boxes else None
        lead_end = start
        if gap is not None and boxes[-1].end < start and _joins_boxes(gap):
            joined = boxes.pop()
            lead_end = joined.lead_end
            joint = relation[0] if (relation := _RELATION.search(_remove_names(gap))) else ", "
            if joint != ", " and content != contents[-1]:
                contents[-1] += f" {joint} {content}"
            elif content not in contents:
                contents.append(content)
        else:
            contents = [content]
        boxes.append(
            Statement(content_start, ", ".join(contents), Source.BOX, content_end, lead_end)
        )
    return boxes


def _find_box_spans(text: str) -> list[tuple[int, int, int]]:
    """Returns (start of the command, start of the content, its end) of each closed box."""
    spans: list[tuple[int, int, int]] = []
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
    return sorted(spans)


def _joins_boxes(gap: str) -> bool:
    """Whether the text between two boxes joins them: `and`, a comma, a new line, a relation."""
    if len(gap) > 60:
        return False
    unit = _BOX_UNIT.match(gap)
    return _BOX_JOINT.fullmatch(gap, unit.end() if unit else 0) is not None


def _remove_names(gap: str) -> str:
    """Returns the text between boxes without `x =`, list marks and LaTeX's line breaks."""
    return re.sub(
        r"(?i)[a-z](?:_\{?\w{1,3}\}?)?\s*=|^\s*[-*•]|\n\s*(?:[-*•]|\d{1,2}[.)])|\\\\", " ", gap
    )


def _find_last(pattern: re.Pattern[str], text: str) -> list[re.Match[str]]:
    return list(pattern.finditer(text))[-1:]
