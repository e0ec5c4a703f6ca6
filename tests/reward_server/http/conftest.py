"""Strategies for requests whose values no error message and no line of the log may repeat.

They are fixtures because nothing imports from tests: a test draws from them with `st.data()`.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import strategies as st

Texts = st.SearchStrategy[str]
Values = st.SearchStrategy[Any]


@pytest.fixture(scope="session")
def hostile_texts() -> Texts:
    """Texts that are long, unprintable or half a character."""
    texts = st.text(st.characters(), max_size=20)
    odd = ["x" * 100_000, "\n\r\x1b[2J\u2028\x85" * 200, "\ud83d" * 300, "\U000e0001" * 900, "\0"]
    return st.sampled_from(odd) | texts | texts.map(lambda text: text * 100)


@pytest.fixture(scope="session")
def hostile_values(hostile_texts: Texts) -> Values:
    """JSON values of any shape, with hostile texts, and numbers of up to 4000 digits."""
    return st.recursive(
        st.none()
        | st.booleans()
        | st.floats()
        | st.integers(-(10**4000), 10**4000)
        | hostile_texts,
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                hostile_texts | st.sampled_from(["answer", "grader", "mode", "choices"]),
                inner,
                max_size=3,
            )
        ),
        max_leaves=8,
    )
