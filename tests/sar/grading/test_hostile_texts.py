"""Texts and labels that could hang a grader, fill its memory or crash it.

Each gets a verdict in time, and the pool then grades the next text correctly.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from sar.grading.label import parse_label
from sar.grading.processes.pool import GraderPool
from sar.grading.verdict import Reason

TIMEOUT_S = 1.0
GRACE_S = 30.0  # for a busy machine
NUM_WORKERS = 2
MEGABYTE = 1_000_000

MATH = parse_label("5")
LABELS = {
    "math": MATH,
    "choice": parse_label({"answer": "B", "choices": ["the red one", "the blue one", "Lisbon"]}),
    "boolean": parse_label("true"),
    "exact": parse_label("Lisbon"),
}

# Short texts that may take very long to evaluate. The first one exceeds the time limit.
BOMB = r"So it is \boxed{\binom{99999999999}{49999999999}}."
EXPLOSIVE = [
    BOMB,
    r"\boxed{((99999!)!)!}",
    "The answer is 9^{9^{9^9}}",
    r"\boxed{7 \mod 10^{10^{10}}}",
    r"\boxed{(a+b+c+d+e+f+g+h)^{5000}}",
    "Answer: 1e999999999",
    r"\boxed{\sum_{k=1}^{99999999999} k^{k}}",
    r"\boxed{" + r"\frac{1}{1+" * 90 + "2" + "}" * 90 + "}",
    r"\boxed{" + "(" * 1900 + "}",
    r"\boxed{" + "2^" * 900 + "2}",
    r"\boxed{\sqrt{" + "1234567891" * 180 + "}}",
]

# Long texts, each of one repeated unit, to make the regular expressions slow.
REPEATED = [
    ("{", MEGABYTE),
    (r"\frac", MEGABYTE),
    (r"\boxed{", MEGABYTE),
    (r"\boxed{1} and ", 300_000),
    ("(", MEGABYTE),
    ("*", MEGABYTE),
    ("answer is ", MEGABYTE),
    ("the answer to ", 300_000),
    ("7", 300_000),
    ("\n", 300_000),
    (" ", 300_000),
    ("1 1/2 ", 300_000),
    ("½", 20_000),
    ("$", 300_000),
    ("<think></think>", 300_000),
    ("not A and B, nor ", 300_000),
    ("A) x\n", 300_000),
    ("not necessarily true or ", 300_000),
    ("No. ", 300_000),
    ("the day is on the ", 300_000),
    ("Answer: 7. Wait, no. ", 300_000),
    ("\nOr 7", 300_000),
    ("7\n", 300_000),
    (", ", 300_000),
    ("答案是 7", 300_000),
    ("a\u0301", 300_000),
    ("\0", 300_000),
]


@pytest.fixture(scope="module")
def graders() -> Iterator[GraderPool]:
    pool = GraderPool(NUM_WORKERS, TIMEOUT_S)
    for _ in range(2 * NUM_WORKERS):
        assert pool.grade("Answer: 5", MATH).reason is Reason.CORRECT
    yield pool
    pool.close()


@pytest.mark.parametrize("text", EXPLOSIVE, ids=lambda text: text[:24])
def test_an_explosive_answer_gets_a_verdict_in_time(graders: GraderPool, text: str) -> None:
    started = time.monotonic()
    verdict = graders.grade(text, MATH)
    assert time.monotonic() - started < TIMEOUT_S + GRACE_S
    assert verdict.reason in (Reason.WRONG, Reason.NO_ANSWER, Reason.TIMEOUT)
    if text == BOMB:
        assert verdict.reason is Reason.TIMEOUT
    assert not verdict.label_unreadable

    started = time.monotonic()
    assert graders.grade("Answer: 5", MATH).reason is Reason.CORRECT
    assert time.monotonic() - started < GRACE_S


@pytest.mark.parametrize("unit", [u for u, _ in REPEATED], ids=lambda unit: repr(unit))
def test_a_long_degenerate_text_gets_a_verdict_in_time(graders: GraderPool, unit: str) -> None:
    text = unit * (dict(REPEATED)[unit] // len(unit))
    pending = []
    for label in LABELS.values():
        started = time.monotonic()
        pending.append((started, label, graders.submit(text, label)))
        if len(pending) == NUM_WORKERS:  # one for each process, so none waits in the queue
            for started, label, verdict in pending:
                assert verdict.result().correctness == 0.0, label
                assert time.monotonic() - started < TIMEOUT_S + GRACE_S, label
            pending.clear()
    assert graders.grade("Answer: 5", MATH).reason is Reason.CORRECT


def test_a_degenerate_text_of_a_real_length_leaves_its_answer_readable(graders: GraderPool) -> None:
    """A policy may repeat itself for 4,096 tokens, and then answer."""
    answers = {"math": "5", "choice": "B", "boolean": "true", "exact": "Lisbon"}
    for unit, _ in REPEATED:
        if "think" in unit or unit in (r"\boxed{", "{", "<answer>"):
            continue  # what follows an open bracket or tag is inside it
        for name, label in LABELS.items():
            text = unit * (16_000 // len(unit)) + f"\n\nThe final answer is: {answers[name]}"
            started = time.monotonic()
            verdict = graders.grade(text, label)
            assert verdict.reason is Reason.CORRECT, (unit, name, verdict)
            assert time.monotonic() - started < GRACE_S, (unit, name)


@pytest.mark.parametrize(
    "answer", [r"\sum_{k=1}^{99999999999} k^{k}", r"\binom{99999999999}{49999999999}"]
)
def test_a_label_that_stops_graders_is_compared_as_text(graders: GraderPool, answer: str) -> None:
    label = parse_label(answer)
    wrong = graders.grade("Answer: 5", label)
    assert (wrong.reason, wrong.label_unreadable) == (Reason.WRONG, True)
    started = time.monotonic()
    right = graders.grade(rf"\boxed{{{answer}}}", label)
    assert (right.reason, right.label_unreadable) == (Reason.CORRECT, True)
    assert time.monotonic() - started < GRACE_S  # the pool remembers the label


def test_a_bomb_against_a_bomb_label_is_no_crash(graders: GraderPool) -> None:
    label = parse_label(r"\binom{99999999999}{49999999999} + 1")
    verdict = graders.grade(BOMB, label)
    assert (verdict.correctness, verdict.label_unreadable) == (0.0, True)


def test_any_python_string_can_be_graded(graders: GraderPool) -> None:
    for text in ("\ud800", "\0", "\U0010ffff", "\u202e", "\r", "\u2028"):
        assert graders.grade(f"{text}\nAnswer: 5", MATH).reason is Reason.CORRECT, ascii(text)


@pytest.mark.slow
def test_a_hostile_label_and_a_hostile_response_are_a_verdict(graders: GraderPool) -> None:
    bomb = parse_label(BOMB.removeprefix("\\boxed{").removesuffix("}"))
    verdict = graders.grade("{" * 30_000_000, bomb)
    assert verdict.correctness == 0
