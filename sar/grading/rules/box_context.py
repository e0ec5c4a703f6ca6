"""Reads the formula around a box: `-\\boxed{5}` says -5, and `\\boxed{5}\\pi` says 5\\pi.

A box that is an operand of a formula is not the answer by itself. So the box is opened, and the
formula around it is the answer. Units and punctuation after a box, and all up to an equals sign or
a word before it, are no part of that formula.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_RELATIONS = (
    r"approx|sim|simeq|equiv|cong|to|in|therefore|because|mapsto|iff|implies|impliedby|leadsto"
    r"|(?:[Ll]ong)?(?:[Ll]eft)?[Rr]ightarrow|(?:[Ll]ong)?[Ll]eftarrow"
)
_DECORATIONS = (
    r"displaystyle|textstyle|large|Large|LARGE|huge|Huge|bf|bold|boldsymbol|star|bigstar|bullet"
    r"|blacksquare|square|checkmark|qed|hfill|newline|noindent|centering|smiley|left|right"
    r"|[bB]igg?[lr]?|q?quad|thinspace|enspace|nonumber|notag|pmod"
)
# A group of text, a color, a tag, a space of some width: no operand.
_TEXT_GROUP = (
    r"\\(?:text\w*|math(?:rm|bf|it|sf)|mbox|hbox|operatorname|tag\*?|label|color|textcolor|hspace"
    r"|vspace|begin|end|phantom)\s*\{[^{}]*\}"
)
_SPACING = r"(?:\s|~|\\[,;:!> ]|\{\})"
# What a formula before a box starts after: a math delimiter, an equals sign, an arrow, a word.
_FORMULA_START = re.compile(
    rf"\\[(\[)\]]|\$|{_TEXT_GROUP}|\\(?:{_RELATIONS}|{_DECORATIONS})(?![a-zA-Z])|\\\\|=>|[-=]+>|[=:,;&→⇒•]"
    r"|(?<![\\a-zA-Z])[a-zA-Z]{2,}(?:'[a-z]+)?|(?<![\\\w])[aAI](?=\s)|(?<!\d)[.?!](?!\d)"
)
# Commands that only format their argument: the brace before a box in `\textbf{\boxed{5}}`.
_FORMAT_OPEN = re.compile(
    r"(?:\\(?:text\w*|math(?:bf|rm|it|sf)|bm|bf|boldsymbol|underline|underbrace|overbrace|mbox"
    r"|ensuremath|boxed|fbox)\s*\{|\{)+\Z"
)
_LEFT_MARKUP = re.compile(rf"(?:{_SPACING}|[*_#>\"'(\[\u201c])+|\\\$")
_RIGHT_END = re.compile(
    rf"\\[)\]]|\$|\n|\\\\|[=,;&]|\\(?:{_RELATIONS}|{_DECORATIONS}|tag|label|end)(?![a-zA-Z])"
    r"|[.?:](?=\s|$)|!(?=\s+[A-Z])"
)
# After a box, and no operand: a unit, degrees, percent, closing brackets, punctuation.
_UNIT = re.compile(
    rf"(?:{_SPACING}|{_TEXT_GROUP}(?:\s*\^\s*\{{?[23]\}}?)?|\^\s*(?:\\circ|\{{\s*\\circ\s*\}})|°"
    r"|\\%|%|[})\]*'\"]|\.(?!\d))+"
)
_OPERAND = re.compile(r"\\[a-zA-Z]|[\d{^_]|\.\d")
_OPERAND_IN_FORMULA = re.compile(r"[a-zA-Z](?![a-zA-Z])|[-+*/!|]|\((?!\\text|[a-zA-Z]{2})")
_UNSTATED = re.compile(r"\\(?:n?eq?|not|l[et]q?|g[et]q?|leqslant|geqslant)(?![a-zA-Z])|[<>≠≤≥]")
_SIMPLE = re.compile(r"\d[\d,]*(?:\.\d+)?|[a-zA-Z]|\\[a-zA-Z]+(?:\{[^{}]*\})*")
_SUM = re.compile(r"[^{^_]\s*(?:[-+]|\\(?:pm|mp|cdot|times)(?![a-z]))")


_LATEX_SPACE = re.compile(r"\\[,;:!>]")
# `74 = \\boxed{73}`: two numbers. A calculation before the box, `70 + 4 =`, is none.
_EQUATED = re.compile(r"(?:\A|[=$({])\s*(-?\d[\d,]*(?:\.\d+)?)\s*=\s*\Z")
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


@dataclass(frozen=True)
class OpenedBox:
    """The formula that a box is an operand of, and the text before and after it."""

    formula: str
    """Empty if the formula states no value: `x \\ne \\boxed{5}`, `1\\boxed{5}`."""
    before: str
    after: str


def open_box(before: str, content: str, after: str) -> OpenedBox | None:
    """Returns the formula that a box stands in, or None if the box stands for itself.

    Args:
        before: the part of its sentence before the box.
        after: the text after the box, from its closing brace. `\\boxed5` has none.
    """
    before, after = (_LATEX_SPACE.sub("  ", text) for text in (before, after))
    if (equated := _EQUATED.search(before)) and _NUMBER.fullmatch(content):
        return OpenedBox(f"{equated[1]} = {content}", before[: equated.start(1)], after)
    is_bare, after = not after.startswith("}"), after.removeprefix("}")
    in_formula = _is_in_formula(before, after) or (is_bare and after.startswith("!"))
    starts = list(_FORMULA_START.finditer(before))
    start = starts[-1].end() if starts else 0
    left = _LEFT_MARKUP.sub(" ", _FORMAT_OPEN.sub("", before[start:].rstrip())).strip()
    if not (in_formula or re.search(r"\\[a-zA-Z]", left) or left == "-"):
        left = ""
    end = _RIGHT_END.search(after)
    right = after[: end.start() if end else len(after)]
    if not left and not _is_operand(right, in_formula):
        return None
    is_stated = "," not in content and not _UNSTATED.search(left) and "=" not in content
    if not is_stated or re.search(r"\d\Z", left) or re.match(r"\.?\d|\{", right):
        return OpenedBox("", before[:start], after[len(right) :])
    is_simple = _SIMPLE.fullmatch(content) is not None
    if not is_simple and (_SUM.search(content) or right.lstrip().startswith(("^", "!"))):
        content = f"({content})"
    return OpenedBox(f"{left} {content}{right}", before[:start], after[len(right) :])


def _is_operand(right: str, in_formula: bool) -> bool:
    """Whether the text after a box goes on with an operator, a factor or an index."""
    unit = _UNIT.match(right)
    position = unit.end() if unit else 0
    if unit and re.search(r"[a-zA-Z]", unit[0].replace("circ", "")):
        return False
    if _OPERAND.match(right, position):
        return True
    return in_formula and _OPERAND_IN_FORMULA.match(right, position) is not None


def _is_in_formula(before: str, after: str) -> bool:
    """Whether a box stands between math delimiters."""
    if before.replace(r"\$", "").replace("$$", "$").count("$") % 2:
        return True
    brackets = re.compile(r"\\[()\[\]]")
    opened = brackets.findall(before)[-1:] in ([r"\("], [r"\["])
    return opened or brackets.findall(after)[:1] in ([r"\)"], [r"\]"])
