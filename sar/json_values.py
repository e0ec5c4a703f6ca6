"""Counts the values in a JSON text before anything parses it.

A parser makes an object for each value, so a text of `[],[],[],...` takes 25 times its own size in
memory, and its parser keeps every other thread waiting. Counting needs neither memory nor the GIL.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_CHUNK_BYTES = 1 << 20
_QUOTE, _BACKSLASH = ord('"'), ord("\\")
# A value follows each of these bytes. An empty array or object has none: an upper bound.
_BEFORE_VALUE = tuple(b"[{,")

_Positions = npt.NDArray[np.intp]


def count_values(text: bytes | bytearray) -> int:
    """An upper bound of the values in a JSON text in UTF-8; strings' contents do not count.

    For a text that is not valid JSON, the bound holds up to its first fault, where parsers stop.
    """
    bytes_N = np.frombuffer(text, np.uint8)
    count, num_quotes, num_backslashes = 1, 0, 0
    for start in range(0, len(bytes_N), _CHUNK_BYTES):
        chunk_N = bytes_N[start : start + _CHUNK_BYTES]
        quotes, num_backslashes = _find_quotes(chunk_N, num_backslashes)
        before_value = np.flatnonzero(np.isin(chunk_N, _BEFORE_VALUE))
        # An odd number of quotes before a position: it is inside a string.
        num_quotes_before = num_quotes + np.searchsorted(quotes, before_value)
        count += int(np.count_nonzero(num_quotes_before % 2 == 0))
        num_quotes += len(quotes)
    return count


def _find_quotes(chunk_N: npt.NDArray[np.uint8], num_before: int) -> tuple[_Positions, int]:
    """Positions of the quotes that no backslash escapes.

    Args:
        num_before: backslashes just before the chunk.
    Returns:
        The positions, and the number of backslashes that end the chunk.
    """
    is_backslash_N = chunk_N == _BACKSLASH
    quotes = np.flatnonzero(chunk_N == _QUOTE)
    others = np.flatnonzero(~is_backslash_N)
    if not len(others):
        return quotes, num_before + len(chunk_N)
    num_at_end = len(chunk_N) - 1 - int(others[-1])
    if not num_before and not is_backslash_N.any():
        return quotes, num_at_end
    # The byte before a run of backslashes; -1 - num_before if the run starts before the chunk.
    order = np.searchsorted(others, quotes) - 1
    before_run = np.where(order < 0, -1 - num_before, others[order])
    is_escaped = (quotes - 1 - before_run) % 2 == 1
    return quotes[~is_escaped], num_at_end
