"""What the copies that a report shows are copies of.

In: copies and their originals as numbers, found language by language. Out: for each of the few that a report will show
(tally.py keeps the first of each rule in the order of the inputs), a line that names the original and its place. Ids
lie in the units' files: two are read for each line, whatever the number of copies.

Shapes: N documents of a language.

Decisions that need all documents: copies, and the share of instructions.

In: the facts of all units, in the order of the inputs. Out: a `Verdict` for every document, and of the copies that the
report shows what they copy. One language at a time is
held (memory in duplicates.py); its keys and signatures lie in files that are mapped.

Shapes: N documents of a language, B bands, H permutations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from titan_speech.errors import DataError
from titan_speech.text_preparation.duplicates import NUM_BANDS, NUM_PERMUTATIONS, NearCopies, exact_copies
from titan_speech.text_preparation.report import EXAMPLES_PER_RULE
from titan_speech.text_preparation.rules import DocumentRules
from titan_speech.text_preparation.workers import UnitWork, Verdict


@dataclass(frozen=True, order=True)
class DocumentPlace:
    """A document: number of its unit, and its row among those of the unit that every rule let pass."""

    unit: int
    row: int


@dataclass
class Originals:
    """The first copies of each kind, with their originals."""

    _found: dict[Verdict, dict[DocumentPlace, DocumentPlace]] = field(default_factory=dict)

    def add(
        self, verdict_N: NDArray[np.uint8], first_N: NDArray[np.int64], place_of: Callable[[int], DocumentPlace]
    ) -> None:
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


Facts = Sequence[Mapping[str, NDArray]]
"""Of each unit, the arrays that unit_work.py saved; each is read when it is asked for."""


@dataclass(frozen=True)
class _Rows:
    """The documents of one language in one unit."""

    unit: int
    rows: NDArray[np.int64]


@dataclass(frozen=True)
class Judged:
    """A unit's documents: a verdict for each, and by row what is said of some."""

    verdict_N: NDArray[np.uint8]
    said: Mapping[int, str]


def judge(works: Sequence[UnitWork], rules: DocumentRules, folder: Path) -> list[Judged]:
    """Of each unit."""
    facts = [np.load(work.file("npz")) for work in works]
    verdicts = [np.full(len(f["language"]), Verdict.KEPT, np.uint8) for f in facts]
    _refuse_repeated_ids(facts, works)
    originals = Originals()
    for language in sorted({str(name) for f in facts for name in f["names"]}):
        parts = [part for i, f in enumerate(facts) if len((part := _rows_of(i, f, language)).rows)]
        verdict_N, first_N = _copies(facts, parts, rules, folder)
        originals.add(verdict_N, first_N, partial(_place, parts))
        for part, some in zip(parts, _split(verdict_N, parts), strict=True):
            verdicts[part.unit][part.rows] = some
    _cap_instructions(facts, verdicts, rules)
    return [Judged(*pair) for pair in zip(verdicts, originals.of_units(works), strict=True)]


def _rows_of(unit: int, facts: Mapping[str, NDArray], language: str) -> _Rows:
    number = np.flatnonzero(facts["names"] == language)
    return _Rows(unit, np.flatnonzero(np.isin(facts["language"], number)))


def _place(parts: Sequence[_Rows], number: int) -> DocumentPlace:
    """Of a document by its number in the language."""
    for part in parts:
        if number < len(part.rows):
            return DocumentPlace(part.unit, int(part.rows[number]))
        number -= len(part.rows)
    raise AssertionError(f"no document {number} after the last of the language")


def _split(verdict_N: NDArray[np.uint8], parts: list[_Rows]) -> list[NDArray[np.uint8]]:
    return np.split(verdict_N, np.cumsum([len(part.rows) for part in parts])[:-1])


def _copies(
    facts: Facts, parts: list[_Rows], rules: DocumentRules, folder: Path
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Verdicts, and of each document the earliest one it copies or itself."""
    exact_N2 = np.concatenate([facts[part.unit]["exact"][part.rows] for part in parts])
    number_N = np.arange(len(exact_N2))
    first_N = exact_copies(exact_N2)
    is_first_N = first_N == number_N
    verdict_N = np.where(is_first_N, Verdict.KEPT, Verdict.EXACT_COPY).astype(np.uint8)
    if rules.near_duplicate:
        near_N = _near_copies(facts, parts, np.flatnonzero(is_first_N), rules.near_duplicate, folder)
        verdict_N[is_first_N & (near_N != number_N)] = Verdict.NEAR_COPY
        first_N = np.where(is_first_N, near_N, first_N)
    return verdict_N, first_N


def _near_copies(
    facts: Facts,
    parts: list[_Rows],
    candidates_C: NDArray[np.int64],
    least: float,
    folder: Path,
) -> NDArray[np.int64]:
    num = sum(len(part.rows) for part in parts)
    minhash_NH = np.memmap(folder / "minhash", np.uint32, "w+", shape=(num, NUM_PERMUTATIONS))
    keys_BN = np.memmap(folder / "keys", np.uint64, "w+", shape=(NUM_BANDS, num))
    first = 0
    for part in parts:
        last = first + len(part.rows)
        minhash_NH[first:last] = facts[part.unit]["minhash"][part.rows]
        keys_BN[:, first:last] = facts[part.unit]["keys"][part.rows].T
        first = last
    groups = NearCopies(num)
    for keys_N in keys_BN:
        groups.join_band(np.asarray(keys_N), candidates_C, partial(_agreement, minhash_NH), least)
    for name in ("minhash", "keys"):
        (folder / name).unlink()
    return groups.first_of_each()


def _agreement(minhash_NH: NDArray[np.uint32], one: int, others: NDArray[np.int64]) -> NDArray[np.float64]:
    return (minhash_NH[others] == minhash_NH[one]).mean(axis=1)


def _cap_instructions(facts: Facts, verdicts: list[NDArray[np.uint8]], rules: DocumentRules) -> None:
    """Drops instructions in the order of a hash of their ids until the rest is within the share of kept tokens."""
    kept = np.concatenate(verdicts) == Verdict.KEPT
    is_instruction, num_tokens, ids = (
        np.concatenate([f[name] for f in facts]) for name in ("is_instruction", "num_tokens", "ids")
    )
    chosen = np.flatnonzero(kept & is_instruction)
    plain = int(num_tokens[kept & ~is_instruction].sum())
    share = rules.max_instruction_share
    if not len(chosen) or share >= 1:
        return
    if not plain:
        raise DataError(
            f"all that is left are instructions, so max_instruction_share = {share} cannot hold: prepare them together "
            "with other text ([[source]] tables in --rules), or set max_instruction_share = 1"
        )
    chosen = chosen[np.argsort(ids[chosen], kind="stable")]
    over = np.cumsum(num_tokens[chosen], dtype=np.int64) > share / (1 - share) * plain
    everywhere = np.concatenate(verdicts)
    everywhere[chosen[over]] = Verdict.INSTRUCTION_SHARE
    for mine, some in zip(verdicts, np.split(everywhere, np.cumsum([len(v) for v in verdicts])[:-1]), strict=True):
        mine[:] = some


def _refuse_repeated_ids(facts: Facts, works: Sequence[UnitWork]) -> None:
    ids = np.sort(np.concatenate([f["ids"] for f in facts]))
    repeated = ids[1:][ids[1:] == ids[:-1]]
    if not len(repeated):
        return
    places = ((unit, row) for unit, f in enumerate(facts) for row in np.flatnonzero(f["ids"] == repeated[0]).tolist())
    (unit, row), (other_unit, other_row) = islice(places, 2)
    first, second = document_at(works[unit], row), place_at(works[other_unit], other_row)
    rest = f" (and {len(repeated) - 1} more have the id of another one)" if len(repeated) > 1 else ""
    raise DataError(
        f"two documents have the id {first} and {second}{rest}: give each source a name of its own, or take the id "
        "from a column that is unique (--columns sample_id=NAME)"
    )
