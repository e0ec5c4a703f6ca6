"""Counting JSON values without parsing."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import sar.json_values
from sar.json_values import count_values

_SCALARS = st.none() | st.booleans() | st.integers() | st.text('ab"\\,[{\n\U0001f600')
_JSON = st.recursive(
    _SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text('k"\\,['), inner)
)


def _count(value: Any) -> int:
    if isinstance(value, list):
        return 1 + sum(map(_count, value))
    if isinstance(value, dict):
        return 1 + sum(map(_count, value.values()))
    return 1


def _count_empty(value: Any) -> int:
    """Empty arrays and objects, which are counted twice."""
    if isinstance(value, (list, dict)):
        inner = value if isinstance(value, list) else value.values()
        return sum(map(_count_empty, inner)) if value else 1
    return 0


@given(value=_JSON, is_ascii=st.booleans(), chunk_bytes=st.sampled_from([1, 2, 3, 7, 1 << 20]))
def test_values_are_counted_as_a_parser_finds_them(
    value: Any, is_ascii: bool, chunk_bytes: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sar.json_values, "_CHUNK_BYTES", chunk_bytes)
        text = json.dumps(value, ensure_ascii=is_ascii).encode()
        assert count_values(text) == _count(value) + _count_empty(value)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        (b"", 1),
        (b'{"query":[' + b"[]," * 1000 + b"[]]}", 1 + 1 + 1001 * 2),
        (b'"' + b"," * 1000 + b'"', 1),
        (b'"' + b"\\" * 1000 + b'",[', 3),
        (b'"' + b"\\" * 1001 + b'",[', 1),
        (b'["a\\\\",[],"b"', 5),
    ],
)
def test_edges(text: bytes, count: int) -> None:
    assert count_values(text) == count
