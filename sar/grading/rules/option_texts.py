"""Finds the options that a sentence chooses by their text: `It is Canberra, not Sydney`."""

from __future__ import annotations

import re
import string
from collections.abc import Iterator, Sequence

from sar.grading.rules import stance
from sar.grading.rules.choice_words import REASON
from sar.grading.rules.marks import unwrap_text
from sar.grading.rules.normalize import normalize_words
from sar.grading.rules.stance import any_of

# A listed option: `A) red`, `- (B) blue`, `Option C: green` (second-c2-logicbench-046).
_LISTED = re.compile(
    r"^[ \t>#*_-]{0,9}(?:\d+[.)][ \t*_]{0,4})?(?:(?i:option|choice) )?\(?([A-Z])"
    r"[*_]{0,3}[).:][*_]{0,3}[ \t]+\S"
)
_TO_CHOOSE = any_of(
    r"be|conclude|say|know|that|the|a|an|necessarily|or|it|is|was|answer|choose|pick|select|go|with",
    r"for|option|think|believe|to|really|actually|of|choice|in",
)
# Before an option's text: `Canberra, not Sydney` (second-c2-text-057).
_DENIED_BEFORE = re.compile(
    rf"(?<![\w'])(?:{stance.NOT}|{stance.DENYING}|{stance.PREFERRING})\s+(?:{_TO_CHOOSE}\s+){{0,6}}$"
)
# After an option's text: `Sydney is not the capital`.
_DENIED_AFTER = re.compile(
    r"\W*(?:(?:is|are|was|would be|seems|looks)\s+"
    r"(?:(?:clearly|definitely|obviously|also|simply|a|an|the)\s+)*"
    r"(?:not|never|wrong|incorrect|false|mistake|trap|distractor|unlikely|impossible|ruled out|out"
    r"|worst)\b|(?:is|are|was|ca|would)n'?t\b|cannot\b)"
)
# Between clauses, of which the last one chooses: `Many think it is Jupiter, but it is Venus`
# (second-c2-text-053). `Anything but Venus` is one clause.
_CLAUSE_END = re.compile(
    r";|(?<!thing)(?<! all)(?<!none),?\s+(?:but|so|hence|thus|therefore)\s+", re.IGNORECASE
)
_LETTER_BEFORE = re.compile(r"^(?:\W*[A-Za-z]|.*(?<![\w'])[A-Z])[*_]{0,3}\s?[).:\]-]+", re.DOTALL)
_LETTER_AFTER = re.compile(r"[(\[]\W{0,3}[A-Z]\W{0,3}[)\]]\W*$")
_UP_TO_VERB = re.compile(r"^.*(?:\b(?:is|be|was)\b|:)\s", re.DOTALL)
_ARTICLE = re.compile(r"^(?:a|an|the) ")


class OptionTexts:
    """The texts of one label's options; none if the label does not list them."""

    def __init__(self, choices: Sequence[str]) -> None:
        self._options = [normalize_words(choice) for choice in choices]
        phrases = sorted((c.strip(" .") for c in choices if " " in c.strip()), key=len)
        self._phrases = re.compile(
            "|".join(map(re.escape, reversed(phrases))) or r"(?!)", re.IGNORECASE
        )

    def remove_phrases(self, sentence: str) -> str:
        """Removes options of several words: a letter in `vitamin C helps` chooses nothing."""
        return self._phrases.sub(" ", sentence)

    def find(self, sentence: str) -> frozenset[str]:
        """Returns the letters of the options that a sentence, or else its last clause, says.

        If one option's text contains another's (`dark blue`, `blue`), only the longer one counts.
        """
        said: list[str] = []
        if named := self._find_named(unwrap_text(sentence)):
            return named
        for clause in (sentence, *_CLAUSE_END.split(sentence)[:0:-1]):
            words = normalize_words(clause)
            said = [option for option in self._options if _affirms(words, option)]
            said = [a for a in said if not any(a != b and any(_find_words(b, a)) for b in said)]
            if len(said) == 1:
                break
        return self._get_letters(said)

    def find_beside_letter(self, sentence: str) -> frozenset[str]:
        """Returns the letter of the option whose text is all that stands beside a letter.

        `B) red` and `The answer is red (B)` name an option twice, and may contradict themselves.
        """
        if _LETTER_AFTER.search(sentence):
            return self._find_named(_UP_TO_VERB.sub("", _LETTER_AFTER.sub("", sentence)))
        said = _LETTER_BEFORE.sub("", sentence)
        return self._find_named(said) if said != sentence else frozenset()

    def _find_named(self, text: str) -> frozenset[str]:
        """Returns the one option that a text is, whatever its article: `dog` for `a dog`."""
        words = _ARTICLE.sub("", normalize_words(text))
        options = [option for option in self._options if _ARTICLE.sub("", option) == words]
        letters = self._get_letters(options)
        return letters if words and len(letters) == 1 else frozenset()

    def remove_lists(self, text: str) -> str:
        """Removes each run of two or more lines that lists different options."""
        lines = [line for line in text.split("\n") if line.strip()]
        listed = [self._read_listed_letter(line) for line in lines]
        kept: list[str] = []
        start = 0
        while start < len(lines):
            end = start
            while end < len(lines) and listed[end] and listed[end] not in listed[start:end]:
                end += 1
            if end - start < 2:
                end = start + 1
                kept.append(lines[start])
            start = end
        return "\n".join(kept)

    def _read_listed_letter(self, line: str) -> str | None:
        """Returns the letter of a line that is only an option: `B) blue` or `blue`."""
        if match := _LISTED.match(line):
            return match[1]
        return min(self._get_letters([normalize_words(line)]), default=None)

    def _get_letters(self, said: Sequence[str]) -> frozenset[str]:
        pairs = zip(string.ascii_uppercase, self._options, strict=False)
        return frozenset(letter for letter, option in pairs if option in said)


def _affirms(text: str, option: str) -> bool:
    """Whether a text says an option's words, not in a denial and not in a reason."""
    for match in _find_words(text, option):
        before, after = text[: match.start()], text[match.end() :]
        is_reason = REASON.search(before) and not REASON.match(f" {before.lstrip()} ")
        is_denied = _DENIED_BEFORE.search(before) or stance.is_condemned(before)
        if not (is_denied or _DENIED_AFTER.match(after) or is_reason):
            return True
    return False


def _find_words(text: str, words: str) -> Iterator[re.Match[str]]:
    return re.finditer(rf"(?<!\w){re.escape(words)}(?!\w)", text) if words else iter(())
