"""What the copies that a report shows are copies of.

In: copies and their originals as numbers, found language by language. Out: for each of the few that a report will show
(tally.py keeps the first of each rule in the order of the inputs), a line that names the original and its place. Ids
lie in the units' files: two are read for each line, whatever the number of copies.

Shapes: N documents of a language.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from titan_speech.corpus.text.tally import EXAMPLES_PER_RULE
from titan_speech.corpus.text.unit_work import UnitWork, Verdict


@dataclass(frozen=True, order=True)
class Place:
    """A document: number of its unit, and its row among those of the unit that every rule let pass."""

    unit: int
    row: int


@dataclass
class Originals:
    """The first copies of each kind, with their originals."""

    _found: dict[Verdict, dict[Place, Place]] = field(default_factory=dict)

    def add(self, verdict_N: NDArray[np.uint8], first_N: NDArray[np.int64], place_of: Callable[[int], Place]) -> None:
        """Of one language; `place_of` says where the document of a number lies."""
        for verdict in (Verdict.EXACT_COPY, Verdict.NEAR_COPY):
            shown = np.flatnonzero(verdict_N == verdict)[:EXAMPLES_PER_RULE].tolist()
            pairs = {place_of(i): place_of(int(first_N[i])) for i in shown}
            known = self._found.get(verdict, {}) | pairs
            self._found[verdict] = dict(sorted(known.items())[:EXAMPLES_PER_RULE])

    def of_units(self, works: Sequence[UnitWork]) -> list[dict[int, str]]:
        """For each unit: row of a copy -> what it copies."""
        told: list[dict[int, str]] = [{} for _ in works]
        for pairs in self._found.values():
            for copy, original in pairs.items():
                told[copy.unit][copy.row] = f"copies {document_at(works[original.unit], original.row)}"
        return told


def document_at(work: UnitWork, row: int) -> str:
    """Id and place of the document at a row of the unit's file."""
    return f"{sample_id_at(work, row)!r} of {place_at(work, row)}"


def sample_id_at(work: UnitWork, row: int) -> str:
    return pq.read_table(work.file("parquet"), columns=["sample_id"])["sample_id"][row].as_py()


def place_at(work: UnitWork, row: int) -> str:
    position = int(np.load(work.file("npz"))["position"][row])
    return work.source.open().where(work.unit, position)
