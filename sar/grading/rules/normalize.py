"""Normalises the spelling of an answer: variants of Unicode, LaTeX and Markdown become one.

It changes the notation, never the meaning. What depends on the context, such as whether `1,234` is
a number or a list, it leaves to the caller.
"""

from __future__ import annotations

import re
import unicodedata

_SYMBOLS = {
    "−": "-", "–": "-", "‐": "-", "‑": "-", "‒": "-", "﹣": "-",
    "×": r"\times ", "✕": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "∙": r"\cdot ", "÷": "/",
    "⁄": "/", "∕": "/", "π": r"\pi ", "∞": r"\infty ", "≤": r"\le ", "⩽": r"\le ", "≥": r"\ge ",
    "⩾": r"\ge ", "≠": r"\ne ", "≈": r"\approx ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ",
    "∅": r"\emptyset ", "°": r"^\circ ", "±": r"\pm ", "∓": r"\mp ", "θ": r"\theta ",
    "α": r"\alpha ", "β": r"\beta ", "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}", "ℕ": r"\mathbb{N}",
    "’": "'", "‘": "'", "“": '"', "”": '"', "¢": " cents ", "：": ":", "，": ",", "。": ".",
    "\u200b": "", "\u200e": "", "\u200f": "", "\ufeff": "", "\u2061": "", "\x00": "",
}  # fmt: skip
_TRANSLATION = str.maketrans(_SYMBOLS)
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n")

# `2½`, `¾` (math-unicode-007).
_VULGAR_FRACTION = re.compile(r"(?:(\d)\s?)?([¼½¾⅐-⅞])")
# `negative 10` at the start or after a sign; after a word or number, `minus` may be an operation.
_SIGN_WORD = re.compile(r"(?<![\w}] )\b(?:negative|minus)\s+(?=\d)", re.IGNORECASE)
# `10¹²` (second-m2-unicode-331).
_SUPERSCRIPT_RUN = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+")
# `√10` (math-unicode-010), `√(x + 1)`.
_ROOT = re.compile(r"√\s*(?:(\d+(?:\.\d+)?|[a-zA-Z])|\(([^()]*)\)|\{([^{}]*)\})")
# Full-width characters, as in `＄1,520` (math-currency-028), and mathematical letters and digits.
_COMPATIBILITY = re.compile(r"[\uff01-\uff5e\U0001d400-\U0001d7ff]+")
# The narrow spaces or apostrophes in `43 200` (math-thousands-013) and `43'200`.
_DIGIT_GROUPS = re.compile(r"(?<=\d)[\u00a0\u2009\u202f'’](?=\d{3}(?!\d))")
_SPACES = re.compile(r"[\u00a0\u2000-\u200a\u202f\u205f\u3000]")

# `\text{Navin}` (second-m2-text-280).
_TEXT_COMMAND = re.compile(
    r"\\(?:text(?:bf|it|rm|tt|sf|normal)?|mathrm|mathbf|mathit|mathsf|mathtt|mbox|hbox|operatorname"
    r"|textnormal)\s*\{([^{}]*)\}"
)
# `\dfrac`, `\tfrac` (math-boxed-005).
_FRACTION_COMMAND = re.compile(r"\\[dtc]frac(?![a-zA-Z])")
# `\frac14` (math-mixed_numbers-022), `\frac34x`, `\frac{\sqrt3}2`, `\sqrt5` (math-expressions-024):
# commands whose arguments may lack their braces, and the number of these.
_ARGUMENTS = {"frac": 2, "sqrt": 1}
_WITH_ARGUMENTS = re.compile(r"\\(frac|sqrt)(?![a-zA-Z])\s*(?:\[[^\[\]]*\])?")
_ARGUMENT = re.compile(r"\s*(\\[a-zA-Z]+|[^\s{}\\])")
# `C_n^k` and `{n \choose k}` are binomials.
_BINOMIAL = re.compile(
    r"(?<![a-zA-Z\\])C\s*_\s*(?:\{([^{}]*)\}|(\w))\s*\^\s*(?:\{([^{}]*)\}|(\w))"
    r"|\{([^{}]*)\\choose([^{}]*)\}"
)
# `(\text{mod } 3)`, `\bmod 3`, `\pmod{3}`.
_MODULUS = re.compile(
    r"\(?\s*(?:\\[bp]?mod|(?<![a-zA-Z\\])mod)(?![a-zA-Z])\s*\{?\s*(\w+)\s*\}?\s*\)?"
)
# Commands for size and position: `\left(` (math-tuples-013).
_SIZING = re.compile(
    r"\\(?:left|right)\s*\.|\\(?:left|right|big[lr]?|Big[lr]?|bigg[lr]?|Bigg[lr]?|displaystyle|limits|mathopen|mathclose"
    r")(?![a-zA-Z])"
)
_SYNONYMS = {
    "leq": r"\le", "leqslant": r"\le", "leqq": r"\le", "lt": "<", "neq": r"\ne",
    "ldots": r"\dots", "cdots": r"\dots", "geq": r"\ge", "geqslant": r"\ge", "geqq": r"\ge",
    "gt": ">", "varnothing": r"\emptyset",
}  # fmt: skip
_NOT_EQUAL = re.compile(r"\\not\s*=")
_SYNONYM = re.compile(rf"\\({'|'.join(_SYNONYMS)})(?![a-zA-Z])")
# A backslash that was escaped once too often: `\\\\frac{3}{4}`.
_DOUBLED_BACKSLASH = re.compile(r"\\\\(?=[a-zA-Z(\[{,;!])")
# Every kind of matrix is written as a pmatrix; brackets around an array belong to the matrix.
_MATRIX = re.compile(
    r"(?:[(\[]\s*)?\\begin\s*\{(?:[pbB]?matrix|smallmatrix|array)\}(?:\s*\{[clr|\s]*\})?"
    r"(.*?)(?:\\\\)?\s*\\end\s*\{(?:[pbB]?matrix|smallmatrix|array)\}(?:\s*[)\]])?",
    re.DOTALL,
)
# The segment \overline{AB} is also written AB.
_SEGMENT = re.compile(r"\\overline\s*\{\s*([A-Z]{2})\s*\}")
_INFINITY = re.compile(r"(?<![\\a-zA-Z])(?:infinity|inf|oo)(?![a-zA-Z])|\+\s*\\infty")
_EMPTY_SET = re.compile(r"\\\{\s*\\\}")
# `15^{\text{th}}`.
_ORDINAL = re.compile(
    r"(?<=\d)\s*\^\s*\{?\s*(?:\\(?:text|mathrm|rm)\s*)?\{?\s*(st|nd|rd|th)\s*\}?\s*\}?"
)
# Between groups of digits: `1{,}600` (math-thousands-031), `1\,600`.
_THIN_SPACE = re.compile(r"(?<=\d)(?:\\[,!;:]|\s*\{\s*,\s*\}\s*|~|\{ \})(?=\d)")
# `50,\!625`, `11,\! 111`: a comma with the space after it taken back.
_TIGHT_COMMA = re.compile(r"(?<=\d)\s*,\s*\\!\s*(?=\d)")
# `36\ \text{ft}` (second-m2-unit-150), `8 \mathrm{~m}` (second-m2-unit-156).
_SPACING = re.compile(
    r"(?<!\\)\\[,!;: ]|~|\\q?quad|\\(?:space|enspace)(?![a-zA-Z])"
    r"|\\[hv]?(?:phantom|space)\{[^{}]*\}"
)
_MATH_DELIMITER = re.compile(r"\$\$|\\[()\[\]]|(?<!\\)\$")
# `27^{\circ}`, `27^{\mathrm{o}}` (math-units-017).
_DEGREES = re.compile(
    r"\s*\^\s*(?:\\circ|\{\s*(?:\\circ|\\(?:mathrm|text|rm)\s*\{?\s*o\s*\}?|o)\s*\})|\\degree(?![a-zA-Z])|\\deg(?![a-zA-Z])"
)
# `sin 60^\circ` keeps its degrees, as they change its value.
_TRIGONOMETRY = re.compile(r"\\?(?:sin|cos|tan|cot|sec|csc)(?![a-z])")
# A whole answer in a box; an empty one is no answer (math-empty-007).
_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{(.*)\}\s*[.,]?\s*", re.DOTALL)
# `2**3`, but not the end of bold text in `45** miles`.
_STAR_POWER = re.compile(r"(?<=\w)(?:\*\*|\s+\*\*\s+)(?=[\w(-])")
# `**100**` (rollouts-gemma_bold-001), `` `19` `` (math-answer_prefix-035), `## `, `<b>`.
_MARKUP = re.compile(
    r"(?<![\w)}\]*])\*{1,3}(?=\S)|(?<=\S)\*{1,3}(?![\w({\\+-])|`|^#+ |</?[a-zA-Z]{1,10}>"
)
# `26 ✅` (math-trailing_punctuation-014), `44 ∎` (math-trailing_punctuation-017).
_ORNAMENT = re.compile(r"[∎□■✓✔✅☑✨🎉\ufe0f]|\\(?:blacksquare|square|checkmark|qed)(?![a-zA-Z])")
_LEADING = " \t\r\n,;:\"'*_"
_TRAILING = ' \t\r\n,;:*_.!?"'
_QUOTES = "\"'"
# The decimals of `0.333...` go on.
_ELLIPSIS = re.compile(r"(?<=\d)\.{2,}")


def normalize_unicode(text: str) -> str:
    """Writes Unicode mathematics as LaTeX or ASCII."""
    text = _COMPATIBILITY.sub(lambda m: unicodedata.normalize("NFKC", m[0]), text)
    text = _DIGIT_GROUPS.sub(",", text)
    text = _VULGAR_FRACTION.sub(_write_fraction, text)
    text = _SIGN_WORD.sub("-", text)
    text = _SUPERSCRIPT_RUN.sub(lambda m: f"^{{{m[0].translate(_SUPERSCRIPTS)}}}", text)
    text = _ROOT.sub(lambda m: rf"\sqrt{{{m[1] or m[2] or m[3] or ''}}}", text)
    return _SPACES.sub(" ", text).translate(_TRANSLATION)


def normalize_latex(text: str) -> str:
    """Writes each LaTeX construct in one way, without text, size and spacing commands."""
    if "matrix" not in text and "array" not in text:
        text = _DOUBLED_BACKSLASH.sub(r"\\", text)
    text = _THIN_SPACE.sub(",", _TIGHT_COMMA.sub(",", text))
    text = _SIZING.sub("", _NOT_EQUAL.sub(r"\\ne ", text))
    text = _MATRIX.sub(r"\\begin{pmatrix}\1\\end{pmatrix}", text)
    text = _ORDINAL.sub(r" \1", _SEGMENT.sub(r"\1", text))
    text = _EMPTY_SET.sub(r"\\emptyset ", _INFINITY.sub(r"\\infty ", text))
    text = _FRACTION_COMMAND.sub(r"\\frac", text)
    text = _BINOMIAL.sub(_write_binomial, _brace_arguments(text))
    if not _TRIGONOMETRY.search(text):
        text = _DEGREES.sub(" degrees ", text)
    text = _MODULUS.sub(r" \\pmod{\1} ", _TEXT_COMMAND.sub(r" \1 ", text))
    text = re.sub(r"(?<![\\a-zA-Z])pi(?![a-zA-Z])", r"\\pi ", text)
    text = text.replace(r"\%", "%").replace(r"\$", "$ ").replace(r"\&", "&").replace(r"\#", "#")
    text = _SYNONYM.sub(lambda m: _SYNONYMS[m[1]], text)
    return _SPACING.sub(" ", text)


def normalize_answer(text: str) -> str:
    """Normalises an answer in prose, to be read as mathematics. A final `!` ends the sentence."""
    return _strip_end(normalize_formula(text), _TRAILING)


def normalize_formula(text: str) -> str:
    """Normalises an answer that is known to be a formula. A final `!` is a factorial."""
    text = normalize_unicode(text).strip()
    if box := _BOX.fullmatch(text.strip("$ ")):
        text = box[1]
    text = _STAR_POWER.sub("^", text) if text.count("**") == 1 else text
    text = _MARKUP.sub(" ", _ORNAMENT.sub(" ", text))
    text = normalize_latex(_MATH_DELIMITER.sub(" ", text))
    text = _ELLIPSIS.sub(r" \\dots ", text)
    return _strip_end(re.sub(r"\s+", " ", text), _TRAILING.replace("!", ""))


def _strip_end(text: str, marks: str) -> str:
    """Strips what does not belong to an answer; quotes at its end only if it starts with one."""
    stripped = text.lstrip(_LEADING)
    is_quoted = any(quote in text[: len(text) - len(stripped)] for quote in _QUOTES)
    return stripped.rstrip(marks + _QUOTES if is_quoted else marks)


def normalize_words(text: str) -> str:
    """Normalises words for a comparison: lower case, without quotes and final punctuation."""
    text = unicodedata.normalize("NFKC", normalize_answer(text)).casefold()
    text = re.sub(r"[\"'`*_{}\\$]", "", text)
    return re.sub(r"\s+", " ", text).strip(_TRAILING + _QUOTES + "()[]")


def _brace_arguments(text: str) -> str:
    """Puts braces around the arguments of fractions and roots; the innermost are the last."""
    for command in reversed(list(_WITH_ARGUMENTS.finditer(text))):
        position = command.end()
        for _ in range(_ARGUMENTS[command[1]]):
            if opening := re.match(r"\s*\{", text[position:]):
                position = _find_closing_brace(text, position + opening.end())
            elif bare := _ARGUMENT.match(text, position):
                text = f"{text[:position]}{{{bare[1]}}}{text[bare.end() :]}"
                position += len(bare[1]) + 2
    return text


def _find_closing_brace(text: str, position: int) -> int:
    """Returns the position after the brace that closes the one before `position`."""
    depth = 1
    for brace in re.finditer(r"(?<!\\)[{}]", text[position:]):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            return position + brace.end()
    return len(text)


def _write_binomial(match: re.Match[str]) -> str:
    top, bottom = (
        (match[1] or match[2], match[3] or match[4]) if match[5] is None else (match[5], match[6])
    )
    return rf"\binom{{{top}}}{{{bottom}}}"


def _write_fraction(match: re.Match[str]) -> str:
    fraction = unicodedata.normalize("NFKC", match[2]).replace("⁄", "/")
    return f"{match[1]} {fraction}" if match[1] else fraction
