"""How the math grader reads a text, said in words."""

from __future__ import annotations

import pytest

from sar.grading.rules.reading import describe_reading


@pytest.mark.parametrize(
    ("text", "description"),
    [
        ("0.75", "the number 3/4"),
        (r"\frac{3}{4}", "the number 3/4"),
        ("50%", "the number 50 percent"),
        ("5 meters", "the number 5 in the unit m"),
        ("ellipse", "words"),
        ("1, x", "list of 2: the number 1; the expression x"),
        (r"\{1,2\}", "set of 2: the number 1; the number 2"),
        ("(1,2]", "interval (]: the number 1; the number 2"),
        ("(1,2)", "ordered pair or open interval: the number 1; the number 2"),
        ("(1,2,3)", "list of 3 in order: the number 1; the number 2; the number 3"),
        ("x+1", "the expression x + 1"),
        ("y=2x+3", "y = the expression 2*x + 3"),
        ("1011_2", "a number with its base"),
        ("4:30", "a time or a ratio"),
        (r"\frac{", "text that cannot be parsed as mathematics"),
        ("", "text that cannot be parsed as mathematics"),
    ],
)
def test_the_reading_is_named(text: str, description: str) -> None:
    assert describe_reading(text) == description


def test_a_union_names_its_parts() -> None:
    interval = "ordered pair or open interval"
    assert describe_reading(r"(1,2)\cup(3,4)") == (
        f"union of 2: {interval}: the number 1; the number 2; "
        f"{interval}: the number 3; the number 4"
    )


def test_long_lists_are_cut() -> None:
    description = describe_reading(", ".join(map(str, range(50))))
    assert description.startswith("list of 50: the number 0; ")
    assert description.endswith("the number 7; ...")
