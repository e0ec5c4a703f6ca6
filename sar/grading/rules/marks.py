"""Marks the letters in a sentence that can name an option, so that patterns find them easily.

`The answer is (b), as A sky` becomes `The answer is @B) , as A sky`, where @ stands for a private
character. The patterns of `choice_words` thus need not tell the option A from the article, the
option I from the pronoun, nor (b) from B.
"""

from __future__ import annotations

import re
from collections.abc import Callable

MARK = "\ue000"
MARKED = rf"{MARK}([A-Z])"
"""A marked letter, as a pattern with one group."""

LEAD_IN = (
    r"(?:[\s:,.>#(\[{\"'*_`$=→⇒✅✔✓☑👉•|-]|\b(?:options?|choices?|answer|ans|letter|statement"
    r"|conclusion|the|a|my|final|correct|best|right|is|be|it|it's|that|would|must|i|we|i think"
    r"|i believe|i guess|choose|pick|go|going|with|just|only|simply|clearly|definitely|certainly"
    r"|surely|sure|probably|most likely|likely|maybe|perhaps|indeed|therefore|thus|hence|so|but"
    r"|rather|instead|ok|okay|well|then)\b)*"
)
"""Words that may stand before the letter in a sentence that says no more than this letter."""

# `\text{B}`, `\mathrm{B}`, and an unclosed `\text{(B)`, as a box's content ends before its brace.
_WRAPPED = re.compile(r"\\(?:text\w*|math\w*|mbox|boxed|fbox)\s*\{([^{}]*)\}?")
_MATH_DELIMITER = re.compile(r"\\[()\[\]]")
_JOINING = re.compile(r"\\(?:lor|vee|cup|land|wedge|cap)(?![a-z])|[∨∧]")
_SPACING = re.compile(r"\\(?:quad|qquad)(?![a-z])|\\[ ,;:!]")
_WORD_CHAR = r"[0-9A-Za-z_À-ɏ]"  # without Chinese: `答案是B`
# `(B)`, `**b**`, `"b"`
_DRESSED = re.compile(
    r"(?<![\w'^\\])[(\[{<*_`$\"']{1,6}\s?([A-Za-z])\s?[.:]?[)\]}>*_`$\"']{1,6}(?![\w'])"
)
# A capital letter alone. Not `U.S.`, `X-ray`, `B'`, `B^c`.
_CAPITAL = re.compile(
    rf"(?<!{_WORD_CHAR})(?<!['’\\^-])(?<!{_WORD_CHAR}\.)([A-Z])(?!{_WORD_CHAR}|['’^]|-\w|\.\w)"
)
# After A, a lower-case word makes it the article, except a verb or `or`: `A sky`, `A is right`.
_AFTER_ARTICLE = re.compile(
    r"\s+(?!(?:or|and|is|was|as|because|since|seems|looks|follows|must|holds|works|fits|has to"
    r"|remains|then|for|it|here|with|over|but|not|though|although|unless|if|versus|vs)\b)[a-z]"
)
# After I, a word or an apostrophe makes it the pronoun, except `is` and the like.
_AFTER_PRONOUN = re.compile(
    r"\s*,?\s+(?!(?:or|and|is|because|since|follows|holds|fits|then|unless|versus|vs)\b)[a-z]|['’]"
)
# `option c`, `choose c.`
_LOWER_NAMED = re.compile(
    r"(?i:\b(?:ans|options?|choices?|letter|answers?|pick|select|choose|chose|selection)\b"
    r"\s*(?:is\s*)?[:#]?\s*)([a-z])(?=\s*(?:[.,;:!?)\]]|$)|\s+(?:is|because)\b)"
)
# `So c.`, `c is correct`
_LOWER_SENTENCE = re.compile(
    rf"\A(?i:{LEAD_IN})([a-z])(?=\W*\Z)|\A\W*([a-z])(?=[).]?\s+(?:is|follows)\b)"
)
# In a stated answer: `c`, `c) Paris`, `c or d`, `b, a, c`.
_LOWER_LEADING = re.compile(
    r"\W*([a-z])(?=\W*$|\s*[).:\]]|\s*,|\s*/|\s+(?:or|and|because|since|is)\b|\s+[a-z]\b)"
)
_LOWER_LETTER = re.compile(r"(?<![\w'])([a-z])(?![\w'])")
_LONG_WORD = re.compile(r"(?!(?:or|and|then)\b)\b[A-Za-z]{2,}")


def unwrap_text(text: str) -> str:
    r"""Writes LaTeX as text: `\text{(B)}` becomes `(B)`, and `B \lor C` becomes `B or C`."""
    text = _MATH_DELIMITER.sub("$", _WRAPPED.sub(r" \1 ", text))
    return _JOINING.sub(" or ", _SPACING.sub(" ", text))


def mark_letters(sentence: str, letters: str, *, is_stated: bool) -> str:
    """Marks the letters of a sentence that can name an option.

    Args:
        letters: the letters of the options, in upper case.
        is_stated: the sentence is a stated answer: if it starts with a lower-case letter, this is
            an option.
    """
    text = unwrap_text(sentence)

    def mark(match: re.Match[str]) -> str:
        """Marks the letter at the end of a match."""
        before, letter = match[0][:-1], match[0][-1].upper()
        return f"{before}{MARK}{letter}" if letter in letters else match[0]

    def mark_dressed(match: re.Match[str]) -> str:
        letter = match[1].upper()
        return f" {MARK}{letter}) " if letter in letters else match[0]

    if is_stated and _LOWER_LEADING.match(text):
        once = 0 if not _LONG_WORD.search(text) else 1  # `b, a, c` is a list
        text = _LOWER_LETTER.sub(mark, text, count=once)
    text = _LOWER_NAMED.sub(mark, _LOWER_SENTENCE.sub(mark, text))
    return _CAPITAL.sub(_mark_capital(letters), _DRESSED.sub(mark_dressed, text))


def find_marked(text: str) -> frozenset[str]:
    """Returns the marked letters of a text."""
    return frozenset(re.findall(MARKED, text))


def _mark_capital(letters: str) -> Callable[[re.Match[str]], str]:
    def mark(match: re.Match[str]) -> str:
        letter, text, end = match[1], match.string, match.end()
        is_article = letter == "A" and _AFTER_ARTICLE.match(text, end)
        is_pronoun = letter == "I" and _AFTER_PRONOUN.match(text, end)
        is_marked = text[match.start() - 1 : match.start()] == MARK
        is_other = is_article or is_pronoun or is_marked or letter not in letters
        return letter if is_other else f"{MARK}{letter}"

    return mark
