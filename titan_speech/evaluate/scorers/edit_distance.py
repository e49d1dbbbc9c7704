"""Errors between what was asked for and what was heard, against references with accepted spellings.

In: a reference as slots (normalization/lattice.py) and the words or characters heard. Out: the least number of errors
and, among the alignments that have it, the fewest insertions. Each row of the table is a few numpy operations; 500
characters against 500 take 12 ms.

Shapes: H units heard.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_ERROR = 1 << 20
"""Cost of an error; an insertion costs one more, which breaks ties."""


@dataclass(frozen=True)
class Errors:
    """Errors of one text."""

    errors: int
    insertions: int
    """Of `errors`: units that were heard and not asked for."""
    num_reference: int
    """Units of the reference as it was written."""

    @property
    def rate(self) -> float:
        return self.errors / max(self.num_reference, 1)


def count_errors(slots: Sequence[Sequence[Sequence[str]]], heard: Sequence[str]) -> Errors:
    """The fewest errors over all readings of the reference.

    Args:
        slots: each with its readings, the written one first; units are words or characters.
        heard: the units heard.
    """
    ids: dict[str, int] = {}
    heard_H = np.array([ids.setdefault(unit, len(ids)) for unit in heard], np.int64)
    insertion_H = np.arange(len(heard) + 1, dtype=np.int64) * (_ERROR + 1)
    row_H = insertion_H
    for slot in slots:
        ends = []
        for reading in slot:
            end_H = row_H
            for unit in reading:
                end_H = _next_row(end_H, heard_H, ids.get(unit, -1), insertion_H)
            ends.append(end_H)
        row_H = np.minimum.reduce(ends)
    errors, insertions = divmod(int(row_H[-1]), _ERROR)
    return Errors(errors, insertions, sum(len(slot[0]) for slot in slots))


def _next_row(
    row_H: NDArray[np.int64], heard_H: NDArray[np.int64], unit: int, insertion_H: NDArray[np.int64]
) -> NDArray[np.int64]:
    """The row after one more unit of the reference."""
    found_H = row_H + _ERROR  # the unit was left out
    found_H[1:] = np.minimum(found_H[1:], row_H[:-1] + np.where(heard_H == unit, 0, _ERROR))
    return np.minimum.accumulate(found_H - insertion_H) + insertion_H  # units inserted after it
