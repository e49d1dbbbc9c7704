"""Decide what needs all documents: duplicates, and the share of instructions.

In: the arrays of all units (workers.py), in the order of the inputs. Out: a `Decision` per document, and for the
duplicates that a report shows (the first of each kind, report.py) the id and place of the kept copy; two ids are read
per shown example, whatever the number of duplicates. One language at a time is in memory (duplicates.py has the
numbers); its keys and signatures are memory-mapped files.

Shapes: D documents of all units, N documents of a language, C candidates among them, B bands, H permutations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from titan_speech.errors import DataError
from titan_speech.text_preparation.duplicates import NUM_BANDS, NUM_PERMUTATIONS, NearDuplicates, first_exact
from titan_speech.text_preparation.report import EXAMPLES_PER_RULE
from titan_speech.text_preparation.rules import DocumentRules
from titan_speech.text_preparation.workers import Decision, UnitToWrite, UnitWork


def document_at(work: UnitWork, row: int) -> str:
    """Id and place of the document at a row of the unit's file."""
    return f"{sample_id_at(work, row)!r} of {place_at(work, row)}"


def sample_id_at(work: UnitWork, row: int) -> str:
    return pq.read_table(work.file("parquet"), columns=["sample_id"])["sample_id"][row].as_py()


def place_at(work: UnitWork, row: int) -> str:
    position = int(np.load(work.file("npz"))["position"][row])
    return work.source.open().where(work.unit, position)


UnitArrays = Sequence[Mapping[str, NDArray]]
"""Per unit the arrays that workers.py saved; each is read from disk on access."""

RowsPerUnit = Mapping[int, NDArray[np.int64]]
"""By index of the unit the rows of one language, for the units that have any."""


def decide(works: Sequence[UnitWork], rules: DocumentRules, folder: Path, output: Path) -> list[UnitToWrite]:
    """Decide on all documents of all units.

    Args:
        works: the cleaned units, in the order of the inputs.
        rules: similarity of near duplicates, and the share of instructions.
        folder: for the memory-mapped files of one language.
        output: folder of the files that the units are written to.

    Raises:
        DataError: two documents have one id, or only instructions are left.
    """
    arrays = [np.load(work.file("npz")) for work in works]
    _refuse_repeated_ids(arrays, works)
    starts = np.cumsum([0, *(len(unit["language"]) for unit in arrays)])
    decision_D = np.full(starts[-1], Decision.KEPT, np.uint8)
    shown: dict[Decision, dict[int, int]] = {Decision.EXACT_DUPLICATE: {}, Decision.NEAR_DUPLICATE: {}}
    for language in sorted({str(name) for unit in arrays for name in unit["names"]}):
        rows = _rows_of_language(arrays, language)
        decision_N, first_N = _find_duplicates(arrays, rows, rules, folder)
        document_N = np.concatenate([starts[i] + rows_of_unit for i, rows_of_unit in rows.items()])
        decision_D[document_N] = decision_N
        for decision, kept_of in shown.items():
            duplicates = np.flatnonzero(decision_N == decision)[:EXAMPLES_PER_RULE]
            kept_of |= zip(document_N[duplicates].tolist(), document_N[first_N[duplicates]].tolist(), strict=True)
    _cap_instructions(arrays, decision_D, rules)
    details = _details_of_duplicates(shown, works, starts)
    units = enumerate(zip(works, np.split(decision_D, starts[1:-1]), details, strict=True))
    return [UnitToWrite(*unit, output / f"{number:05d}.parquet") for number, unit in units]


def _rows_of_language(arrays: UnitArrays, language: str) -> RowsPerUnit:
    rows = {}
    for i, unit in enumerate(arrays):
        rows[i] = np.flatnonzero(np.isin(unit["language"], np.flatnonzero(unit["names"] == language)))
    return {i: rows_of_unit for i, rows_of_unit in rows.items() if len(rows_of_unit)}


def _details_of_duplicates(
    shown: Mapping[Decision, Mapping[int, int]], works: Sequence[UnitWork], starts: NDArray[np.int64]
) -> list[dict[int, str]]:
    """Per unit: row of a duplicate -> id and place of the kept copy; of each kind the first few of all languages."""

    def unit_and_row(document: int) -> tuple[int, int]:
        unit = int(np.searchsorted(starts, document, side="right")) - 1
        return unit, int(document - starts[unit])

    details: list[dict[int, str]] = [{} for _ in works]
    for kept_of in shown.values():
        for duplicate, kept in sorted(kept_of.items())[:EXAMPLES_PER_RULE]:
            unit, row = unit_and_row(duplicate)
            kept_unit, kept_row = unit_and_row(kept)
            details[unit][row] = f"duplicate of {document_at(works[kept_unit], kept_row)}"
    return details


def _find_duplicates(
    arrays: UnitArrays, rows: RowsPerUnit, rules: DocumentRules, folder: Path
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Decisions on the documents of a language, and for each the earliest one it duplicates, or itself."""
    exact_N2 = np.concatenate([arrays[i]["exact"][rows_of_unit] for i, rows_of_unit in rows.items()])
    number_N = np.arange(len(exact_N2))
    first_N = first_exact(exact_N2)
    is_first_N = first_N == number_N
    decision_N = np.where(is_first_N, Decision.KEPT, Decision.EXACT_DUPLICATE).astype(np.uint8)
    if rules.near_duplicate:
        near_N = _find_near_duplicates(arrays, rows, np.flatnonzero(is_first_N), rules.near_duplicate, folder)
        decision_N[is_first_N & (near_N != number_N)] = Decision.NEAR_DUPLICATE
        first_N = np.where(is_first_N, near_N, first_N)
    return decision_N, first_N


def _find_near_duplicates(
    arrays: UnitArrays, rows: RowsPerUnit, candidates_C: NDArray[np.int64], min_similarity: float, folder: Path
) -> NDArray[np.int64]:
    num = sum(map(len, rows.values()))
    minhash_NH = np.memmap(folder / "minhash", np.uint32, "w+", shape=(num, NUM_PERMUTATIONS))
    keys_BN = np.memmap(folder / "keys", np.uint64, "w+", shape=(NUM_BANDS, num))
    first = 0
    for i, rows_of_unit in rows.items():
        last = first + len(rows_of_unit)
        minhash_NH[first:last] = arrays[i]["minhash"][rows_of_unit]
        keys_BN[:, first:last] = arrays[i]["keys"][rows_of_unit].T
        first = last

    def agreement(one: int, others: NDArray[np.int64]) -> NDArray[np.float64]:
        return (minhash_NH[others] == minhash_NH[one]).mean(axis=1)

    groups = NearDuplicates(num)
    for keys_N in keys_BN:
        groups.join_band(np.asarray(keys_N), candidates_C, agreement, min_similarity)
    for name in ("minhash", "keys"):
        (folder / name).unlink()
    return groups.first_of_each()


def _cap_instructions(arrays: UnitArrays, decision_D: NDArray[np.uint8], rules: DocumentRules) -> None:
    """Reject instructions, in the order of a hash of their ids, until the others are within their share of tokens."""
    kept = decision_D == Decision.KEPT
    is_instruction, num_tokens, ids = (
        np.concatenate([unit[name] for unit in arrays]) for name in ("is_instruction", "num_tokens", "ids")
    )
    chosen = np.flatnonzero(kept & is_instruction)
    plain = int(num_tokens[kept & ~is_instruction].sum())
    share = rules.max_instruction_share
    if not len(chosen) or share >= 1:
        return
    if not plain:
        raise DataError(
            f"only instructions are left, so max_instruction_share = {share} cannot hold: prepare them together "
            "with other text ([[source]] tables in --rules), or set max_instruction_share = 1"
        )
    chosen = chosen[np.argsort(ids[chosen], kind="stable")]
    over = np.cumsum(num_tokens[chosen], dtype=np.int64) > share / (1 - share) * plain
    decision_D[chosen[over]] = Decision.INSTRUCTION_SHARE


def _refuse_repeated_ids(arrays: UnitArrays, works: Sequence[UnitWork]) -> None:
    ids = np.sort(np.concatenate([unit["ids"] for unit in arrays]))
    repeated = ids[1:][ids[1:] == ids[:-1]]
    if not len(repeated):
        return
    places = (
        (unit, row) for unit, array in enumerate(arrays) for row in np.flatnonzero(array["ids"] == repeated[0]).tolist()
    )
    (unit, row), (other_unit, other_row) = islice(places, 2)
    first, second = document_at(works[unit], row), place_at(works[other_unit], other_row)
    rest = f" (and {len(repeated) - 1} more have the id of another one)" if len(repeated) > 1 else ""
    raise DataError(
        f"two documents have the id {first} and {second}{rest}: give each source its own name, or take the id "
        "from a unique column (--columns sample_id=NAME)"
    )
