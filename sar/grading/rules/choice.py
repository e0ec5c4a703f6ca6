"""The choice grader: finds the option that a response commits to, by its letter or by its text.

A response that lists the options, or hedges between two, has given no answer.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterator, Sequence

from sar.grading.label import Label, count_choices, replace_option_names
from sar.grading.rules.answers import Statement, find_statements
from sar.grading.rules.normalize import normalize_unicode, normalize_words
from sar.grading.verdict import NO_ANSWER, Comparison, Source, Verdict, make_verdict

_MAX_STATEMENT_CHARS = 1000
# A response without a stated answer has its conclusion in its last characters.
_TAIL_CHARS = 4000

# `\text{B}`, `\mathrm{B}`.
_WRAPPED = re.compile(r"\\(?:text\w*|math\w*|boxed|fbox)\s*\{([^{}]*)\}")
# `A... wait, no, B.` chooses B (choice-change_of_mind-001).
_CHANGED_MIND = re.compile(r"(?i)\b(?:wait|actually|scratch that|correction|i mean|no,)\W")
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z(\"'*])|\n+")
# Before an option's text: `Canberra, not Sydney` (second-c2-text-057).
_DENIED_BEFORE = re.compile(
    r"(?:\b(?:not|never|cannot|unlike|rather than|instead of)|\w*n't)\s+"
    r"(?:be\s+|conclude\s+|say\s+|know\s+|that\s+|the\s+|necessarily\s+|or\s+){0,4}$"
)
# After an option's text: `Sydney is not the capital`.
_DENIED_AFTER = re.compile(
    r"\s+(?:(?:is|are|would be|seems)\s+(?:not|wrong|incorrect|false)|isn't|aren't)\b"
)
# Between clauses, of which the last one chooses: `Many think it is Jupiter, but it is Venus`
# (second-c2-text-053).
_CLAUSE_END = re.compile(r";|,?\s+(?:but|so|hence|thus|therefore)\s+", re.IGNORECASE)
# Confirms the question before it: `Is it B? Yes.`
_YES = re.compile(r"\W*yes\b", re.IGNORECASE)
# The A of `N/A` is no choice.
_NOT_APPLICABLE = re.compile(r"\bN/A\b")
# `B/C` means B or C.
_ALTERNATIVES = re.compile(r"(?<=\b[A-Z])\s*/\s*(?=[A-Z]\b)")
# A reason or a concession, which chooses nothing: `B, although C is close` (second-c2-hedge-089).
_REASON = re.compile(r"\s(?:because|since|as|while|although|though|whereas)\s", re.IGNORECASE)
# A listed option: `A) red`, `- (B) blue`, `Option C: green` (second-c2-logicbench-046).
_LISTED = re.compile(r"^[ \t>*_-]{0,9}(?:(?i:option|choice) )?\(?([A-Z])[).:][*_]{0,3}[ \t]")

# `A` before a lower-case word is the article, as in `A sky`, but not in `A is right` or `A or B`.
_NO_ARTICLE = (
    r"(?!(?<=A)\s+(?!(?:or|and|is|was|as|because|since|seems|looks|follows|must|holds)\b)[a-z])"
)
# In the next patterns, LETTERS stands for the letters of the label's options (see `_compile`).
# A letter alone, as in `It must be B.`
_LETTER = rf"(?<![A-Za-z0-9'’])([LETTERS])(?![A-Za-z0-9'’]){_NO_ARTICLE}"
# `option B`, `choice (B)`, `the answer: B`.
_NAMED = (
    r"(?i:(?:options?|choices?|letter|statement|conclusion|answers?)\s*[:#]?\s*[(\[\"'*]{0,3})"
    r"([LETTERS])\b"
)
# `I choose B`, `so it must be B`, `which leaves only B`, `therefore B`.
_COMMITS = (
    r"(?i:\b(?:choose|chose|pick|select|go(?:ing)? (?:with|for)|settle on|opt for"
    r"|it(?:'s| is| must be)|must be|should be|leaves?(?: us with)?|so|thus|hence|therefore"
    r"|conclude|is|are)\s*[,:]?\s*(?:(?:option|choice|only|just|the)\s+){0,3})"
    r"[(\[\"'*]{0,3}([LETTERS])\b(?![A-Za-z'’])" + _NO_ARTICLE
)
# `B is right`, `B follows`, `(B) must be`.
_IS_RIGHT = (
    r"(?<![A-Za-z'’])([LETTERS])[)\]\"'*]{0,3}\s*(?i:(?:is|looks|seems|must be|follows|remains"
    r"|holds|works|fits)\b(?!\s*(?:not|wrong|incorrect|false)))"
)
# `(b)`, `**B**.`
_ALONE = r"[\W_]*([LETTERS])[\W_]*"
_ALONE_IN_LINE = r"(?m)^[^a-zA-Z0-9\n]{0,12}([LETTERS])[^a-zA-Z0-9\n]{0,12}$"
# `B) blue`, `(B) blue`, `B. blue`, `B - blue`, `**B** blue`
_LEADING = r"[\s*_(\[\"'$]*([LETTERS])(?:[)\].:]|\s*[-–]\s|\s*\(|[*_]+)"
# `B or`, `B, C`: the text goes on to other letters.
_GOES_ON = re.compile(r"\s*(?:,|or\b|and\b|/)")

# Letters that a response rules out: `not A` (choice-negated_letter-001), `neither A nor C`,
# `A and C are wrong`, `C contradicts ...`.
_ONE = r"[(*]{0,3}\b[A-Z]\b[)*]{0,3}"
_SOME = rf"{_ONE}(?:\s*(?:,|and|or|nor|&)\s*{_ONE}){{0,9}}"
_REJECTING = (
    r"not|\w*n't(?: be)?|cannot be|not be|except|(?:anything|all|everything) but|neither|nor|never"
    r"|rather than|instead of|rule[sd]? out|ruling out|eliminat\w+|exclud\w+|reject\w*|unlike|than"
    r"|discard\w*|over|wrong|incorrect"
)
_WRONG = r"wrong|incorrect|false|invalid|out|not"
_REJECTED = (
    r"(?:is|are|was|were|can|could|must|does|do|cannot|seems?|looks?)\b\s*"
    rf"(?:n't|\w+n't|never|be (?:wrong|false|ruled)|eliminated|excluded|{_WRONG}"
    rf"|(?:clearly|also|both|all|simply|just|then|therefore|ruled) (?:{_WRONG}))"
    r"|isn't|aren't|doesn't|don't|can't|cannot|contradicts?|fails?"
)
_RULED_OUT = re.compile(
    rf"(?i:\b(?:{_REJECTING})\s+(?:(?:either|options?|choices?)\s+)?){_SOME}"
    rf"|{_SOME}\s*[,:-]?\s*(?i:(?:{_REJECTED})\b)"
)


def grade_choice(response: str, label: Label) -> Verdict:
    """Grades a response, without its thinking, against the label's letter."""
    text = _NOT_APPLICABLE.sub("", replace_option_names(normalize_unicode(response)))
    found = _OptionFinder(label.choices).find_letter(_ALTERNATIVES.sub(" or ", text))
    if found is None:
        return NO_ANSWER
    letter, source = found
    comparison = Comparison(letter == label.answer, f"the response chooses {letter}")
    return make_verdict(comparison, letter, source)


class _OptionFinder:
    """Finds the letter that a text commits to, for one label's options."""

    def __init__(self, choices: Sequence[str]) -> None:
        self._options = [normalize_words(choice) for choice in choices]
        self._letters = string.ascii_uppercase[: count_choices(choices)]
        # A letter inside an option's text, such as `vitamin C helps`, chooses nothing.
        phrases = sorted((c.strip(" .") for c in choices if " " in c.strip()), key=len)
        self._phrases = re.compile(
            "|".join(map(re.escape, reversed(phrases))) or r"(?!)", re.IGNORECASE
        )
        either_case = self._letters + self._letters.lower()
        self._letter = _compile(_LETTER, self._letters)
        self._named = _compile(_NAMED, either_case)
        self._commits = _compile(_COMMITS, self._letters)
        self._is_right = _compile(_IS_RIGHT, self._letters)
        self._alone = _compile(_ALONE, either_case)
        self._leading = _compile(_LEADING, either_case)
        self._alone_in_line = _compile(_ALONE_IN_LINE, self._letters)

    def find_letter(self, text: str) -> tuple[str, Source] | None:
        """Returns the letter that a text commits to, and where, or None."""
        for statement in reversed(find_statements(text)):
            if letters := self._read_statement(statement):
                letter = _get_only(letters)
                return (letter, statement.source) if letter else None
        letter = self._read_conclusion(text[-_TAIL_CHARS:])
        return (letter, Source.ENDING) if letter else None

    def _read_statement(self, statement: Statement) -> set[str]:
        """Returns the letters in a stated answer: one is a choice, several are a hedge."""
        said = _WRAPPED.sub(r" \1 ", statement.text[:_MAX_STATEMENT_CHARS]).strip()
        first = _CHANGED_MIND.split(_REASON.split(_SENTENCE.split(said)[0])[0])[-1]
        if alone := self._alone.fullmatch(first):
            return {alone[1].upper()}
        leading = self._leading.match(first)
        kept = _RULED_OUT.sub(" ", self._phrases.sub(" ", first))
        if leading and not _GOES_ON.match(kept, leading.end()):
            letter, rest = leading[1].upper(), kept[leading.end() :]
            is_hedged = re.search(r"\b(?:or|and|either)\b", kept) is not None
            if not is_hedged or not set(self._letter.findall(rest)) - {letter}:
                return {letter}
        by_text = self._find_by_text(first)
        letters = set(self._letter.findall(kept)) | {m.upper() for m in self._named.findall(kept)}
        if by_text and (not letters or len(by_text) == 1):
            return by_text
        return letters

    def _read_conclusion(self, text: str) -> str | None:
        """Returns the letter alone in a line, or else the last sentence's that commits to one."""
        text = self._remove_lists(text)
        if alone := set(self._alone_in_line.findall(text)):
            return _get_only(alone)
        after = ""
        for sentence in reversed(_SENTENCE.split(text)):
            is_question = sentence.rstrip().endswith("?") and not _YES.match(after)
            letters = set() if is_question else self._read_sentence(sentence.strip())
            if letters:
                return _get_only(letters)
            after = sentence
        return None

    def _read_sentence(self, sentence: str) -> set[str]:
        """Returns the letters that a sentence commits to, or else all that it does not rule out."""
        if alone := self._alone.fullmatch(sentence):
            return {alone[1].upper()}
        kept = self._phrases.sub(" ", _CHANGED_MIND.split(sentence)[-1])
        kept = _RULED_OUT.sub(" ", kept)
        letters = self._find_commitment(kept) or set(self._letter.findall(kept))
        return letters or self._find_by_text(sentence)

    def _find_commitment(self, sentence: str) -> set[str]:
        """Returns the last letter that a sentence commits to; none if the sentence hedges."""
        patterns = (self._commits, self._is_right, self._named)
        found = [match for pattern in patterns for match in pattern.finditer(sentence)]
        if not found or re.search(r"\b(?:or|either|both|maybe|otherwise|if)\b", sentence):
            return set()
        return {max(found, key=lambda match: match.start())[1].upper()}

    def _find_by_text(self, sentence: str) -> set[str]:
        """Returns the letters of the options whose text a sentence, or else its last clause, says.

        If one option's text contains another's (`dark blue`, `blue`), only the longer one counts.
        """
        for clause in (sentence, *_CLAUSE_END.split(sentence)[:0:-1]):
            words = normalize_words(clause)
            said = [option for option in self._options if _affirms(words, option)]
            said = [a for a in said if not any(a != b and any(_find_words(b, a)) for b in said)]
            if len(said) == 1:
                break
        return {self._letters[i] for i, option in enumerate(self._options) if option in said}

    def _remove_lists(self, text: str) -> str:
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
        if match := _LISTED.match(f"{line} "):
            return match[1]
        words = normalize_words(line)
        return self._letters[self._options.index(words)] if words in self._options else None


def _compile(pattern: str, letters: str) -> re.Pattern[str]:
    return re.compile(pattern.replace("LETTERS", letters))


def _get_only(letters: set[str]) -> str | None:
    return letters.pop() if len(letters) == 1 else None


def _affirms(text: str, option: str) -> bool:
    """Whether a text says an option's words, not in a denial and not in a reason."""
    for match in _find_words(text, option):
        before, after = text[: match.start()], text[match.end() :]
        is_reason = _REASON.search(before) and not _REASON.match(f" {before.lstrip()} ")
        if not (_DENIED_BEFORE.search(before) or _DENIED_AFTER.match(after) or is_reason):
            return True
    return False


def _find_words(text: str, words: str) -> Iterator[re.Match[str]]:
    return re.finditer(rf"(?<!\w){re.escape(words)}(?!\w)", text) if words else iter(())
