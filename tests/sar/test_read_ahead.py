"""Reading a bounded number of items ahead."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sar.read_ahead import read_ahead


@pytest.mark.parametrize("num_items", [0, 1, 3, 20])
def test_all_items_come_in_order_with_a_bounded_number_read_ahead(num_items: int) -> None:
    num_read = 0

    def items() -> Iterator[int]:
        nonlocal num_read
        for item in range(10):
            num_read += 1
            yield item

    for index, item in enumerate(read_ahead(items(), num_items)):
        assert item == index
        assert num_read == min(10, index + 1 + num_items)
    assert num_read == 10


def test_nothing_to_read() -> None:
    assert list(read_ahead([], 3)) == []
