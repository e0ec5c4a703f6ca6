"""Calls of a candidate: the same numbers as Python's, and what is no reward."""

from __future__ import annotations

import inspect
import math
import re
import textwrap
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sar.terms.candidate.batch import ProbeBatch
from sar.terms.candidate.errors import CandidateError
from sar.terms.candidate.runner import CandidateRunner, check_reward
from sar.terms.candidate.sample import PlainSample
from sar.terms.candidate.sandbox import Limits


def _lengths(sample: PlainSample) -> float:
    target = 120
    tokens = sample["response_tokens"]
    over = max(0, tokens - target) / target
    return (1.0 if sample["correct"] else -0.5) - 0.2 * math.tanh(over) + 0.01 * math.log1p(tokens)


def _words(sample: PlainSample) -> float:
    words = sample["response"].lower().split()
    if not words:
        return -1.0
    seen: dict[str, int] = {}
    for word in words:
        seen[word] = seen.get(word, 0) + 1
    most = sorted(seen.items(), key=lambda pair: (-pair[1], pair[0]))[:3]
    return min(1.0, sum(count for _, count in most) / len(words)) - len(set(words)) / len(words)


def _patterns(sample: PlainSample) -> float:
    text = sample["response"]
    boxed = re.search(r"\\boxed\{([^}]*)\}", text)
    numbers = [float(one) for one in re.findall(r"(?<![0-9.])-?[0-9]{1,9}(?:[.][0-9]{1,9})?", text)]
    is_label = bool(numbers) and f"{numbers[-1]:g}" == sample["label"]
    steps = len([line for line in text.splitlines() if line.strip()])
    return 0.5 * is_label + (0.3 if boxed else 0.0) - 0.01 * min(steps, 50)


def _likelihoods(sample: PlainSample) -> float:
    gain = math.log(sample["ppl_a"]) - math.log(sample["ppl_qa"])
    clipped = max(-1.0, min(1.0, sample["sar"]))
    text, prompt = sample["response"], sample["prompt"]
    shared = sum(1 for i in range(0, len(text) - 8, 4) if text[i : i + 8] in prompt)
    return clipped + 0.1 * math.tanh(gain) - 0.01 * (shared % 7) + 0.001 * (len(text.strip()) % 5)


@pytest.mark.parametrize("function", [_lengths, _words, _patterns, _likelihoods])
def test_rewards_are_those_of_python(
    function: Callable[[PlainSample], float], batch: ProbeBatch
) -> None:
    """On all rollouts of the battery and on hostile texts: two interpreters, the same numbers."""
    lines = textwrap.dedent(inspect.getsource(function))
    source = lines.replace(f"def {function.__name__}", "def reward")
    runner = CandidateRunner(f"import math\nimport re\n{source}")
    samples = [one.sample for one in batch]
    assert runner.score_all(samples) == pytest.approx([function(one) for one in samples], abs=1e-12)
    assert len(samples) > 100


RESULTS = {
    "0.5": 0.5,
    "-10": -10.0,
    "10.0": 10.0,
    "3": 3.0,
    "True": "a bool; write 1.0 if ... else 0.0",
    "s['correct']": "a bool",
    "None": "nothing; return a float on every path",
    "'1'": "the text '1'; return a float on every path",
    "[1.0]": "list, which is no number",
    "(1.0, 2.0)": "which is no number",
    "{'reward': 1.0}": "which is no number",
    "1j": "which is no number",
    "reward": "return a float on every path",
    "len": "return a float on every path",
    "float('nan')": "nan, not a finite number",
    "float('inf')": "inf, not a finite number",
    "-1e999": "-inf, not a finite number",
    "10.5": "10.5; it must lie between -10 and 10",
    "-11": "-11; it must lie between -10 and 10",
    "10**400": "it must lie between -10 and 10",
    "2**20000": "it must lie between -10 and 10",
    "[[0] * 1000] * 1000": "which is no number",
    "'x' * 1000000": "the text 'xxx",
}


@pytest.mark.parametrize(("expression", "expected"), RESULTS.items(), ids=range(len(RESULTS)))
def test_results(expression: str, expected: float | str, sample: PlainSample) -> None:
    runner = CandidateRunner(f"def reward(s): return {expression}")
    if isinstance(expected, float):
        got = runner.score(sample)
        assert type(got) is float
        assert got == expected
        return
    with pytest.raises(CandidateError) as caught:
        runner.score(sample)
    assert caught.value.fault == "result"
    assert expected in str(caught.value)
    assert str(caught.value).startswith("reward returned ")
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "body",
    [
        "x = []\n    for i in range(20000): x = [x]\n    return x",
        "x = [1] * 10\n    for i in range(12): x = [x] * 10\n    return x",
        "x = []\n    x.append(x)\n    return x",
        "x = {}\n    x['x'] = x\n    return x",
        "return list(range(200000))",
        "return 'a' * 10**7",
        "return lambda: 0",
    ],
    ids=range(7),
)
def test_results_that_are_hard_to_take_over(body: str, sample: PlainSample) -> None:
    with pytest.raises(CandidateError) as caught:
        CandidateRunner(f"def reward(s):\n    {body}").score(sample)
    assert caught.value.fault in ("result", "memory", "crash")
    assert len(str(caught.value)) < 300


def test_the_bounds_are_those_of_the_limits(sample: PlainSample) -> None:
    runner = CandidateRunner("def reward(s): return 50", Limits(max_abs=100.0))
    assert runner.score(sample) == 50.0


def test_time_and_memory_are_those_of_the_limits(sample: PlainSample) -> None:
    source = "def reward(s): return float(len('a' * 10**7) == 10**7)"
    assert CandidateRunner(source).score(sample) == 1.0
    with pytest.raises(CandidateError, match="more than 1 MiB of memory"):
        CandidateRunner(source, Limits(memory_bytes=2**20)).score(sample)
    long = "def reward(s):\n    t = 0\n    for i in range(3 * 10**6): t += 1\n    return 1.0"
    assert CandidateRunner(long, Limits(call_s=30.0)).score(sample) == 1.0
    with pytest.raises(CandidateError, match=r"took longer than 0\.005 s"):
        CandidateRunner(long, Limits(call_s=0.005)).score(sample)


def test_what_fails_is_named_with_its_line(sample: PlainSample) -> None:
    runner = CandidateRunner(
        "def half(x):\n    return x / 0\n\ndef reward(s):\n    y = 1\n    return half(y)"
    )
    with pytest.raises(CandidateError) as caught:
        runner.score(sample)
    assert str(caught.value) == "line 2: ZeroDivisionError: division by zero"
    assert caught.value.fault == "raised"


def test_half_a_surrogate_pair_becomes_a_question_mark(sample: PlainSample) -> None:
    own: PlainSample = {**sample, "response": "a\ud800b", "prompt": "\U0001f600\x00"}
    runner = CandidateRunner(
        "def reward(s): return float(s['response'] == 'a?b') + len(s['prompt'])"
    )
    assert runner.score(own) == 3.0


def test_every_field_arrives(sample: PlainSample) -> None:
    names = ("prompt", "response", "label", "correct", "response_tokens", "ppl_qa", "ppl_a", "sar")
    for name in names:
        source = f"def reward(s): return float(s[{name!r}] == {sample[name]!r})"  # type: ignore[literal-required]
        assert CandidateRunner(source).score(sample) == 1.0
    assert CandidateRunner("def reward(s): return len(s)").score(sample) == len(names)


@given(
    st.one_of(st.integers(), st.floats(), st.booleans(), st.text(), st.none(), st.lists(st.none()))
)
def test_any_value_is_a_reward_or_refused(value: object) -> None:
    outcome: object
    try:
        outcome = check_reward(value, 10.0)
    except CandidateError:
        outcome = None
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    assert (outcome is not None) == (is_number and -10 <= value <= 10)  # type: ignore[operator]


_WORDS = st.sampled_from(
    [
        *(
            "s['sar']",
            "s['response']",
            "s['correct']",
            "len(",
            ")",
            " + ",
            " * ",
            " - ",
            " / ",
            "1",
        ),
        *(
            "0.5",
            "'a'",
            "[",
            "]",
            ", ",
            " if ",
            " else ",
            " for x in ",
            "x",
            "range(9)",
            "**",
            "99",
        ),
        *(
            "str(",
            "float(",
            "max(",
            "sorted(",
            ".split()",
            "(lambda x: x)(",
            "{",
            "}",
            " in ",
            "not ",
        ),
    ]
)


@settings(max_examples=300)
@given(st.lists(_WORDS, min_size=1, max_size=12).map("".join))
def test_any_expression_is_a_reward_or_the_candidates_fault(expression: str) -> None:
    sample: PlainSample = {
        "prompt": "p",
        "response": "a b",
        "label": "1",
        "correct": True,
        "response_tokens": 2,
        "ppl_qa": 1.0,
        "ppl_a": 1.0,
        "sar": 0.0,
    }
    outcome: object
    try:
        outcome = CandidateRunner(f"def reward(s): return {expression}").score(sample)
    except CandidateError as error:
        outcome = error.fault
    assert isinstance(outcome, float) or outcome in ("source", "raised", "result", "time", "memory")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (
            "for one in s:\n        if one['correct']: return 1.0",
            "line 3: TypeError: .*; the argument is one rollout, a dictionary, not a list$",
        ),
        (
            "return sum(1.0 for one in s if one['correct'])",
            "one rollout, a dictionary, not a list$",
        ),
        ("return s['response']['a']", "^line 2: TypeError: [^;]*$"),
        (
            "return len(s['response'].translate({}))",
            "^line 2: the sandbox's str has no 'translate'; methods that it has can only be called",
        ),
        (
            "return len(sorted(s['response'], key=str.lower))",
            "^line 2: the sandbox's str has no 'lower'",
        ),
        ("return s['response'].nosuch()", "^line 2: AttributeError: 'str' object has no attr"),
    ],
)
def test_what_a_failed_call_says(code: str, message: str, sample: PlainSample) -> None:
    runner = CandidateRunner(f"def reward(s):\n    {code}")
    with pytest.raises(CandidateError, match=message):
        runner.score(sample)
