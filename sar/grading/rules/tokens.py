"""Checks that the parser will read every character of an expression, and writes it in its dialect.

The parser ignores what it does not know in some places, and guesses in others: it reads `2 3` and
`2(3)` as the mixed number 5. So an expression that has any unknown part is not read at all.
"""

from __future__ import annotations

import re

_MAX_CHARS = 400

_FUNCTIONS = frozenset(
    "sin cos tan cot sec csc arcsin arccos arctan arccot arcsec arccsc sinh cosh tanh arsinh arcosh "  # noqa: SIM905, E501
    "artanh arcsinh arccosh arctanh ln log exp max min gcd lcm det".split()
)
_COMMANDS = _FUNCTIONS | frozenset(
    "frac binom sqrt times cdot div pm mp le ge ne lt gt in cup cap setminus emptyset infty lfloor "  # noqa: SIM905
    "rfloor lceil rceil lvert rvert vert sum prod int lim to partial angle prime overline bar hat "
    "vec hbar circ mathbb ell pi alpha beta gamma delta Delta epsilon varepsilon zeta eta theta "
    "Theta vartheta iota kappa lambda Lambda mu nu xi Xi rho sigma Sigma tau upsilon phi Phi "
    "varphi chi psi Psi omega Omega".split()
)
_ENVIRONMENT = r"\\(?:begin|end)\{(?:[pbv]?matrix|array)\}"
_TOKEN = re.compile(
    rf"\s+|\d+(?:\.\d+)?|\.\d+|{_ENVIRONMENT}|\\([a-zA-Z]+)|\\\\|\\[{{}}|]|[a-zA-Z]+|[+\-*/^_(){{}}\[\]|<>=,!&%:]"
)
# A word, and not a product of variables such as `xyz`.
_MAX_LETTERS = 3

# `sin x`, `sqrt(2)`: a function without its backslash.
_PLAIN_FUNCTION = re.compile(
    rf"(?<![\\a-zA-Z])({'|'.join(sorted(_FUNCTIONS, key=len)[::-1])})(?![a-z])"
)
_PLAIN_ROOT = re.compile(r"(?<![\\a-zA-Z])sqrt\s*(?:\(([^()]*)\)|(\d+|[a-z](?![a-z])))")
# `\sqrt(2)`; `x^(1/2)`.
_ROUND_ROOT = re.compile(r"\\sqrt\s*\(([^()]*)\)")
_ROUND_POWER = re.compile(r"\^\s*\(([^()]*)\)")
_OVERDOT = re.compile(r"\\(d?dot)\s*\{?\s*([a-zA-Z])\s*\}?")
# `1e-5`: a number in scientific notation, not a product with the constant e.
_E_NOTATION = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?|\.\d+)[eE]([+-]?\d+)(?![\w.])")
# `3.` in `3./2`.
_BARE_POINT = re.compile(r"(?<=\d)\.(?!\d)")
# Before a bracket, a number multiplies: the parser would add, as in a mixed number.
_FACTOR = re.compile(r"(?<![\w\\.^_}])(\d+(?:\.\d+)?|\.\d+)\s*(?=[(\[{]|\\lfloor|\\lceil)")
# `\log_23` is the logarithm of 3 to the base 2.
_SHORT_BASE = re.compile(r"\\log\s*_\s*(\d)")
_SUBSCRIPT = re.compile(r"_\s*(\d+)")
# A number before an improper fraction multiplies: the parser would add.
_IMPROPER = re.compile(r"(\d)\s*(?=\\frac\s*\{\s*(\d+)\s*\}\s*\{\s*(\d+)\s*\})")
# What the parser drops, or computes: the base of `73_8`, the transposition in `A^T`, the evaluation
# bar of `x^3|_{x=2}`.
_DROPPED = re.compile(r"\d\s*_|\^\s*\{?\s*T(?![a-zA-Z])|\|\s*(?:_|\^\s*\{[^{}]*\}\s*_)")
# The parser reads I as the imaginary unit; it is a variable, such as a current.
_CAPITAL_I = re.compile(r"(\\[a-zA-Z]+)|I(?!\s*[_(])")
# Two numbers in a row have no meaning; the parser would add them.
_TWO_NUMBERS = re.compile(r"[\d.]\s+[\d.]")
# The derivative `y'`, `y^{\prime}`, `\dot y`, `\frac{dy}{dx}`, `\frac{d^2 y}{dx^2}`, `y'(t)`.
_PRIMED = re.compile(
    r"([a-zA-Z])\s*(?:('{1,3})|\^\s*\{?\s*((?:\\prime\s*){1,3})\}?)(?:\s*\(\s*[a-z]\s*\))?"
)
_LEIBNIZ = re.compile(
    r"\\frac\s*\{\s*d\s*(?:\^\s*\{?(\d)\}?)?\s*([a-zA-Z])\s*\}\s*\{\s*d\s*([a-zA-Z])\s*(?:\^\s*\{?\1\}?)?\s*\}"
)


def prepare_expression(text: str) -> str | None:
    """Writes a normalised expression as the parser wants it; None if it has an unknown part."""
    if not text or len(text) > _MAX_CHARS:
        return None
    text = _name_derivatives(text)
    text = _PLAIN_ROOT.sub(lambda m: rf"\sqrt{{{m[1] or m[2]}}}", text)
    text = _PLAIN_FUNCTION.sub(r"\\\1 ", text)
    text = _ROUND_ROOT.sub(r"\\sqrt{\1}", text)
    text = _ROUND_POWER.sub(r"^{\1}", text)
    text = _E_NOTATION.sub(r"\1 \\times 10^{\2}", text)
    text = _FACTOR.sub(r"\1 \\cdot ", _BARE_POINT.sub("", text))
    text = _IMPROPER.sub(lambda m: m[1] + (r" \cdot " if int(m[2]) >= int(m[3]) else ""), text)
    text = _SUBSCRIPT.sub(r"_{\1}", _SHORT_BASE.sub(r"\\log_{\1} ", text))
    text = _CAPITAL_I.sub(lambda m: m[1] or r" \Xi_{1} ", text)
    if not _is_known(text) or _TWO_NUMBERS.search(text) or _DROPPED.search(text):
        return None
    return text


def list_commands(prepared: str) -> frozenset[str]:
    """Returns the names of the commands in a prepared expression, and of its environments."""
    names = {match[1] for match in _TOKEN.finditer(prepared) if match[1]}
    return frozenset(names | set(re.findall(r"\\begin\{(\w+)\}", prepared)))


def _is_known(text: str) -> bool:
    position = 0
    while position < len(text):
        token = _TOKEN.match(text, position)
        if token is None or (token[1] and token[1] not in _COMMANDS):
            return False
        if token[0][0].isalpha() and len(token[0]) > _MAX_LETTERS:
            return False
        position = token.end()
    return True


def _name_derivatives(text: str) -> str:
    """Replaces each derivative by one symbol, so that equations of derivatives can be compared."""
    text = _LEIBNIZ.sub(lambda m: _name_derivative(m[2], int(m[1] or 1)), text)
    text = _OVERDOT.sub(lambda m: _name_derivative(m[2], len(m[1]) - 2), text)
    return _PRIMED.sub(
        lambda m: _name_derivative(m[1], len(m[2]) if m[2] else m[3].count("p")), text
    )


def _name_derivative(function: str, order: int) -> str:
    return f" {function}_{{{'D' * order}}} "
