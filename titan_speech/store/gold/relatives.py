"""Samples that must be held out along with chosen ones: of the same recording or speaker, and copies.

In: stores and chosen samples. Out: every sample of the stores that is related to one of them, and how. One pass over
four sidecar columns, a thread a shard. Recordings and copies (equal codes by checksum, equal native transcripts by
hash) are found in any dataset source, speakers in their own: names of speakers mean something there only.

Shapes: N samples of a shard.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from titan_speech.store.gold.candidates import Candidate
from titan_speech.store.manifest import Kind, PartInfo
from titan_speech.store.store import Store
from titan_speech.store.verify_shard import read_sidecar

NUM_THREADS = 4


@dataclass(frozen=True)
class Related:
    """A sample related to a chosen one, itself included."""

    store: int
    part: PartInfo
    number: int
    """In the part."""
    sample_id: str
    is_copy: bool
    checksum: int
    transcript_hash: str | None


@dataclass(frozen=True)
class Wanted:
    """What a relative shares with a chosen sample."""

    by: str | None
    """Column of the recording or speaker; None looks for copies only."""
    values_of_source: dict[str | None, pa.Array]
    """Its values by dataset source; under None those that count in every one."""
    checksums: pa.Array
    transcripts: pa.Array

    @classmethod
    def of(cls, chosen: Sequence[Candidate], by: str | None) -> Wanted:
        values: dict[str | None, set[str]] = {}
        for candidate in chosen if by else ():
            value = getattr(candidate, by or "")
            if value is not None:
                source = candidate.part.dataset_source if by == "speaker_id" else None
                values.setdefault(source, set()).add(value)
        return cls(
            by,
            {source: pa.array(sorted(some), pa.string()) for source, some in values.items()},
            pa.array(sorted({candidate.checksum for candidate in chosen}), pa.uint64()),
            pa.array(sorted({c.transcript_hash for c in chosen if c.transcript_hash is not None}), pa.string()),
        )


def relatives(stores: Sequence[Store], wanted: Wanted) -> list[Related]:
    """In the order of stores, parts and samples."""
    places = [
        (number, part, shard)
        for number, store in enumerate(stores)
        for part in store.manifest.parts
        for shard in range(len(part.shards))
    ]

    def of_place(place: tuple[int, PartInfo, int]) -> list[Related]:
        number, part, shard = place
        return _of_shard(stores[number], number, part, shard, wanted)

    with ThreadPoolExecutor(NUM_THREADS) as pool:
        found = pool.map(of_place, places)
        return [related for some in found for related in some]


def _of_shard(store: Store, number: int, part: PartInfo, shard: int, wanted: Wanted) -> list[Related]:
    has_transcripts = part.kind is Kind.SPEECH
    values = wanted.values_of_source.get(part.dataset_source if wanted.by == "speaker_id" else None)
    columns = ["sample_id", "checksum", *(["transcript_hash"] if has_transcripts else [])]
    columns += [wanted.by] if wanted.by is not None and values is not None else []
    table = read_sidecar(store.files, part, part.shards[shard], columns)
    copy_N = _is_in(table["checksum"], wanted.checksums)
    if has_transcripts:
        copy_N |= _is_in(table["transcript_hash"], wanted.transcripts)
    related_N = copy_N.copy()
    if wanted.by is not None and values is not None:
        related_N |= _is_in(table[wanted.by], values)
    rows = np.flatnonzero(related_N)
    some = table.take(pa.array(rows))
    hashes = some["transcript_hash"].to_pylist() if has_transcripts else [None] * len(rows)
    first = sum(info.num_samples for info in part.shards[:shard])
    columns_of = zip(rows.tolist(), some["sample_id"].to_pylist(), some["checksum"].to_pylist(), hashes, strict=True)
    return [
        Related(number, part, first + row, sample_id, bool(copy_N[row]), checksum, hash_)
        for row, sample_id, checksum, hash_ in columns_of
    ]


def _is_in(column: pa.ChunkedArray, values: pa.Array) -> NDArray[np.bool_]:
    return pc.is_in(column, value_set=values).to_numpy() & column.is_valid().to_numpy()  # pyright: ignore


def num_copies(found: Iterable[Related], candidates: Sequence[Candidate]) -> dict[str, int]:
    """How many samples have the codes or the transcript of each candidate, itself included."""
    codes, texts = Counter[int](), Counter[str]()
    for related in found:
        codes[related.checksum] += 1
        if related.transcript_hash is not None:
            texts[related.transcript_hash] += 1
    return {
        c.sample_id: max(codes[c.checksum], texts[c.transcript_hash] if c.transcript_hash is not None else 0)
        for c in candidates
    }
