"""Finds candidates for a held-out set, and the samples related to them: same recording or speaker, and copies.

In: stores, and a part or chosen samples. Out: `Candidate`s in random order, and every `Related` sample of the stores. A
part is stored in a random order already, so its candidates are the samples that fit, beginning at a place given by the
seed: a few shards are read, whatever the part's size. Related samples take one pass over four sidecar columns, a thread
per shard. Recordings and copies (equal codes by checksum, equal native transcripts by hash) are found in any dataset
source, speakers in their own only, since names of speakers differ between sources.

Shapes: N samples of a shard.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from numpy.typing import NDArray

from titan_speech.store.files import length_column
from titan_speech.store.manifest import Kind, PartInfo, PartKey
from titan_speech.store.reader import Store
from titan_speech.store.sample import CHOSEN, REJECTED, TRANSCRIPT_VARIANTS, VOICE
from titan_speech.store.shard_reader import read_sidecar

FRAMING_TOKENS = 16
"""At least what a prompt adds to a sample's tokens."""
OF_A_PAIR = (CHOSEN, REJECTED, VOICE)
NUM_THREADS = 4


@dataclass(frozen=True)
class Candidate:
    """One sample and its place."""

    store: int
    part: PartInfo
    shard: int
    row: int
    """In the shard."""
    sample_id: str
    num_tokens: int
    """Codes or ids, and its longest transcript."""
    has_transcript: bool
    speaker_id: str | None
    source_video_id: str | None
    checksum: int
    transcript_hash: str | None


def candidates_of(stores: Sequence[Store], key: PartKey, seed: int, max_tokens: int) -> Iterator[Candidate]:
    """All samples of a part that fit, in random order and read as they are needed; stores take turns."""
    streams = [
        _candidates_of_part(store, number, part, seed, max_tokens)
        for number, store in enumerate(stores)
        for part in store.manifest.parts
        if part.key == key
    ]
    while streams:
        for stream in list(streams):
            candidate = next(stream, None)
            if candidate is None:
                streams.remove(stream)
            else:
                yield candidate


def _candidates_of_part(store: Store, number: int, part: PartInfo, seed: int, max_tokens: int) -> Iterator[Candidate]:
    count = len(part.shards)
    place = xxhash.xxh3_64_intdigest(part.folder.encode(), seed) / 2**64 * count
    first, fraction = int(place), place - int(place)
    for step in range(count + 1):
        shard = (first + step) % count
        samples = list(_candidates_in_shard(store, number, part, shard, max_tokens))
        cut = int(fraction * len(samples))
        yield from samples[cut:] if step == 0 else samples[:cut] if step == count else samples


def _candidates_in_shard(store: Store, number: int, part: PartInfo, shard: int, max_tokens: int) -> Iterator[Candidate]:
    names = ["sample_id", "speaker_id", "source_video_id", "checksum", "code_len"]
    names += ["transcript_hash"] if part.kind is Kind.SPEECH else []
    names += [length_column(variant.name) for variant in part.variants]
    table = read_sidecar(store.files, part, part.shards[shard], names)
    tokens_N, text_N = _lengths(table, part)
    fits = np.flatnonzero((tokens_N > 0) & (tokens_N + text_N + FRAMING_TOKENS <= max_tokens))
    kept = table.take(pa.array(fits))
    columns = {name: kept[name].to_pylist() for name in kept.column_names}
    absent = [None] * len(fits)
    for j, row in enumerate(fits.tolist()):
        yield Candidate(
            store=number,
            part=part,
            shard=shard,
            row=row,
            sample_id=columns["sample_id"][j],
            num_tokens=int(tokens_N[row] + text_N[row]),
            has_transcript=bool(text_N[row] > 0) and part.kind is Kind.SPEECH,
            speaker_id=columns["speaker_id"][j],
            source_video_id=columns["source_video_id"][j],
            checksum=columns["checksum"][j],
            transcript_hash=columns.get("transcript_hash", absent)[j],
        )


def _lengths(table: pa.Table, part: PartInfo) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Tokens of each sample, and of its longest transcript (or user's words)."""
    text_N = np.zeros(table.num_rows, np.int64)
    for variant in part.variants:
        if part.kind is Kind.TEXT or variant.name in TRANSCRIPT_VARIANTS:
            text_N = np.maximum(text_N, table[f"text_len_{variant.name}"].to_numpy())
    return table["code_len"].to_numpy().astype(np.int64), text_N


def find_references(
    stores: Sequence[Store], prompts: Sequence[Candidate], max_tokens: int, taken: set[str]
) -> list[tuple[Candidate, Candidate | None]]:
    """Each prompt with another transcribed sample of its speaker that fits into the sequence with it, or None."""
    wanted = {(prompt.store, prompt.part.folder) for prompt in prompts if prompt.speaker_id is not None}
    found: dict[str, Candidate] = {}
    for number, folder in sorted(wanted):
        open_prompts = [p for p in prompts if (p.store, p.part.folder) == (number, folder) and p.has_transcript]
        if not open_prompts:
            continue
        for candidate in _candidates_of_part(stores[number], number, open_prompts[0].part, 0, max_tokens):
            for prompt in open_prompts:
                if _is_reference(candidate, prompt, max_tokens) and candidate.sample_id not in taken:
                    found.setdefault(prompt.sample_id, candidate)
            open_prompts = [p for p in open_prompts if p.sample_id not in found]
            if not open_prompts:
                break
    return [(prompt, found.get(prompt.sample_id)) for prompt in prompts]


def _is_reference(candidate: Candidate, prompt: Candidate, max_tokens: int) -> bool:
    return (
        candidate.speaker_id == prompt.speaker_id
        and candidate.sample_id != prompt.sample_id
        and candidate.has_transcript
        and candidate.num_tokens + prompt.num_tokens + 2 * FRAMING_TOKENS <= max_tokens
    )


def find_other_answers(stores: Sequence[Store], chosen: Sequence[Candidate], max_tokens: int) -> list[Candidate]:
    """The other samples of the preference pairs among chosen samples: a pair is read as a whole or not at all."""
    wanted: dict[tuple[int, str], set[str]] = {}
    parts: dict[tuple[int, str], PartInfo] = {}
    for candidate in chosen:
        for end in OF_A_PAIR:
            if candidate.sample_id.endswith(end):
                place, prompt = (candidate.store, candidate.part.folder), candidate.sample_id.removesuffix(end)
                wanted.setdefault(place, set()).update(prompt + other for other in OF_A_PAIR if other != end)
                parts[place] = candidate.part
    return [
        candidate
        for (number, folder), ids in sorted(wanted.items())
        for candidate in _candidates_of_part(stores[number], number, parts[number, folder], 0, max_tokens)
        if candidate.sample_id in ids
    ]


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
class SharedValues:
    """What a related sample has in common with a chosen one."""

    by: str | None
    """Column of the recording or speaker; None looks for copies only."""
    values_of_source: dict[str | None, pa.Array]
    """Its values by dataset source; under None those that count in every one."""
    checksums: pa.Array
    transcripts: pa.Array

    @classmethod
    def of(cls, chosen: Sequence[Candidate], by: str | None) -> SharedValues:
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


def find_related(stores: Sequence[Store], wanted: SharedValues) -> list[Related]:
    """Every sample that shares a value with a chosen one, in the order of stores, parts and samples."""
    places = [
        (number, part, shard)
        for number, store in enumerate(stores)
        for part in store.manifest.parts
        for shard in range(len(part.shards))
    ]

    def of_place(place: tuple[int, PartInfo, int]) -> list[Related]:
        number, part, shard = place
        return _related_in_shard(stores[number], number, part, shard, wanted)

    with ThreadPoolExecutor(NUM_THREADS) as pool:
        return [related for some in pool.map(of_place, places) for related in some]


def _related_in_shard(store: Store, number: int, part: PartInfo, shard: int, wanted: SharedValues) -> list[Related]:
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


def count_copies(found: Iterable[Related], candidates: Sequence[Candidate]) -> dict[str, int]:
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
