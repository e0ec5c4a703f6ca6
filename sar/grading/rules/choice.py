"""The choice grader: finds the one option that a response commits to, by its letter or its text.

A letter counts where the response chooses it: alone, in a stated answer (`Answer: B`), or in words
that choose (`I pick B`, `so it must be B`, `B is correct`). Being mentioned is not enough: `I would
avoid B` has no answer. Neither has a response that lists, hedges, or takes its answer back.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from sar.grading.label import Label, replace_option_names
from sar.grading.rules import choice_words as words
from sar.grading.rules import stance
from sar.grading.rules.answers import Statement
from sar.grading.rules.letters import OptionReader
from sar.grading.rules.normalize import normalize_unicode
from sar.grading.rules.tags import find_statements_and_tags
from sar.grading.verdict import NO_ANSWER, Comparison, Source, Verdict, make_verdict

_MAX_STATEMENT_CHARS = 1000
# The words before a statement in its sentence.
_MAX_LEAD_CHARS = 200
# A response without a stated answer has its conclusion in its last characters.
_TAIL_CHARS = 4000

# The A of `N/A` is no choice.
_NOT_APPLICABLE = re.compile(r"\bN/A\b")
# The question's own list: `the answer (A, B, C or D) is B`.
_ASKED = re.compile(
    r"\b(answer|choice|option|letter)\s*[(\[]\s*[A-Za-z](?:\s*(?:[,/|-]|or|and)\s*){1,2}"
    r"(?:[A-Za-z](?:\s*(?:[,/|-]|or|and)\s*){1,2}){0,24}[A-Za-z]\s*[)\]](?=\s*(?:is|was|:|=)(?!\w))"
)
# `"answer": "B"` (second-c2-json-014).
_JSON_KEY = re.compile(r"[\"'](answer|choice|option)[\"']\s*:\s*", re.IGNORECASE)
_LINE_BREAK_OR_END = re.compile(r".*(?:\n|[.!?…]\s)", re.DOTALL)


# What closes a box or tag.
_CLOSES = re.compile(r"^(?:[})\]$\s]|\\[)\]]|</answer>)+", re.IGNORECASE)


@dataclass(frozen=True)
class _Choice:
    """Letters that a passage chooses: one is a choice, several are a hedge."""

    letters: frozenset[str]
    start: int
    end: int
    """The passage in the text, without what follows it."""
    source: Source
    changes_mind: bool = False
    """The passage says that it replaces an answer before it: `Wait, no, B`."""


def grade_choice(response: str, label: Label) -> Verdict:
    """Grades a response, without its thinking, against the label's letter."""
    text = _NOT_APPLICABLE.sub("", replace_option_names(normalize_unicode(response)))
    text = stance.remove_struck(text)
    text = _JSON_KEY.sub(r"\1: ", _ASKED.sub(r"\1 ", text))
    found = find_choice(text, OptionReader(label.choices))
    if found is None:
        return NO_ANSWER
    letter, source = found
    comparison = Comparison(letter == label.answer, f"the response chooses {letter}")
    return make_verdict(comparison, letter, source)


def find_choice(text: str, reader: OptionReader) -> tuple[str, Source] | None:
    """Returns the letter that a text commits to, and where, or None.

    It is in the last stated answer, else in the last line that is only a letter, else in the last
    sentence that chooses one.
    """
    statements = find_statements_and_tags(text)
    stated = [_read_statement(text, statement, reader) for statement in statements]
    choices = [choice for choice in stated if choice]
    if not choices:
        text = reader.texts.remove_lists(text[-_TAIL_CHARS:])
        choices = _find_lines(text, reader) or _find_sentences(text, reader)
    if not choices:
        return None
    last = _join_neighbours(choices, text)
    letters = _follow(last.letters, text[last.end :], reader)
    return (min(letters), last.source) if len(letters) == 1 else None


def _read_statement(text: str, statement: Statement, reader: OptionReader) -> _Choice | None:
    """Reads a stated answer's first sentence together with the words before it."""
    lead = text[max(0, statement.start - _MAX_LEAD_CHARS) : statement.start]
    lead = _LINE_BREAK_OR_END.sub("", lead)
    said = statement.text[:_MAX_STATEMENT_CHARS]
    sentences = stance.split_sentences(said)
    if not sentences:
        return None
    first, following = sentences[0], sentences[1] if len(sentences) > 1 else ""
    if stance.is_question(first, following):
        return None
    is_withheld = stance.is_denied(lead) or stance.is_supposed(lead)
    if is_withheld or stance.is_conditional(lead, ""):
        return None
    reading = reader.read(first, is_stated=True)
    start = statement.start
    end = start + said.find(first) + len(first)
    letters = reading.chosen
    if letters and statement.source in (Source.BOX, Source.TAG):
        letters |= reader.read_alone(lead.removesuffix("\\boxed{").removesuffix("<answer>"))
        after = reader.read_rest(_CLOSES.sub("", text[end : end + _MAX_LEAD_CHARS]))
        letters = (letters | after.added) - after.denied
    changes_mind = reading.changes_mind
    return _Choice(letters, start, end, statement.source, changes_mind) if letters else None


def _find_lines(text: str, reader: OptionReader) -> list[_Choice]:
    """Returns the lines that are only letters."""
    lines = ((line, reader.read_alone(line[0])) for line in re.finditer(r"[^\n]+", text))
    return [
        _Choice(letters, line.start(), line.end(), Source.ENDING)
        for line, letters in lines
        if letters
    ]


def _find_sentences(text: str, reader: OptionReader) -> list[_Choice]:
    """Returns the sentences that choose."""
    found, end, is_chosen = [], 0, False
    for sentence, following in stance.pair_with_next(stance.split_sentences(text)):
        start = text.find(sentence, end)
        end = start + len(sentence)
        if not stance.is_question(sentence, following):
            reading = reader.read(sentence)
            explains = is_chosen and reading.is_by_text and not words.CONTRAST.search(sentence)
            is_chosen = is_chosen or reading.is_firm
            if reading.chosen and not explains:
                found.append(
                    _Choice(reading.chosen, start, end, Source.ENDING, reading.changes_mind)
                )
    return found


def _join_neighbours(choices: list[_Choice], text: str) -> _Choice:
    """Returns the last choice, joined with those before it that it does not replace.

    `Answer: A. Answer: B.` states two answers. With reasoning or a change of mind in between, the
    last one counts.
    """
    last = choices[-1]
    letters, start, is_new = last.letters, last.start, last.changes_mind
    # A sentence begins before its words of conclusion: `So it is B.`
    end = last.end if last.source is Source.ENDING else start
    for choice in reversed(choices[:-1]):
        gap = text[choice.start : end]
        if choice.letters != letters and (is_new or stance.changes_mind(gap)):
            break
        letters, is_new = letters | choice.letters, choice.changes_mind
        start = end = choice.start
    return _Choice(letters, start, last.end, last.source)


def _follow(letters: frozenset[str], text: str, reader: OptionReader) -> frozenset[str]:
    """Returns the letters that are chosen once the text after a choice was read, too."""
    is_list, changed = True, False
    for sentence, following in stance.pair_with_next(stance.split_following(text)):
        if stance.is_question(sentence, following):
            continue
        reading = reader.read(sentence, is_following=True)
        changed = changed or reading.changes_mind
        if stance.takes_back(sentence):
            letters, changed = reading.chosen, True
        elif reading.chosen and changed:
            letters, changed = reading.chosen, False
        elif reading.added or (is_list and reading.is_alone) or reading.is_firm:
            letters |= reading.added | reading.chosen
        letters -= reading.denied
        is_list = is_list and reading.is_alone
    return letters
