"""Samples that training never reads: the held-out sets of `[data] held_out`.

In: held-out sets (folders, or s3://bucket/prefix) and the stores of a run. Out: the same stores with masked parts. To
every task a held-out sample has no tokens, no text, no speaker and no recording, so no task reads it, pairs it or
stitches it; asking for its tokens nevertheless is an error. Nothing else between store and pack has to know.

Samples are found by id in whatever stores the run names. Parts from which a set was chosen are known by fingerprint and
cost nothing; of other parts the ids are read once when a run starts (2 M samples/s on a busy core).

A store that was added later may have the same recordings under other ids: then a validation scores what was trained on.
`refuse_copies` looks for the codes of held-out samples in stores that the set was not chosen from. Only samples as long
as a held-out one are compared, at most 50,000 of each part, evenly chosen; a store that was imported twice has a copy
among them. Stores in folders alone: each sample of object storage would be a request.

Shapes: N samples of a part.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from titan_speech.config.schema_data import StorageConfig
from titan_speech.errors import DataError
from titan_speech.store.held_out_set import HeldOutSet, read_held_out_set
from titan_speech.store.manifest import Kind
from titan_speech.store.reader import Part, SampleReader, Store
from titan_speech.utils.text_table import counted

HIDDEN_COLUMNS = frozenset({"speaker_id", "source_video_id"})
"""Columns by which clone pairs and stitched documents are made."""


NO_SAMPLES = np.zeros(0, np.int64)


class _MaskedReader(SampleReader):
    """Refuses to read held-out samples."""

    def __init__(self, part: Part, name: str, held_out: frozenset[int]) -> None:
        super().__init__(part, name)
        self._held_out = held_out

    def __call__(self, numbers: Sequence[int]) -> list[memoryview]:
        if not self._held_out.isdisjoint(numbers):
            i = next(i for i in numbers if i in self._held_out)
            raise DataError(
                f"sample {i} of part {self._part.name} is held out from training, or excluded by where, yet was asked "
                "for"
            )
        return super().__call__(numbers)


class MaskedPart(Part):
    """A part with samples that cannot be read: held out from training, or excluded by a source's `where`."""

    def __init__(self, part: Part, held_out: NDArray[np.int64], excluded: NDArray[np.int64] = NO_SAMPLES) -> None:
        """`held_out` and `excluded` have the numbers of the samples, in rising order."""
        super().__init__(part.files, part.info, part._num_base)
        self._part, self.held_out, self.excluded = part, held_out, excluded
        self.hidden = np.union1d(held_out, excluded) if len(excluded) else held_out
        numbers = frozenset(self.hidden.tolist())
        self._sample_readers = {name: _MaskedReader(self, name, numbers) for name in self._sample_readers}

    @cached_property
    def key(self) -> str:
        return hashlib.sha256(self._part.key.encode() + self.hidden.tobytes()).hexdigest()[:16]

    def _length_N(self, column: str, expected_total: int) -> NDArray[np.int32]:  # noqa: N802
        """No task can read a sample without tokens."""
        if column not in self._lengths:
            lengths_N = super()._length_N(column, expected_total).copy()  # the original may be a mapped file
            lengths_N[self.hidden] = 0
            lengths_N.flags.writeable = False
            self._lengths[column] = lengths_N
        return self._lengths[column]

    def column(self, name: str) -> pa.ChunkedArray:
        column = super().column(name)
        if name not in HIDDEN_COLUMNS or not len(column):
            return column
        is_kept_N = np.ones(len(column), np.bool_)
        is_kept_N[self.hidden] = False
        return pa.chunked_array([pc.if_else(pa.array(is_kept_N), column.combine_chunks(), None)])

    def shard_column(self, shard: int, name: str) -> pa.ChunkedArray:
        if name not in HIDDEN_COLUMNS:
            return super().shard_column(shard, name)
        first = self._first_samples[shard]
        return self.column(name).slice(first, self.info.shards[shard].num_samples)

    def __reduce__(self) -> tuple[type[Part], tuple]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return MaskedPart, (self._part, self.held_out, self.excluded)

    def without(self, excluded: NDArray[np.int64]) -> MaskedPart:
        """The part with further samples hidden."""
        return MaskedPart(self._part, self.held_out, excluded)


@dataclass(frozen=True)
class HeldOut:
    """The held-out sets of a run."""

    paths: tuple[str, ...]
    sets: tuple[HeldOutSet, ...]

    @classmethod
    def open(cls, paths: Sequence[str], storage: StorageConfig | None = None) -> HeldOut:
        return cls(tuple(paths), tuple(read_held_out_set(path, storage) for path in paths))

    @property
    def fingerprint(self) -> str | None:
        """Changes with any held-out sample; None without a held-out set."""
        if not self.sets:
            return None
        ids = sorted({sample_id for held_out_set in self.sets for sample_id in held_out_set.held_out.all})
        return hashlib.sha256("\n".join(ids).encode()).hexdigest()[:16]

    def mask(self, stores: Iterable[Store]) -> tuple[str, ...]:
        """Replace the parts of the stores that hold held-out samples by masked ones.

        Returns:
            How many samples of each set were found in each store, one line each.

        Raises:
            DataError: no sample of a set is in the stores.
        """
        stores, lines = list(stores), []
        found_of: dict[tuple[int, int], set[int]] = {}
        for path, held_out_set in zip(self.paths, self.sets, strict=True):
            counts = [self._find(held_out_set, store, found_of, index) for index, store in enumerate(stores)]
            if not sum(counts):
                raise DataError(_not_found(path, held_out_set, stores))
            lines += [
                f"held out by {path}: {count:,} of {counted(len(held_out_set.held_out.all), 'sample')} in store "
                f"{store.path}"
                for store, count in zip(stores, counts, strict=True)
            ]
        for (index, number), found in found_of.items():
            parts = stores[index].parts
            parts[number] = MaskedPart(parts[number], np.array(sorted(found), np.int64))
        return tuple(lines)

    def _find(
        self, held_out_set: HeldOutSet, store: Store, found_of: dict[tuple[int, int], set[int]], index: int
    ) -> int:
        """Add the samples of one set in store `index` to `found_of` (by store and part), and count them."""
        is_source = any(source.fingerprint == store.fingerprint for source in held_out_set.stores)
        ids = pa.array(held_out_set.held_out.all, pa.string())
        count = 0
        for number, part in enumerate(store.parts):
            numbers = held_out_set.numbers.get(part.info.fingerprint, () if is_source else None)
            if numbers is None:
                numbers = _find_ids(part, ids)
            if len(numbers):
                found_of.setdefault((index, number), set()).update(numbers)
                count += len(numbers)
        return count


def _find_ids(part: Part, ids: pa.Array) -> list[int]:
    """Numbers of the part's samples that have one of these ids, read one shard at a time."""
    found: list[int] = []
    first = 0
    for shard, info in enumerate(part.info.shards):
        is_in = pc.is_in(part.shard_column(shard, "sample_id"), value_set=ids)
        found += (np.flatnonzero(is_in.to_numpy()) + first).tolist()
        first += info.num_samples
    return found


def _not_found(path: str, held_out_set: HeldOutSet, stores: Sequence[Store]) -> str:
    chosen_from = ", ".join(f"{store.name} ({store.fingerprint})" for store in held_out_set.stores)
    run = ", ".join(f"{store.path} ({store.fingerprint})" for store in stores)
    return (
        f"held_out {path}: none of its {len(held_out_set.held_out.all):,} samples is in the stores of this run "
        f"({run}); it was chosen from {chosen_from}. Name the held-out set of these stores, or remove it from "
        "data.held_out"
    )


MIN_COMPARED_CODES = 50
"""A second: shorter samples may be the same by chance, as synthesized letters are."""
MAX_COMPARED = 50_000
"""Of a part."""


def refuse_copies(path: str, held_out: HeldOutSet, store: Store, training: Sequence[Store]) -> None:
    """Look for the codes of held-out samples in training stores that the set was not chosen from.

    Args:
        path: of the set.
        held_out: the set.
        store: its samples.
        training: stores of the run.

    Raises:
        DataError: a training sample is a copy of a held-out one.
    """
    known = {source.fingerprint for source in held_out.stores}
    others = [
        (other, part)
        for other in training
        if other.fingerprint not in known
        for part in other.parts
        if part.kind is Kind.SPEECH and part.info.fingerprint not in held_out.numbers and part.files.look_ahead is None
    ]
    if not others:
        return
    ids_of = {
        part.codes(number).tobytes(): part.row(number).sample_id
        for part in store.parts
        if part.kind is Kind.SPEECH
        for number in np.flatnonzero(part.code_len_N >= MIN_COMPARED_CODES).tolist()
    }
    excluded = frozenset(held_out.held_out.all)
    for other, part in others:
        for number, held_out_id in _copies(part, ids_of):
            sample_id = part.row(number).sample_id
            if sample_id not in excluded:
                raise DataError(
                    f"held_out {path} overlaps the training data: sample {sample_id} of {other.path} is a copy of its "
                    f"sample {held_out_id}, with the same {int(part.code_len_N[number]):,} codes. The set was not "
                    "chosen from that store, so copies in it are not excluded: make the set from all stores of the run "
                    "(titan-speech store held-out), or leave that store out"
                )


def _copies(part: Part, ids_of: dict[bytes, str]) -> Iterator[tuple[int, str]]:
    """Numbers of samples of a part, and the ids of the held-out samples with the same codes."""
    lengths = sorted({len(codes) // 2 for codes in ids_of})  # a code has two bytes
    numbers = np.flatnonzero(np.isin(part.code_len_N, lengths))
    step = max(1, -(-len(numbers) // MAX_COMPARED))
    for number in numbers[::step].tolist():
        if held_out_id := ids_of.get(part.codes(number).tobytes()):
            yield number, held_out_id
