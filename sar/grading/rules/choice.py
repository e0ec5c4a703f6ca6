"""The choice grader: which option a response commits to, by its letter or by its text.

A response that lists the options, or hedges between two, has not chosen.
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence

from sar.grading.label import Label, count_choices, replace_option_names
from sar.grading.rules.answers import Statement, find_statements
from sar.grading.rules.normalize import normalize_unicode, normalize_words
from sar.grading.verdict import NO_ANSWER, Verdict, make_verdict

_MAX_STATEMENT_CHARS = 1000
# Without "the answer is", a conclusion stands in the last of the text.
_TAIL_CHARS = 4000

_WRAPPED = re.compile(r"\\(?:text\w*|math\w*|boxed|fbox)\s*\{([^{}]*)\}")
_CHANGED_MIND = re.compile(r"(?i)\b(?:wait|actually|scratch that|correction|i mean|no,)\W")
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z(\"'*])|\n+")
# Around an option's text: what takes it back, and where a reason begins.
_DENIED_BEFORE = re.compile(
    r"(?:\b(?:not|never|cannot|unlike|rather than|instead of)|\w*n't)\s+"
    r"(?:be\s+|conclude\s+|say\s+|know\s+|that\s+|the\s+|necessarily\s+|or\s+){0,4}$"
)
_DENIED_AFTER = re.compile(
    r"\s+(?:(?:is|are|would be|seems)\s+(?:not|wrong|incorrect|false)|isn't|aren't)\b"
)
_TURN = re.compile(r";|,?\s+(?:but|so|hence|thus|therefore)\s+", re.IGNORECASE)
_YES = re.compile(r"\W*yes\b", re.IGNORECASE)
_NOT_APPLICABLE = re.compile(r"\bN/A\b")
_ALTERNATIVES = re.compile(r"(?<=\b[A-Z])\s*/\s*(?=[A-Z]\b)")
_REASON = re.compile(r"\s(?:because|since|as|while|although|though|whereas)\s", re.IGNORECASE)
_LISTED = re.compile(r"^[ \t>*_-]{0,9}(?:(?i:option|choice) )?\(?([A-Z])[).:][*_]{0,3}[ \t]")

# `A` before a lower-case word is an article, unless that word says something of option A.
_NO_ARTICLE = (
    r"(?!(?<=A)\s+(?!(?:or|and|is|was|as|because|since|seems|looks|follows|must|holds)\b)[a-z])"
)
_LETTER = rf"(?<![A-Za-z0-9'’])([{{letters}}])(?![A-Za-z0-9'’]){_NO_ARTICLE}"
_NAMED = (
    r"(?i:(?:options?|choices?|letter|statement|conclusion|answers?)\s*[:#]?\s*[(\[\"'*]{{0,3}})"
    r"([{letters}])\b"
)
_COMMITS = (
    r"(?i:\b(?:choose|chose|pick|select|go(?:ing)? (?:with|for)|settle on|opt for"
    r"|it(?:'s| is| must be)|must be|should be|leaves?(?: us with)?|so|thus|hence|therefore"
    r"|conclude|is|are)\s*[,:]?\s*(?:(?:option|choice|only|just|the)\s+){{0,3}})"
    rf"[(\[\"'*]{{{{0,3}}}}([{{letters}}])\b(?![A-Za-z'’]){_NO_ARTICLE}"
)
_IS_RIGHT = (
    r"(?<![A-Za-z'’])([{letters}])[)\]\"'*]{{0,3}}\s*(?i:(?:is|looks|seems|must be|follows|remains"
    r"|holds|works|fits)\b(?!\s*(?:not|wrong|incorrect|false)))"
)

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
    """Grades a response's visible text (thinking removed) against a letter."""
    text = _NOT_APPLICABLE.sub("", replace_option_names(normalize_unicode(response)))
    chosen = _Chooser(label.choices).chosen(_ALTERNATIVES.sub(" or ", text))
    return make_verdict(chosen == label.answer, chosen) if chosen else NO_ANSWER


class _Chooser:
    def __init__(self, choices: Sequence[str]) -> None:
        self._options = [normalize_words(choice) for choice in choices]
        self._letters = string.ascii_uppercase[: count_choices(choices)]
        # Letters inside an option's text, such as `C is on the table`, choose nothing.
        phrases = sorted((c.strip(" .") for c in choices if " " in c.strip()), key=len)
        self._phrases = re.compile(
            "|".join(map(re.escape, reversed(phrases))) or r"(?!)", re.IGNORECASE
        )
        either_case = self._letters + self._letters.lower()
        self._letter = re.compile(_LETTER.format(letters=self._letters))
        self._named = re.compile(_NAMED.format(letters=either_case))
        self._commits = re.compile(_COMMITS.format(letters=self._letters))
        self._is_right = re.compile(_IS_RIGHT.format(letters=self._letters))
        self._alone = re.compile(rf"[\W_]*([{either_case}])[\W_]*")
        self._leading = re.compile(
            rf"[\s*_(\[\"'$]*([{either_case}])(?:[)\].:]|\s*[-–]\s|\s*\(|[*_]+)"
        )
        self._alone_in_line = re.compile(
            rf"(?m)^[^a-zA-Z0-9\n]{{0,12}}([{self._letters}])[^a-zA-Z0-9\n]{{0,12}}$"
        )

    def chosen(self, text: str) -> str | None:
        """The letter a text commits to, or None."""
        for statement in reversed(find_statements(text)):
            letters = self._in_statement(statement)
            if letters:
                return letters.pop() if len(letters) == 1 else None
        return self._in_conclusion(text[-_TAIL_CHARS:])

    def _in_statement(self, statement: Statement) -> set[str]:
        """Letters that "the answer is ..." names: one is a choice, more are a hedge."""
        said = _WRAPPED.sub(r" \1 ", statement.text[:_MAX_STATEMENT_CHARS]).strip()
        first = _CHANGED_MIND.split(_REASON.split(_SENTENCE.split(said)[0])[0])[-1]
        if alone := self._alone.fullmatch(first):
            return {alone[1].upper()}
        leading = self._leading.match(first)
        kept = _RULED_OUT.sub(" ", self._phrases.sub(" ", first))
        if leading and not re.match(r"\s*(?:,|or\b|and\b|/)", kept[leading.end() :]):
            others = set(self._letter.findall(kept[leading.end() :])) - {leading[1].upper()}
            if not re.search(r"\b(?:or|and|either)\b", kept) or not others:
                return {leading[1].upper()}
        by_text = self._by_text(first)
        letters = set(self._letter.findall(kept)) | {m.upper() for m in self._named.findall(kept)}
        if by_text and (not letters or len(by_text) == 1):
            return by_text
        return letters

    def _in_conclusion(self, text: str) -> str | None:
        """Without "the answer is": the last sentence that commits to one option."""
        text = self._without_lists(text)
        alone = set(self._alone_in_line.findall(text))
        if alone:
            return str(alone.pop()) if len(alone) == 1 else None
        after = ""
        for sentence in reversed(_SENTENCE.split(text)):
            is_asked = sentence.rstrip().endswith("?") and not _YES.match(after)
            letters = set() if is_asked else self._in_sentence(sentence.strip())
            if letters:
                return letters.pop() if len(letters) == 1 else None
            after = sentence
        return None

    def _in_sentence(self, sentence: str) -> set[str]:
        """Letters that a sentence of prose leaves as chosen."""
        if alone := self._alone.fullmatch(sentence):
            return {alone[1].upper()}
        kept = self._phrases.sub(" ", _CHANGED_MIND.split(sentence)[-1])
        kept = _RULED_OUT.sub(" ", kept)
        letters = self._committed(kept) or set(self._letter.findall(kept))
        return letters or self._by_text(sentence)

    def _committed(self, sentence: str) -> set[str]:
        found = [
            match
            for pattern in (self._commits, self._is_right, self._named)
            for match in pattern.finditer(sentence)
        ]
        if not found or re.search(r"\b(?:or|either|both|maybe|otherwise|if)\b", sentence):
            return set()
        return {max(found, key=lambda match: match.start())[1].upper()}

    def _by_text(self, sentence: str) -> set[str]:
        """Letters of the options whose text a sentence, or the last turn it takes, says; of nested
        texts the longest."""
        for clause in (sentence, *_TURN.split(sentence)[:0:-1]):
            words = normalize_words(clause)
            said = [i for i, option in enumerate(self._options) if _affirms(words, option)]
            said = [i for i in said if not self._is_part_of_another(i, said)]
            if len(said) == 1:
                break
        return {self._letters[i] for i in said}

    def _is_part_of_another(self, index: int, said: list[int]) -> bool:
        option = self._options[index]
        others = (self._options[i] for i in said if self._options[i] != option)
        return any(_contains(other, option) for other in others)

    def _without_lists(self, text: str) -> str:
        """The text less every run of lines that lists different options; a list chooses nothing."""
        lines = [line for line in text.split("\n") if line.strip()]
        marks = [self._listed_letter(line) for line in lines]
        kept: list[str] = []
        start = 0
        while start < len(lines):
            end = start
            while end < len(lines) and marks[end] and marks[end] not in marks[start:end]:
                end += 1
            if end - start < 2:
                end = start + 1
                kept.append(lines[start])
            start = end
        return "\n".join(kept)

    def _listed_letter(self, line: str) -> str | None:
        """The letter of a line that is nothing but an option, as its letter or text says."""
        if match := _LISTED.match(f"{line} "):
            return match[1]
        words = normalize_words(line)
        return self._letters[self._options.index(words)] if words in self._options else None


def _affirms(text: str, option: str) -> bool:
    """Whether a text says an option's words, and neither denies nor only explains with them."""
    if not option:
        return False
    for match in re.finditer(rf"(?<!\w){re.escape(option)}(?!\w)", text):
        before, after = text[: match.start()], text[match.end() :]
        is_reason = _REASON.search(before) and not _REASON.match(f" {before.lstrip()} ")
        if not (_DENIED_BEFORE.search(before) or _DENIED_AFTER.match(after) or is_reason):
            return True
    return False


def _contains(text: str, part: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(part)}(?!\w)", text) is not None
