"""The check of a candidate's source: what is allowed, and the line that says what is not."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sar.terms.candidate.errors import CandidateError
from sar.terms.candidate.language import BUILTINS
from sar.terms.candidate.sample import FIELDS
from sar.terms.candidate.source import MAX_SOURCE_CHARS, check_source, iterates_over_sample

ALLOWED = {
    "one line": "def reward(sample): return 1.0 if sample['correct'] else 0.0",
    "a text on top": '"""Pays short answers."""\ndef reward(sample):\n    """Why."""\n    return 1',
    "imports": "import math, re\ndef reward(s):\n    return math.tanh(len(re.findall('a', 'a')))",
    "helpers and constants": (
        "LIMIT: int = 3\nWORDS = ('so', 'thus')\n"
        "def count(text, n=LIMIT):\n    return sum(text.count(w) for w in WORDS) / n\n"
        "def reward(sample):\n    return float(count(sample['response']))"
    ),
    "a local called reward": "def reward(s):\n    reward = 1.0\n    return reward - 0.5",
    "annotations from typing": "def reward(sample: Dict[str, Any]) -> Optional[float]:\n return 1",
    "every statement": (
        "def reward(s):\n    n = 0\n    for i in range(9):\n"
        "        if i == 3:\n            continue\n"
        "        elif i > 7:\n            break\n        while n < i:\n            n += 1\n"
        "    try:\n        n = int('x')\n    except (ValueError, TypeError) as error:\n"
        "        n = len(str(error))\n    else:\n        pass\n    finally:\n        pass\n"
        "    a, *b = [n, {1, 2}, {3: 4}, [j for j in (5, 6) if j], lambda x: -x]\n"
        "    return (c := a) + len(b[1:]) if a and not b == [] else f'{n:.2f}'"
    ),
    "the sample as a dictionary": (
        "def reward(s):\n    return len(s.get('response', '')) + len(s.keys()) + s['sar']"
    ),
}
REFUSED = {
    "def reward(s):\n    return open('x')": "line 2: 'open' is not allowed; there are no files",
    "def reward(s):\n\n    return eval('1')": "line 3: 'eval' is not allowed; read numbers",
    "import os\ndef reward(s): return 1": "line 1: `import os` is not allowed; only `import math`",
    "import os.path\ndef reward(s): return 1": "line 1: `import os.path` is not allowed",
    "from math import log\ndef reward(s): return 1": (
        "line 1: `from ... import` is not allowed; write `import math` and `math.log`"
    ),
    "from re import *\ndef reward(s): return 1": (
        "line 1: `from ... import` is not allowed; write `import re`"
    ),
    "from collections import Counter\ndef reward(s): return 1": (
        "line 1: `from ... import` is not allowed; only math and re can be imported"
    ),
    "from . import x\ndef reward(s): return 1": "only math and re can be imported",
    "import math as m\ndef reward(s): return 1": "line 1: write `import math`, without `as`",
    "def reward(s):\n    import sys\n    return 1": "line 2: `import sys` is not allowed",
    "def reward(s): return math.pi": "line 1: 'math' is not imported; write `import math`",
    "def reward(s): return ().__class__": "line 1: '__class__' is not allowed; it starts with _",
    "def reward(s): return s._x": "line 1: '_x' is not allowed",
    "def reward(s): return __name__": "line 1: '__name__' is not allowed",
    "def reward(s):\n    __x = 1\n    return __x": "line 2: a name cannot start with __",
    "class A: pass\ndef reward(s): return 1": "line 1: a class is not allowed; use functions",
    "def reward(s):\n    yield 1": "line 2: `yield` is not allowed; build a list",
    "async def reward(s): return 1": "line 1: an async function is not allowed",
    "def reward(s):\n    with s: return 1": "line 2: `with` is not allowed",
    "def reward(s):\n    global x\n    return 1": "line 2: `global` is not allowed; pass values",
    "def reward(s):\n    raise ValueError": "line 2: `raise` is not allowed; return a number",
    "def reward(s):\n    assert s\n    return 1": "line 2: `assert` is not allowed",
    "def reward(s):\n    del s\n    return 1": "line 2: `del` is not allowed",
    "def reward(s):\n    match s:\n        case _: return 1": "line 2: `match` is not allowed",
    "@abs\ndef reward(s): return 1": "a decorator is not allowed",
    "def reward(s):\n    s['sar'] = 1\n    return 1": "line 2: the sample cannot be changed",
    "def reward(s):\n    s.x = 1\n    return 1": "line 2: an attribute cannot be set",
    "def reward(s): return s['reponse']": "line 1: the sample has no 'reponse'; did you mean 'resp",
    "def reward(s): return s[0]": "line 1: the sample has no 0; it has prompt, response, label",
    "def reward(s):\n return s.get('correctness', 0)": (
        "line 2: the sample has no 'correctness'; did you mean 'correct'?"
    ),
    "def reward(s): return s.response": "line 1: the sample is a dictionary: write s['response']",
    "def reward(s): return s.pop('sar')": "line 1: the sample has no 'pop'",
    "def reward(s): return lenn('a')": "line 1: 'lenn' is not defined; did you mean 'len'?",
    "def reward(s): print(1); return 1": "line 1: 'print' is not allowed; return the number",
    "def reward(s) return 1": "line 1: not Python: expected ':'",
    "```python\ndef reward(s): return 1\n```": "line 1: Markdown, not Python; remove the ``` lines",
    "def reward(s): return 1\n```\n": "line 2: Markdown, not Python; remove the ``` lines",
    "# One\n\nHere is a reward:\ndef reward(s): return 1": (
        "line 3: not Python: invalid syntax; the file must hold code only"
    ),
    "def reward(s):\nreturn 1": "line 2: not Python: expected an indented block",
    "": "there is no `def reward(sample):`",
    "def score(s): return 1": "there is no `def reward(sample):`",
    "def f():\n    def reward(s): return 1": "there is no `def reward(sample):`",
    "def reward(s): return 1\ndef reward(s): return 2": "line 2: 'reward' is defined twice",
    "def reward(s): return 1\nreward = 2": (
        "line 2: 'reward' must be a function; name this another way"
    ),
    "reward = lambda s: 1": (
        "line 1: 'reward' must be a function; write `def reward(sample):` instead of an assignment"
    ),
    "def reward(s): return 1\nif __name__ == '__main__':\n    reward({})": (
        "stand outside functions; remove this block"
    ),
    "def reward(): return 1": "line 1: write `def reward(sample):`, with one parameter alone",
    "def reward(s, t): return 1": "line 1: write `def reward(sample):`, with one",
    "def reward(*s): return 1": "line 1: write `def reward(sample):`, with one",
    "def reward(s, *, t=1): return 1": "line 1: write `def reward(sample):`, with one",
    "def reward(s={}): return 1": "line 1: write `def reward(sample):`, with one",
    "for i in range(9): pass\ndef reward(s): return 1": "line 1: only functions, constants",
    "len('a')\ndef reward(s): return 1": "line 1: only functions, constants",
    "def reward(s): return 1\0": "not Python: source code string cannot contain null bytes",
    "def reward(s): return '\ud800'": "not a text: it has half of a surrogate pair",
    "def reward(s): return " + "9" * 5000: "line 1: not Python",
    "#" * (MAX_SOURCE_CHARS + 1): "10,001 characters; at most 10,000 are allowed",
}


@pytest.mark.parametrize("source", ALLOWED.values(), ids=ALLOWED)
def test_what_is_allowed(source: str) -> None:
    check_source(source)


@pytest.mark.parametrize(("source", "message"), REFUSED.items(), ids=range(len(REFUSED)))
def test_what_is_refused(source: str, message: str) -> None:
    with pytest.raises(CandidateError) as caught:
        check_source(source)
    assert str(caught.value).startswith(message) or message in str(caught.value)
    assert caught.value.fault == "source"
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", sorted(BUILTINS))
def test_every_built_in_name_may_be_used(name: str) -> None:
    check_source(f"def reward(sample):\n    return {name}")


@pytest.mark.parametrize("field", FIELDS)
def test_every_field_may_be_read(field: str) -> None:
    check_source(f"def reward(sample):\n    return sample['{field}']")


def test_a_name_in_another_script_is_the_name_that_python_reads() -> None:
    with pytest.raises(CandidateError, match="line 1: 'eval' is not allowed"):
        check_source("def reward(s): return ｅｖａｌ('1')")


@given(st.text(max_size=300))
def test_any_text_is_refused_or_allowed(source: str) -> None:
    _try(source)


_PIECES = st.sampled_from(
    [
        *("def reward(s):\n ", "return ", "s", "['sar']", "(", ")", "[", "]", "{", "}", ":", ".a"),
        *(
            "\n  ",
            " if ",
            " else ",
            "for i in ",
            "lambda x: ",
            "import ",
            "math",
            "os",
            "._x",
            ".a",
        ),
        *("f'{", "}'", "'", '"""', "\\", "#", "*", "**", "=", ":=", "@", "~", "not ", "9", "1e999"),
        *("try:", "except", "class A", "yield", "await ", "async ", "global x", "\t", "\f", "\x00"),
    ]
)


@given(st.lists(_PIECES, max_size=60).map("".join))
def test_any_pieces_of_python_are_refused_or_allowed(source: str) -> None:
    _try(source)


def _try(source: str) -> None:
    message = ""
    try:
        check_source(source)
    except CandidateError as error:
        message = str(error)
    assert "\n" not in message
    assert len(message) < 500


@pytest.mark.parametrize(
    "source", ["def reward(s) return 1", "x = = 1", "def reward(s):\n    return 1\nSo it is."]
)
def test_a_slip_in_code_is_not_taken_for_prose(source: str) -> None:
    with pytest.raises(CandidateError, match="not Python") as caught:
        check_source(source)
    assert "code only" not in str(caught.value)


def test_deep_nesting_ends_no_process() -> None:
    """The deepest sources that the length allows, in a process of their own."""
    program = """
import sys
from sar.terms.candidate.errors import CandidateError
from sar.terms.candidate.source import MAX_SOURCE_CHARS, check_source

for before, middle, after in (
    ("(", "1", ")"), ("[", "", "]"), ("{1:", "1", "}"), ("-", "1", ""), ("not ", "1", ""),
    ("1+", "1", ""), ("2**", "1", ""), ("a", "", ".b"), ("", "a", "()"), ("", "a", "[0]"),
    ("lambda:", "1", ""), ("1 if 1 else ", "1", ""), ("1<", "1", ""), ("a=", "1", ""),
    ("f'{", "", ""), ("(a:=", "1", ")"), ("[i for i in ", "a", "]"), ("@a\\n", "def f(): 0", ""),
):
    times = (MAX_SOURCE_CHARS - 100) // len(before + after)
    try:
        check_source("def reward(s): return " + before * times + middle + after * times)
    except CandidateError as error:
        print(str(error)[:60])
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert "nested too deeply" in ran.stdout


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("expression", ["1and 2", "len('\\d')"])
def test_what_python_only_warns_of_is_accepted_in_silence(expression: str) -> None:
    source = f"def reward(sample):\n    return {expression}\n"
    check_source(source)
    assert not iterates_over_sample(source)
