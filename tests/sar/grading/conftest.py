"""The verdict of math-verify alone, to compare ours with."""

from __future__ import annotations

from collections.abc import Callable

import pytest

MathVerify = Callable[[str, str], bool]
"""`math_verify(response, label)`: whether math-verify alone credits a response."""


@pytest.fixture(scope="session")
def math_verify() -> MathVerify:
    """math-verify with its default settings. The label is boxed, as it parses best that way."""
    from math_verify import parse, verify

    def grade(response: str, label: str) -> bool:
        is_marked = "$" in label or r"\boxed" in label
        marked = label if is_marked else rf"\boxed{{{label}}}"
        try:
            wanted = parse(marked, parsing_timeout=3)
            return bool(verify(wanted, parse(response, parsing_timeout=3), timeout_seconds=3))
        except Exception:  # noqa: BLE001
            return False  # to a user who calls math-verify, a crash is no reward

    return grade
