"""The changed copies of a response."""

from __future__ import annotations

import pytest

from eval.evidence.variants import (
    FILLER_AFTER,
    FILLER_BEFORE,
    HONEST,
    VARIANTS,
    Rollout,
    make_variants,
)

ROLLOUTS = [
    Rollout("What is 3 + 4?", "3 + 4 is 7.\nThat is all of it.\nA: 1,007.5 km", "7"),
    Rollout("What is 3 + 4?", "Seven.\nA: 7", "7"),
    Rollout("What is 5 + 5?", "A: 10", "10"),
]
END = "<end>"


def test_each_copy_is_what_its_name_says() -> None:
    made = make_variants(ROLLOUTS, 0, END)
    response = ROLLOUTS[0].response
    assert made == {
        "honest": response + END,
        "padded": f"{FILLER_BEFORE}\n3 + 4 is 7.\nThat is all of it.\n{FILLER_AFTER}\n"
        f"A: 1,007.5 km{END}",
        "repeated": f"{response}\n{response}{END}",
        "truncated": "3 + 4 is 7.\nThat is",  # 7 of 13 words
        "other_result": f"3 + 4 is 7.\nThat is all of it.\nA: 1008.5 km{END}",
        "bare": f"A: 1,007.5 km{END}",
        "unrelated": f"A: 10{END}",  # not the next one, which answers the same question
        "restated": f"What is 3 + 4?\n{response}{END}",
        "restated_twice": f"What is 3 + 4?\nWhat is 3 + 4?\n{response}{END}",
        "question": f"What is 3 + 4?{END}",
    }
    assert tuple(made) == tuple(VARIANTS)


def test_a_response_of_one_line() -> None:
    made = make_variants(ROLLOUTS, 2, "")
    assert made["padded"] == f"{FILLER_BEFORE}\n{FILLER_AFTER}\nA: 10"
    assert made["truncated"] == "A:"
    assert made["bare"] == made[HONEST] == "A: 10"
    assert made["unrelated"] == ROLLOUTS[0].response


@pytest.mark.parametrize(
    ("last_line", "raised"),
    [("A: 9", "A: 10"), ("A: -9", "A: -10"), ("2 of 3 is 0.5", "2 of 3 is 1.5"), ("none", None)],
)
def test_the_last_number_is_raised(last_line: str, raised: str | None) -> None:
    """Of -9, the digits are raised: another number all the same."""
    made = make_variants([Rollout("Q?", f"1 + 1\n{last_line}", "9")], 0, "")
    assert made.get("other_result") == (None if raised is None else f"1 + 1\n{raised}")


def test_without_another_question_there_is_no_unrelated_response() -> None:
    assert "unrelated" not in make_variants(ROLLOUTS[:2], 0, END)
