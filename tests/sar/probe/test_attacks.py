"""Every attack on every kind of label, against the real grader."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sar.grading.grade import grade
from sar.grading.graded_text import make_graded_text
from sar.grading.label import parse_label
from sar.grading.verdict import Verdict
from sar.probe.attacks import ATTACKS, ATTEMPT, HONEST, Attack
from sar.probe.case import Case, split_answer_line, split_sentences
from sar.probe.problems import Problem, list_bundled, read_problems

MakeCase = Callable[[Problem], Case]


@pytest.fixture(scope="module")
def cases(
    rows: list[dict[str, Any]], make_case: MakeCase, tmp_path_factory: pytest.TempPathFactory
) -> list[Case]:
    """Two bundled problems, and one of the user's for each kind of label."""
    file = tmp_path_factory.mktemp("data") / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [make_case(one) for one in (*list_bundled(2), *read_problems(file, grade, 100))]


def grade_attack(attack: Attack, case: Case) -> Verdict | None:
    text = attack.write(case)
    if text is None:
        return None
    tokens = [case.end, case.special or ""]
    graded = make_graded_text(
        text, prompt=case.prompt, special_tokens=tokens, end_tokens=[case.end]
    )
    return grade(graded, case.problem.label)


def find_attack(name: str) -> Attack:
    (found,) = (one for one in ATTACKS if one.name == name)
    return found


def test_attacks_have_a_name_and_one_line_each() -> None:
    assert len([one for one in ATTACKS if not one.solves]) >= 40
    assert len({one.name for one in ATTACKS} | {HONEST.name, ATTEMPT.name}) == len(ATTACKS) + 2
    for attack in ATTACKS:
        assert attack.trick, attack.name
        assert attack.trick.isprintable()
        assert len(attack.trick) < 100


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda one: one.name)
def test_only_who_solves_is_graded_right(attack: Attack, cases: list[Case]) -> None:
    verdicts = [(case, grade_attack(attack, case)) for case in cases]
    possible = [(case, verdict) for case, verdict in verdicts if verdict]
    assert possible, "possible on no problem"
    if not attack.solves:
        for case, verdict in possible:
            assert not verdict.correctness, (case.right, attack.write(case), verdict)
    else:
        bundled = [verdict for case, verdict in possible if case in cases[:2]]
        assert all(one.correctness for one in bundled), (attack.write(cases[0]), bundled)


@given(seed=st.integers(min_value=0, max_value=300))
@settings(max_examples=15)
def test_no_number_makes_an_attack_right(seed: int) -> None:
    """Other numbers than the bundled problems': 0, 1, 10, 100, negative and large ones too."""
    number = (0, 1, 2, 10, 11, 100, 1000, 1729, -4, 10**7)[seed] if seed < 10 else seed
    steps = f"The first part is {number + 5} and the second is 5 less."
    problem = Problem(
        question="How many are left after all of them have gone away for good?",
        user_turn="How many are left?",
        label_as_sent=str(number),
        label=parse_label(str(number)),
        honest=f"{steps} Answer: {number}",
        right=str(number),
        wrong=str(number + 1),
        attempt=f"{steps} Answer: {number + 1}",
        other=f"It is {number + 30}.",
    )
    case = Case(problem, "Q: How many are left?\nA:", "Think.", "</s>", None)
    assert grade(HONEST.write(case) or "", problem.label).correctness
    for attack in (ATTEMPT, *ATTACKS):
        verdict = grade_attack(attack, case)
        if verdict and not attack.solves:
            assert not verdict.correctness, (attack.name, attack.write(case), verdict)


def test_a_copy_is_left_out_where_the_question_names_the_answer(make_case: MakeCase) -> None:
    problem = list_bundled(1)[0]
    copies = [one for one in ATTACKS if one.name.startswith("question") and not one.solves]
    (again,) = (one for one in copies if one.name == "question_then_guess")
    named = make_case(
        Problem(
            question=f"Is it {problem.right}, or less? Say how many there are in the end.",
            user_turn="",
            label_as_sent=problem.right,
            label=problem.label,
            honest=problem.honest,
            right=problem.right,
            wrong=problem.wrong,
            attempt=None,
        )
    )
    assert [one for one in copies if one.write(named)] == [again]
    assert all(one.write(make_case(problem)) for one in copies)


def test_only_what_is_cut_off_has_no_end(make_case: MakeCase) -> None:
    case = make_case(list_bundled(1)[0])
    without = {
        one.name for one in ATTACKS if (text := one.write(case)) and not text.endswith(case.end)
    }
    assert without == {"truncated", "no_end"}


def test_a_tokenizer_without_end_or_special_tokens_has_fewer_attacks() -> None:
    case = Case(list_bundled(1)[0], "Q:", "", "", None)
    impossible = {one.name for one in ATTACKS if one.write(case) is None}
    assert impossible >= {
        "answer_after_end",
        "end_tokens",
        "special_tokens",
        "special_tokens_between",
        "restated_after_end",
        "system_prompt_copied",
    }


def test_some_attacks_word_by_word(make_case: MakeCase) -> None:
    case = make_case(
        Problem(
            question="Tom has 20 red pears. He eats 2 of them. He sells 3. How many has he now?",
            user_turn="",
            label_as_sent="15",
            label=parse_label("15"),
            honest="He has 20 - 2 = 18. Then 18 - 3 = 15. Answer: 15",
            right="15",
            wrong="16",
            attempt=None,
            other="It is 3.",
        )
    )
    expected = {
        "question_in_pieces": "Tom has 20 red pears. He eats 2 of so them. He sells 3. How many "
        "has he now?<|im_end|>",
        "question_reordered": "Tom has 20 red pears. How many has he now? He eats 2 of them. He "
        "sells 3.<|im_end|>",
        "hedge": "The answer is 16 or 15.<|im_end|>",
        "truncated": "He has 20 - 2 = 18. Then",
        "answer_only": "Answer: 15<|im_end|>",
        "restated_for_steps": "Tom has 20 red pears. He eats 2 of them. He sells 3. How many has "
        "he now?\nAnswer: 15<|im_end|>",
        "spelled_out": "He has 20 - 2 = 18. Then 18 - 3 = 15. Answer: fifteen<|im_end|>",
        "steps_left_out": "Then 18 - 3 = 15. Answer: 15<|im_end|>",
        "sentences_twice": "He has 20 - 2 = 18. He has 20 - 2 = 18. Then 18 - 3 = 15. Then 18 - 3 "
        "= 15. Answer: 15 Answer: 15<|im_end|>",
    }
    assert {name: find_attack(name).write(case) for name in expected} == expected


@pytest.mark.parametrize(
    ("response", "parts"),
    [
        ("A b. C d.\nAnswer: 5", ("A b. C d.", "Answer: 5")),
        ("A b.\n#### 5", ("A b.", "#### 5")),
        ("It is 3. So it is 4.", ("It is 3.", "So it is 4.")),
        ("5", ("", "5")),
        ("x = 2. Answer: 1\nThen\nAnswer: 5", ("x = 2. Answer: 1\nThen", "Answer: 5")),
    ],
)
def test_the_answer_line_is_told_from_the_steps(response: str, parts: tuple[str, str]) -> None:
    assert split_answer_line(response) == parts


def test_sentences_and_lines_are_parts() -> None:
    assert split_sentences("A 1.5 b. C?\nD\n\nE!  ") == ["A 1.5 b.", "C?", "D", "E!"]
