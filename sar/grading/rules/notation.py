"""Rewrites notations of sets, vectors and families of solutions into plainer ones.

`\\{x \\mid x > 2\\}` becomes `x > 2`, a system of equations a list, `\\langle 1, 2 \\rangle` a
tuple, and `x = k\\pi, k \\in \\mathbb{Z}` its first part. The bound variable of an answer gets the
label's name.
"""

from __future__ import annotations

import re

# `\{x \in \mathbb{R} \mid x > 2\}`, `\{(x, y) : x = y\}`.
_SET_BUILDER = re.compile(
    r"\\\{\s*(?:[a-zA-Z]|\(\s*[a-zA-Z](?:\s*,\s*[a-zA-Z])+\s*\))\s*(?:\\in\s*\\mathbb\s*\{?\s*R\s*\}?\s*)?"
    r"(?:\\mid|\\vert|\||:)\s*(.*?)\s*\\\}"
)
# `, k \in \mathbb{Z}`, `(k \in Z)`, `for integer k`, `where n is an integer`.
_INTEGERS = r"(?:integers?|whole numbers?|natural numbers?|positive integers?)"
_QUANTIFIER = re.compile(
    r"\s*[,;]?\s*\(?\s*(?:(?:for|where|with)?\s*(?:any |all |every |some |each )?"
    rf"(?:([a-zA-Z])\s*\\in\s*(?:\\mathbb\s*\{{?\s*)?[ZN]\}}?(?:\s*\^\s*[+*])?|{_INTEGERS}\s+([a-zA-Z])"
    rf"|([a-zA-Z])\s+is\s+an?\s+{_INTEGERS}|([a-zA-Z])\s+an?\s+{_INTEGERS}))\s*\)?\s*$"
)
# `\left\{\begin{array}{l} x = 2 \\ y = -1 \end{array}\right.`; the array is already a pmatrix.
_SYSTEM = re.compile(
    r"(?:\\\{\s*\\begin\{(?:pmatrix|aligned)\}|\\begin\{cases\})([^&]*?)\\end\{(?:pmatrix|aligned|cases)\}\s*\.?"
)
_ANGLES = re.compile(r"\\langle\s*(.*?)\s*\\rangle")
_VECTOR = re.compile(r"\\(?:overrightarrow|vec)\s*(?:\{\s*(\w+)\s*\}|([a-zA-Z]))")
# `f(t) = `: a function of one variable.
_FUNCTION = re.compile(r"\s*([a-zA-Z])\s*\(\s*([a-zA-Z])\s*\)\s*=")


def rewrite_notation(text: str) -> str:
    """Rewrites the notation of one normalised label or answer, without its quantifier."""
    if "\\" not in text and " " not in text:
        return text
    text = _ANGLES.sub(r"(\1)", _VECTOR.sub(lambda m: rf"\vec{{{m[1] or m[2]}}}", text))
    if (system := _SYSTEM.fullmatch(text)) and "=" in system[1]:
        text = ", ".join(filter(None, map(str.strip, system[1].split(r"\\"))))
    if builder := _SET_BUILDER.fullmatch(text):
        text = builder[1]
    return _QUANTIFIER.sub("", text)


def align_variables(label: str, answer: str) -> str:
    """Gives the answer's bound variable the label's name: `n` in `n\\pi, n \\in \\mathbb{Z}`.

    The same for the argument of a function: `f(t) = 2t` for the label `f(x) = 2x`.
    """
    wanted, given = _QUANTIFIER.search(label), _QUANTIFIER.search(answer)
    if wanted and given:
        old, new = (next(filter(None, match.groups())) for match in (given, wanted))
        return _rename(answer, old, new)
    functions = _FUNCTION.match(label), _FUNCTION.match(answer)
    if functions[0] and functions[1] and functions[0][1] == functions[1][1]:
        return _rename(answer, functions[1][2], functions[0][2])
    return answer


def _rename(text: str, old: str, new: str) -> str:
    if re.search(rf"(?<![a-zA-Z\\]){new}(?![a-zA-Z])", text):
        return text  # the new name already stands for something else
    return re.sub(rf"(?<![a-zA-Z\\]){old}(?![a-zA-Z])", new, text)
