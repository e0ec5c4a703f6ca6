"""Packs of sequences and their results as bytes, for the way to a scorer and back.

A pack is a table of int32 followed by all token ids. The table has one row for each sequence: the
length of its context and of its response, whether it asks for self-certainty, and the index of the
sequence that it continues, or -1. Results are a table of their shapes, and then float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np
import numpy.typing as npt

from sar.scoring import TokenSequence

_Scores = npt.NDArray[np.float32]
_COLUMNS = 4
_NONE = -1


def encode_pack(sequences: Sequence[TokenSequence]) -> bytes:
    """The bytes of a pack."""
    positions = {id(one): index for index, one in enumerate(sequences)}
    rows = [
        (
            len(one.context_ids),
            len(one.response_ids),
            one.wants_certainty,
            _NONE if one.continues is None else positions.get(id(one.continues), _NONE),
        )
        for one in sequences
    ]
    ids = chain.from_iterable(chain(one.context_ids, one.response_ids) for one in sequences)
    table = np.array([len(sequences), *chain.from_iterable(rows)], np.int32)
    return table.tobytes() + np.fromiter(ids, np.int32).tobytes()


def decode_pack(pack: bytes) -> list[TokenSequence]:
    """The sequences of `encode_pack`."""
    numbers = np.frombuffer(pack, np.int32)
    num_sequences = int(numbers[0])
    end = 1 + num_sequences * _COLUMNS
    rows = numbers[1:end].reshape(num_sequences, _COLUMNS).tolist()
    ids: list[int] = numbers[end:].tolist()
    made: dict[int, TokenSequence] = {}
    starts = [0]
    for num_context, num_response, *_ in rows:
        starts.append(starts[-1] + num_context + num_response)

    def make(index: int) -> TokenSequence:
        if index not in made:
            num_context, _, wants_certainty, continued = rows[index]
            first, last = starts[index], starts[index + 1]
            made[index] = TokenSequence(
                ids[first : first + num_context],
                ids[first + num_context : last],
                bool(wants_certainty),
                None if continued == _NONE else make(continued),
            )
        return made[index]

    return [make(index) for index in range(num_sequences)]


def encode_results(results: Sequence[_Scores]) -> bytes:
    """The bytes of a scorer's results: (T,) or (2, T) each."""
    shapes = [(scores.ndim, scores.shape[-1]) for scores in results]
    table = np.array([len(results), *chain.from_iterable(shapes)], np.int32)
    return table.tobytes() + b"".join(
        np.ascontiguousarray(s, np.float32).tobytes() for s in results
    )


def decode_results(data: bytes) -> list[_Scores]:
    """The results of `encode_results`."""
    num_results = int(np.frombuffer(data, np.int32, 1)[0])
    shapes = np.frombuffer(data, np.int32, 2 * num_results, 4).reshape(num_results, 2).tolist()
    numbers = np.frombuffer(data, np.float32, offset=4 + 8 * num_results)
    results: list[_Scores] = []
    start = 0
    for num_dimensions, num_tokens in shapes:
        end = start + num_dimensions * num_tokens
        scores = numbers[start:end]
        results.append(scores if num_dimensions == 1 else scores.reshape(2, num_tokens))
        start = end
    return results
