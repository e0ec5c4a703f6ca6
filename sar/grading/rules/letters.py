"""Reads which options a sentence chooses, denies, or offers beside the one before."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from dataclasses import dataclass

from sar.grading.label import count_choices
from sar.grading.rules import choice_words as words
from sar.grading.rules import stance
from sar.grading.rules.marks import find_marked, mark_letters, unwrap_text
from sar.grading.rules.normalize import normalize_words
from sar.grading.rules.option_texts import OptionTexts

_MAX_SENTENCE_CHARS = 1500
_NONE: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Reading:
    """What one sentence says about the options."""

    chosen: frozenset[str] = _NONE
    """One letter is a choice, several are a hedge."""
    denied: frozenset[str] = _NONE
    added: frozenset[str] = _NONE
    """Offered beside the answer before the sentence: `Or C.`"""
    is_alone: bool = False
    """The sentence is only letters."""
    is_firm: bool = False
    """The sentence chooses in so many words (`I choose B`), and not only by `so B`."""
    changes_mind: bool = False
    """The sentence replaces an answer before it: `Wait, no, B.`"""
    is_by_text: bool = False
    """The sentence names no letter, but an option's text."""


class OptionReader:
    """Reads sentences, for one label's options."""

    def __init__(self, choices: Sequence[str]) -> None:
        self._letters = string.ascii_uppercase[: count_choices(choices)]
        self.texts = OptionTexts(choices)

    def read(
        self, sentence: str, *, is_stated: bool = False, is_following: bool = False
    ) -> Reading:
        """Reads a sentence.

        Args:
            is_stated: the sentence is a stated answer, so it may start with its letter.
            is_following: the sentence follows an answer. It often explains the options, so it
                chooses none by its text or by starting with its letter.
        """
        sentence = words.INSISTING.sub("is", sentence[-_MAX_SENTENCE_CHARS:])
        marked = self._mark(sentence, is_stated=is_stated)
        if letters := _read_only_letters(marked):
            letters |= self.texts.find_beside_letter(unwrap_text(sentence))
            return Reading(letters, is_alone=True)
        *before, last = words.CHANGED_MIND.split(marked)
        changes_mind = bool(before)
        denied = _find_denied(last)
        for undone in words.UNDONE.finditer(last):
            denied |= frozenset(undone[1])
        last = words.UNDONE.sub(" ", last)
        starts_line = not is_following and words.STARTS_LINE.match(last) is not None
        kept = words.RULED_OUT.sub(" ", last)
        contradicted = _find_denied(words.REASON.split(last)[0]) & find_marked(kept)
        if contradicted:  # `B and not B`
            return Reading(denied=denied, changes_mind=changes_mind)
        if changes_mind and (letters := _read_only_letters(kept)):
            return Reading(letters, denied, changes_mind=True)
        if (is_stated or starts_line) and (letters := _read_leading(words.REASON.split(kept)[0])):
            letters |= self.texts.find_beside_letter(unwrap_text(sentence))
            return Reading(letters, denied, changes_mind=changes_mind)
        chosen, is_firm = _find_commitment(words.REASON.split(kept)[0] if is_stated else kept)
        if chosen:
            chosen |= self.texts.find_beside_letter(unwrap_text(sentence))
        is_by_text = False
        if not chosen and (not is_following or changes_mind or stance.takes_back(sentence)):
            said = words.CHANGED_MIND.split(sentence)[-1]
            chosen = self.texts.find(said if normalize_words(said) else sentence)
            is_by_text = bool(chosen)
        added = _find_added(kept) if is_following and not changes_mind else _NONE
        return Reading(chosen, denied - chosen, added, False, is_firm, changes_mind, is_by_text)

    def read_alone(self, line: str) -> frozenset[str]:
        """Returns the letters of a line that is only letters, with at most a word of certainty."""
        line = line[:_MAX_SENTENCE_CHARS]
        letters = _read_only_letters(self._mark(line, is_stated=False))
        return letters | self.texts.find_beside_letter(unwrap_text(line)) if letters else _NONE

    def read_rest(self, rest: str) -> Reading:
        """Reads what follows a box or a tag in its sentence: `or C`, `is wrong`."""
        marked = self._mark(rest, is_stated=False)
        rejected = re.match(rf"\W*{words.REJECTED}", marked, re.IGNORECASE)
        if rejected or words.TEMPTING.match(marked):
            return Reading(denied=frozenset(self._letters))
        other = words.NEXT.match(marked)
        return Reading(added=frozenset(other[1]) if other else _NONE)

    def _mark(self, sentence: str, *, is_stated: bool) -> str:
        sentence = self.texts.remove_phrases(sentence)
        return mark_letters(sentence, self._letters, is_stated=is_stated)


def _read_only_letters(marked: str) -> frozenset[str]:
    is_denied = words.DENIAL_SIGN.search(marked)
    if not is_denied and (words.ALONE.fullmatch(marked) or words.SEVERAL.fullmatch(marked)):
        return find_marked(marked)
    return _NONE


def _find_denied(marked: str) -> frozenset[str]:
    ruled_out = (find_marked(match[0]) for match in words.RULED_OUT.finditer(marked))
    return frozenset[str]().union(*ruled_out)


def _read_leading(kept: str) -> frozenset[str]:
    """Returns the letter that a stated answer starts with, and those that it offers beside it."""
    leading = words.LEADING.match(kept) or words.LEADING_TEXT.match(kept)
    if leading is None or words.PRAISED.match(kept.lstrip(" *_(\"'")):
        return _NONE
    rest = kept[leading.end(1) :]
    if re.match(r"\s*[)\].:]", rest) and words.COMBINES.match(rest.lstrip(" ).:]")):
        return frozenset(leading[1])
    return frozenset(leading[1]) | _find_others(rest) | _find_commitment(rest)[0]


def _find_commitment(kept: str) -> tuple[frozenset[str], bool]:
    """Returns the last letter that a sentence chooses, with those beside it, and if firmly."""
    firm = {match.start(1): match[1] for match in words.CHOSEN.finditer(kept)}
    for match in words.PRAISED.finditer(kept):
        is_seeming = words.SEEMS_BUT.fullmatch(kept, match.start(), match.end() + 6)
        if not is_seeming and not words.SPOILED.match(kept, match.end()):
            firm[match.start(1)] = match[1]
    loose = {
        match.start(1): match[1]
        for match in words.CONCLUDED.finditer(kept)
        if words.ENDS_CLAUSE.match(kept, match.end())
    }
    found = {
        at: letter
        for at, letter in (loose | firm).items()
        if not stance.is_denied(kept[:at])
        and not stance.is_supposed(kept[:at])
        and not stance.is_conditional(kept[:at], kept[at + 1 :])
    }
    if not found:
        return _NONE, False
    last = max(found)
    # `A is correct and B is correct`
    beside = {
        letter
        for at, letter in found.items()
        if at in firm and not words.CONTRAST.search(kept[at:last])
    }
    rest = words.REASON.split(kept[last + 1 :])[0]
    return frozenset({found[last], *beside}) | _find_others(rest), last in firm


def _find_others(rest: str) -> frozenset[str]:
    """Returns the letters that the text after a letter offers beside it: `B or C`, `B, C`."""
    beside = (*words.ALTERNATIVE.finditer(rest), *words.POSSIBLE.finditer(rest))
    found = {match[1] for match in beside}
    at = 0
    while other := words.NEXT.match(rest, at):
        found.add(other[1])
        at = other.end()
    return frozenset(found)


def _find_added(kept: str) -> frozenset[str]:
    """Returns the letters that a sentence offers beside the answer before it."""
    explains = words.DESCRIBES.match(kept) and not words.ACCEPTING.search(kept)
    if explains:  # `Option F is for plants`
        return _NONE
    if words.STARTS_BESIDE.match(kept) and (other := words.NEXT.match(kept)):
        return frozenset(other[1])
    if words.ALSO.search(kept) and words.ACCEPTING.search(kept):
        return find_marked(kept)
    return _NONE
