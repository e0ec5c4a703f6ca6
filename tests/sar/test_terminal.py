"""Text for a terminal: nothing acts on it, and columns stay aligned."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sar.terminal import cut, cut_middle, join_lines, make_printable, measure, pad


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("x^2 你好 é", "x^2 你好 é"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("a\nb\tc\rd\0", r"a\x0ab\x09c\x0dd\x00"),
        ("\x9b2J", r"\x9b2J"),  # begins a command, as ESC [ does
        ("abc\u202edef", r"abc\u202edef"),  # the rest would run from right to left
        ("\ud800", r"\ud800"),
        ("\U000e0041", r"\U000e0041"),
        (r"\neq", r"\neq"),
    ],
)
def test_what_a_terminal_would_act_on_is_escaped(text: str, shown: str) -> None:
    assert make_printable(text) == shown


@given(st.text())
def test_printable_text_has_no_control_characters(text: str) -> None:
    shown = make_printable(text)
    assert shown.isprintable()
    assert make_printable(shown) == shown
    shown.encode()


@pytest.mark.parametrize(
    ("text", "short", "both_ends"),
    [
        ("12345678", "12345678", "12345678"),
        ("123456789", "12345...", "123...89"),
        ("你好你好", "你好你好", "你好你好"),
        ("你好你好你", "你好...", "你...你"),
        ("", "", ""),
    ],
)
def test_wide_texts_are_cut(text: str, short: str, both_ends: str) -> None:
    assert cut(text, 8) == short
    assert cut_middle(text, 8) == both_ends


@given(st.text(), st.integers(3, 30))
def test_cut_and_padded_texts_fit_their_column(text: str, width: int) -> None:
    for shorten in (cut, cut_middle):
        shown = shorten(make_printable(text), width)
        assert measure(shown) <= width
        assert measure(pad(shown, width)) == width


def test_lines_are_joined() -> None:
    assert join_lines("a\n\n b\t c ") == "a b c"
