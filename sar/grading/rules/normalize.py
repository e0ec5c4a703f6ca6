"""One spelling for the many ways to write the same answer: Unicode, LaTeX and Markdown variants.

Only notation changes here, never meaning; what cannot be told without context (is `1,234` a number
or a list?) is left to the caller.
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
_SUPERSCRIPTS = {c: unicodedata.normalize("NFKC", c) for c in "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ"} | {"⁻": "-"}
_TRANSLATION = str.maketrans(_SYMBOLS)

_VULGAR = re.compile(r"(?:(\d)\s?)?([¼½¾⅐-⅞])")
_SIGN_WORD = re.compile(r"(?<![\w}] )\b(?:negative|minus)\s+(?=\d)", re.IGNORECASE)
_SUPERSCRIPT_RUN = re.compile(f"[{''.join(_SUPERSCRIPTS)}]+")
_ROOT = re.compile(r"√\s*(?:(\d+(?:\.\d+)?|[a-zA-Z])|\(([^()]*)\)|\{([^{}]*)\})")
# Fullwidth forms and mathematical letters and digits, as some models write them.
_COMPATIBILITY = re.compile(r"[\uff01-\uff5e\U0001d400-\U0001d7ff]+")
_DIGIT_GROUPS = re.compile(r"(?<=\d)[\u00a0\u2009\u202f'’](?=\d{3}(?!\d))")
_SPACES = re.compile(r"[\u00a0\u2000-\u200a\u202f\u205f\u3000]")

_TEXT_COMMAND = re.compile(
    r"\\(?:text(?:bf|it|rm|tt|sf|normal)?|mathrm|mathbf|mathit|mathsf|mathtt|mbox|hbox|operatorname"
    r"|textnormal)\s*\{([^{}]*)\}"
)
_FRACTION_COMMAND = re.compile(r"\\[dtc]frac(?![a-zA-Z])")
_SHORT_FRACTION = re.compile(
    r"\\frac\s*(?:(\d)|\{([^{}]*)\}|\s([a-z]))\s*(?:([a-z\d])(?![a-z])|\{([^{}]*)\})"
)
_SHORT_ROOT = re.compile(r"\\sqrt\s*(\d|[a-zA-Z](?![a-zA-Z]))")
_SIZING = re.compile(
    r"\\(?:left|right|big[lr]?|Big[lr]?|bigg[lr]?|Bigg[lr]?|displaystyle|limits|mathopen|mathclose"
    r"|phantom\{[^{}]*\}|hspace\{[^{}]*\})(?![a-zA-Z])"
)
_SYNONYMS = {
    "leq": r"\le", "leqslant": r"\le", "leqq": r"\le", "lt": "<", "neq": r"\ne",
    "geq": r"\ge", "geqslant": r"\ge", "geqq": r"\ge", "gt": ">", "varnothing": r"\emptyset",
}  # fmt: skip
_SYNONYM = re.compile(rf"\\({'|'.join(_SYNONYMS)})(?![a-zA-Z])")
_THIN_SPACE = re.compile(r"(?<=\d)(?:\\[,!;:]|\{,\}|~|\{ \})(?=\d)")
_SPACING = re.compile(r"(?<!\\)\\[,!;: ]|~|\\(?:quad|qquad|space|enspace)(?![a-zA-Z])")
_MATH_DELIMITER = re.compile(r"\$\$|\\[()\[\]]|(?<!\\)\$")
_DEGREES = re.compile(
    r"\s*\^\s*(?:\\circ|\{\s*(?:\\circ|\\(?:mathrm|text|rm)\s*\{?\s*o\s*\}?|o)\s*\})|\\degree(?![a-zA-Z])|\\deg(?![a-zA-Z])"
)
_TRIGONOMETRY = re.compile(r"\\?(?:sin|cos|tan|cot|sec|csc)(?![a-z])")
_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{(.*)\}\s*[.,]?\s*", re.DOTALL)
_MARKUP = re.compile(r"(?<![\w)])\*{1,3}(?=\S)|(?<=\S)\*{1,3}(?![\w(])|`|^#+ |</?[a-zA-Z]{1,10}>")
_ORNAMENT = re.compile(r"[∎□■✓✔✅☑✨🎉\ufe0f]|\\(?:blacksquare|square|checkmark|qed)(?![a-zA-Z])")
_LEADING = " \t\r\n,;:\"'*_"
_TRAILING = _LEADING + ".!?"


def normalize_unicode(text: str) -> str:
    """Unicode mathematics in its LaTeX or ASCII spelling."""
    text = _COMPATIBILITY.sub(lambda m: unicodedata.normalize("NFKC", m[0]), text)
    text = _DIGIT_GROUPS.sub(",", text)
    text = _VULGAR.sub(_vulgar_fraction, text)
    text = _SIGN_WORD.sub("-", text)
    text = _SUPERSCRIPT_RUN.sub(lambda m: "^{" + "".join(map(_superscript, m[0])) + "}", text)
    text = _ROOT.sub(lambda m: rf"\sqrt{{{m[1] or m[2] or m[3] or ''}}}", text)
    return _SPACES.sub(" ", text).translate(_TRANSLATION)


def normalize_latex(text: str) -> str:
    """One spelling per LaTeX construct; text commands opened, delimiters and sizing dropped."""
    text = _THIN_SPACE.sub(",", text)
    text = _SIZING.sub("", text)
    text = _FRACTION_COMMAND.sub(r"\\frac", text)
    text = _SHORT_FRACTION.sub(r"\\frac{\1\2\3}{\4\5}", text)
    text = _SHORT_ROOT.sub(r"\\sqrt{\1}", text)
    if not _TRIGONOMETRY.search(text):
        text = _DEGREES.sub(" degrees ", text)
    text = _TEXT_COMMAND.sub(r" \1 ", text)
    text = re.sub(r"(?<![\\a-zA-Z])pi(?![a-zA-Z])", r"\\pi ", text)
    text = text.replace(r"\%", "%").replace(r"\$", "$ ").replace(r"\&", "&").replace(r"\#", "#")
    text = _SYNONYM.sub(lambda m: _SYNONYMS[m[1]], text)
    return _SPACING.sub(" ", text)


def normalize_answer(text: str) -> str:
    """An answer's text in one spelling, for reading it as mathematics.

    A final `!` is an end mark here; where it is a factorial, see `normalize_formula`.
    """
    return normalize_formula(text).rstrip(_TRAILING)


def normalize_formula(text: str) -> str:
    """`normalize_answer` of a text that is known to be mathematics, so that `!` is a factorial."""
    text = normalize_unicode(text).strip()
    if box := _BOX.fullmatch(text.strip("$ ")):
        text = box[1]
    text = re.sub(r"(?<=\w)\s*\*\*\s*(?=[\w(-])", "^", text) if text.count("**") == 1 else text
    text = _MARKUP.sub("", _ORNAMENT.sub("", text))
    text = normalize_latex(_MATH_DELIMITER.sub(" ", text))
    return re.sub(r"\s+", " ", text).lstrip(_LEADING).rstrip(_TRAILING.replace("!", ""))


def normalize_words(text: str) -> str:
    """An answer's text for comparison as words: case, spacing, quotes and end marks dropped."""
    text = unicodedata.normalize("NFKC", normalize_answer(text)).casefold()
    text = re.sub(r"[\"'`*_{}\\$]", "", text)
    return re.sub(r"\s+", " ", text).strip(_TRAILING + "()[]")


def _vulgar_fraction(match: re.Match[str]) -> str:
    fraction = unicodedata.normalize("NFKC", match[2]).replace("⁄", "/")
    return f"{match[1]} {fraction}" if match[1] else fraction


def _superscript(char: str) -> str:
    return _SUPERSCRIPTS[char]
