"""Decisions that need all documents: copies, and the share of instructions.

In: the facts of all units, in the order of the inputs. Out: a `Verdict` for every document. One language at a time is
held (memory in duplicates.py); its keys and signatures lie in files that are mapped.

Shapes: N documents of a language, B bands, H permutations.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from titan_speech.corpus.text.duplicates import NearCopies, exact_copies
from titan_speech.corpus.text.rules import Rules
from titan_speech.corpus.text.signatures import NUM_BANDS, NUM_PERMUTATIONS, band_keys
from titan_speech.corpus.text.unit_work import UnitWork, Verdict
from titan_speech.errors import DataError

ROWS_PER_STEP = 16_384


@dataclass(frozen=True)
class _Rows:
    """The documents of one language in one unit."""

    unit: int
    rows: NDArray[np.int64]


def judge(works: Sequence[UnitWork], rules: Rules, folder: Path) -> list[NDArray[np.uint8]]:
    """A verdict for each document of each unit."""
    facts = [np.load(work.file("npz")) for work in works]
    languages = [f["languages"] for f in facts]
    verdicts = [np.full(len(names), Verdict.KEPT, np.uint8) for names in languages]
    _refuse_repeated_ids(facts)
    for language in sorted({str(name) for names in languages for name in np.unique(names)}):
        parts = [_Rows(i, np.flatnonzero(names == language)) for i, names in enumerate(languages)]
        parts = [part for part in parts if len(part.rows)]
        for part, some in zip(parts, _split(_copies(facts, parts, rules, folder), parts), strict=True):
            verdicts[part.unit][part.rows] = some
    _cap_instructions(facts, verdicts, rules)
    return verdicts


def _split(verdict_N: NDArray[np.uint8], parts: list[_Rows]) -> list[NDArray[np.uint8]]:
    return np.split(verdict_N, np.cumsum([len(part.rows) for part in parts])[:-1])


def _copies(facts: list, parts: list[_Rows], rules: Rules, folder: Path) -> NDArray[np.uint8]:  # type: ignore[type-arg]
    exact_N2 = np.concatenate([facts[part.unit]["exact"][part.rows] for part in parts])
    number_N = np.arange(len(exact_N2))
    is_first_N = exact_copies(exact_N2) == number_N
    verdict_N = np.where(is_first_N, Verdict.KEPT, Verdict.EXACT_COPY).astype(np.uint8)
    if rules.near_duplicate:
        first_N = _near_copies(facts, parts, np.flatnonzero(is_first_N), rules.near_duplicate, folder)
        verdict_N[is_first_N & (first_N != number_N)] = Verdict.NEAR_COPY
    return verdict_N


def _near_copies(
    facts: list,  # type: ignore[type-arg]
    parts: list[_Rows],
    candidates_C: NDArray[np.int64],
    least: float,
    folder: Path,
) -> NDArray[np.int64]:
    num = sum(len(part.rows) for part in parts)
    minhash_NH = np.memmap(folder / "minhash", np.uint32, "w+", shape=(num, NUM_PERMUTATIONS))
    keys_BN = np.memmap(folder / "keys", np.uint64, "w+", shape=(NUM_BANDS, num))
    first = 0
    for signatures in _signatures(facts, parts):
        minhash_NH[first : first + len(signatures)] = signatures
        keys_BN[:, first : first + len(signatures)] = band_keys(signatures).T
        first += len(signatures)
    groups = NearCopies(num)
    for keys_N in keys_BN:
        groups.join_band(np.asarray(keys_N), candidates_C, partial(_agreement, minhash_NH), least)
    for name in ("minhash", "keys"):
        (folder / name).unlink()
    return groups.first_of_each()


def _signatures(facts: list, parts: list[_Rows]) -> Iterator[NDArray[np.uint32]]:  # type: ignore[type-arg]
    for part in parts:
        minhash = facts[part.unit]["minhash"][part.rows]
        yield from (minhash[i : i + ROWS_PER_STEP] for i in range(0, len(minhash), ROWS_PER_STEP))


def _agreement(minhash_NH: NDArray[np.uint32], one: int, others: NDArray[np.int64]) -> NDArray[np.float64]:
    return (minhash_NH[others] == minhash_NH[one]).mean(axis=1)


def _cap_instructions(facts: list, verdicts: list[NDArray[np.uint8]], rules: Rules) -> None:  # type: ignore[type-arg]
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


def _refuse_repeated_ids(facts: list) -> None:  # type: ignore[type-arg]
    ids = np.sort(np.concatenate([f["ids"] for f in facts]))
    num_repeated = int(np.count_nonzero(ids[1:] == ids[:-1]))
    if num_repeated:
        raise DataError(
            f"{num_repeated} documents have the id of another one: give each source a name of its own, or take the id "
            "from a column that is unique (--column sample_id=NAME)"
        )
