"""Words around a value: those that change it earn nothing, harmless ones cost nothing."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sar.grading.grade import grade
from sar.grading.label import Label

VALUES = st.integers(min_value=2, max_value=99_999).filter(lambda v: v not in (10, 50, 70, 74, 100))
STATEMENTS = [
    "We add them up.\n\nAnswer: {}",
    "**Final Answer:** {}",
    "The answer is {}",
    "Therefore, the final answer is: {}",
    "3 and 4 first.\n#### {}",
    "<answer>{}</answer>",
    "<answer>\n{}\n</answer>",
    "### Answer\n\n{}",
    "So we get \\boxed{{\\text{{{}}}}}",
]
ENDINGS = ["We add them up.\n\nIt is {}", "So in the end there are {}"]
PROSE_BOX = "We add them up. It is {} $\\boxed{{{}}}$ {}"

CHANGES_BEFORE = [
    *("half of", "one third of", "twice", "double", "the square of", "the square root of"),
    *("less than", "more than", "at least", "at most", "up to", "almost", "nearly", "just under"),
    *("not", "not equal to", "never", "anything but", "other than", "instead of", "excluding"),
    *("it isn't", "it cannot be", "definitely not", "I don't think it is", "nobody says"),
    *("one less than", "two more than", "the negative of", "100 minus", "10% of", "2 times"),
    *("a multiple of", "the digits of", "the number after", "the predecessor of", "3/4 of"),
    *("from 1 to", "between 1 and", "neither 1 nor", "either 1 or", "1 or", "1 and", "1,"),
    *("close to", "far from", "within 5 of", "short of", "pas", "nicht", "weniger als"),
    *("la mitad de", "不是", "小于", "至少"),
]  # fmt: skip
CHANGES_AFTER = [
    *(" squared", " cubed", " factorial", " times 2", " plus 1", " minus 1", " divided by 2"),
    *(" dozen", " hundred", " million", " halves", " and a half", " percent of 50"),
    *(" or so", " or more", " at most", " and up", "-ish", " give or take 5", " too high", " off"),
    *(" or 74", " (or 74)", ", or 74", ", maybe 74", ", possibly 74", " and 74", ", 74", " to 74"),
    *(" oder 74", " ou 74", "或74", " or seventy-four", ", but 74 is possible too"),
    *(" is wrong", " is not the answer", " would be wrong", " cannot be right", ", not really"),
    *("? No.", " (wrong)", ", which is wrong", ", just kidding", ". That is wrong."),
    *(". Or 74.", ". Or maybe 74.", ". Alternatively, 74.", ". But it could be 74.", ". 74."),
    *(". No wait, 74.", ". Actually, 74.", ". Scratch that: 74.", ". I mean 74.", ", no, 74"),
    *("\n74", "\n\nOr 74.", "\n\n\n\nAnother answer is 74.", "\n\nCorrection: 74"),
    *(" base 8", " in octal", " short of 100", " more than 100", " per 74", "的一半", "左右"),
]  # fmt: skip
HARMLESS_BEFORE = [
    *("", "x = ", "exactly ", "about ", "approximately ", "She has ", "the total is ", "It is "),
    *("There are ", "It takes him ", "a total of ", "She makes $", "The value of x is ", "Total: "),
    *("Tom earned ", "We get ", "So ", "Thus, ", "Half of them is ", "10 + 20 + 3 = ", "一共有"),
]  # fmt: skip
HARMLESS_AFTER = [
    *("", ".", " apples", " dollars.", " cm", " miles per hour", " more apples than Tom"),
    *(" years old", " in total", " of the apples", " because she needs them", ", as required"),
    *(" apples in 3 days", " students who are not in a club", " eggs are not sold", " times"),
    *(", not 74", " rather than 74", ". This is correct.", ".\n\nI hope this helps.", "个"),
    *(" apples (all of them)", ". Let me know if you have 3 more questions!"),
]  # fmt: skip


def _is_correct(response: str, value: int) -> bool:
    return grade(response, Label(str(value), "math")).correctness == 1


@given(
    value=VALUES,
    phrase=st.sampled_from(CHANGES_BEFORE),
    statement=st.sampled_from(STATEMENTS + ENDINGS),
)
@example(73, "half of", STATEMENTS[0])
@settings(max_examples=400)
def test_words_before_a_value_that_change_it_earn_nothing(
    value: int, phrase: str, statement: str
) -> None:
    response = statement.format(f"{phrase} {value}")
    assert not _is_correct(response, value), response


@given(
    value=VALUES,
    phrase=st.sampled_from(CHANGES_AFTER),
    statement=st.sampled_from(STATEMENTS + ENDINGS),
)
@example(73, " dozen", STATEMENTS[0])
@settings(max_examples=400)
def test_words_after_a_value_that_change_it_earn_nothing(
    value: int, phrase: str, statement: str
) -> None:
    response = statement.format(f"{value}{phrase}")
    assert not _is_correct(response, value), response


@given(
    value=VALUES,
    before=st.sampled_from(["", *CHANGES_BEFORE]),
    after=st.sampled_from(CHANGES_AFTER),
)
@settings(max_examples=300)
def test_words_around_a_box_that_change_it_earn_nothing(
    value: int, before: str, after: str
) -> None:
    response = PROSE_BOX.format(before, value, "" if before else after)
    assert not _is_correct(response, value), response


@given(
    value=VALUES,
    before=st.sampled_from(HARMLESS_BEFORE),
    after=st.sampled_from(HARMLESS_AFTER),
    statement=st.sampled_from(STATEMENTS),
)
@settings(max_examples=600)
def test_harmless_words_around_a_value_cost_nothing(
    value: int, before: str, after: str, statement: str
) -> None:
    if "boxed" in statement:
        after = after.partition(". ")[0].partition("\n")[0]  # a box holds no second sentence
    response = statement.format(f"{before}{value}{after}")
    assert _is_correct(response, value), response


@given(values=st.lists(VALUES, min_size=2, max_size=5, unique=True), data=st.data())
@settings(max_examples=300)
def test_boxing_or_listing_candidates_earns_only_the_whole_list(
    values: list[int], data: st.DataObject
) -> None:
    boxes = [f"\\boxed{{{value}}}" for value in values]
    joint = data.draw(st.sampled_from([", ", " and ", " or ", "\n", "\n\n", " \\\\ ", "; ", " "]))
    response = f"The values are ${joint.join(boxes)}$."
    assert not any(_is_correct(response, value) for value in values), response
    listed = grade(response, Label(", ".join(map(str, values)), "math"))
    assert listed.correctness == 1, response
    mark = data.draw(st.sampled_from(["{}, ", "{} ", "{}\n", "{}. ", "Maybe {}. ", "Is it {}? "]))
    ending = "I tried some.\n\n" + "".join(mark.format(value) for value in values)
    assert not any(_is_correct(ending, value) for value in values), ending


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("\\boxed{72}. Wait, I forgot one.\n\n\\boxed{73}", "73"),
        ("The answer is 72. No wait, 73.", "73"),
        ("Answer: 72\n\nCorrection: 73", "73"),
        ("Answer: 72\n\nOn second thought, it is 73.", "73"),
        ("\\boxed{72} is what I got first. So the answer is 73.", "73"),
    ],
)
def test_a_correction_replaces_the_answer(response: str, answer: str) -> None:
    assert _is_correct(response, int(answer))
    assert not _is_correct(response, 72)
