"""Opens a token store, in a folder or at s3://bucket/prefix, and reads lengths and samples of its parts.

In: what `StoreWriter` wrote, or `store push` sent. Out: `Store` with one `Part` per dataset source, language and kind:
int32 length arrays, uint16 / uint32 views of the files, sidecar rows. Read-only.

Opening reads the manifest and compares every file's size, so missing and truncated files are named together before
anything starts (50 ms per 1,000 shards; in object storage one listing request per 1,000 objects). Nothing else is read
before it is needed. Lengths come from one parquet column (45 M samples/s) whose pages have checksums; a file's checksum
is verified when it is first opened (utils/checksum.py), so damage is named before its data is used. A random sample
then costs 0.5 us. Lengths of large parts are kept in files (derived_cache.py) and mapped; offsets (4 bytes per sample)
exist for opened shards only.

Shapes: N samples of the part, T tokens of a sample.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from functools import cached_property, partial
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from titan_speech.config.schema_data import StorageConfig
from titan_speech.errors import DataError
from titan_speech.storage.s3_url import S3Url, is_s3
from titan_speech.store.derived_cache import derived_if_many, key_of
from titan_speech.store.files import (
    REPAIR,
    TEXT_DTYPE,
    TOKEN_DTYPES,
    TOKENS,
    LocalFiles,
    StoreFiles,
    size_problems,
    suffix_of,
)
from titan_speech.store.manifest import FileInfo, Kind, Manifest, PartInfo
from titan_speech.store.sample import SampleRow
from titan_speech.store.shard_reader import ShardReader
from titan_speech.tokenization.text_tokenizer import TextTokenizer


class ShardSpan(NamedTuple):
    """Samples [first, stop) of a part are those of this shard."""

    first: int
    stop: int
    shard: ShardReader


class SampleReader:
    """Samples of a part from one kind of file: called with their numbers, returns a view of uint16 or uint32 for each.

    The shard that was read last is tried first. A shard's file may be closed between two calls (remote_files.py) and is
    then opened again.
    """

    def __init__(self, part: Part, name: str) -> None:
        """`name` is TOKENS or a variant."""
        self._part, self._name = part, name
        self._last: ShardSpan | None = None

    def __call__(self, numbers: Sequence[int]) -> list[memoryview]:
        last = self._last
        if last is None or not (last[0] <= min(numbers) and max(numbers) < last[1]):
            if len(numbers) > 1:
                return [self([i])[0] for i in numbers]
            last = self._last = self._part.span_of(numbers[0])
        first, _, shard = last
        data, offsets = shard.opened.get(self._name) or shard.samples(self._name)
        rows = [i - first for i in numbers]
        return [data[offsets[j] : offsets[j + 1]] for j in rows]


class Part:
    """All samples of one dataset source, language and kind, numbered 0..num_samples - 1 in stored order."""

    def __init__(self, files: StoreFiles, info: PartInfo, num_base: int) -> None:
        self.files, self.info, self._num_base = files, info, num_base
        self.dataset_source, self.language, self.kind = info.dataset_source, info.language, info.kind
        self.num_samples, self.num_tokens = info.num_samples, info.num_tokens
        self.variants = tuple(variant.name for variant in info.variants)
        self._first_samples = [0, *accumulate(shard.num_samples for shard in info.shards)][:-1]
        self._lengths: dict[str, NDArray[np.int32]] = {}
        self._readers = [ShardReader(self.files, info, shard, num_base) for shard in info.shards]
        self._sample_readers: dict[str, SampleReader] = {
            name: SampleReader(self, name) for name in (TOKENS, *self.variants)
        }

    @property
    def name(self) -> str:
        return self.info.folder

    @property
    def place(self) -> str:
        """Folder or address of the store."""
        return str(self.files)

    @cached_property
    def key(self) -> str:
        """Fingerprint that changes with any byte of the part, and with the samples that may be read."""
        return self.info.fingerprint

    @property
    def code_len_N(self) -> NDArray[np.int32]:  # noqa: N802
        """Tokens of each sample in .tokens: codes, or text ids of a text part."""
        return self._length_N("code_len", self.num_tokens)

    def text_len_N(self, variant: str) -> NDArray[np.int32]:  # noqa: N802
        """Text tokens of each sample; 0 where a sample lacks the variant."""
        self._check_variant(variant)
        expected = next(v.num_tokens for v in self.info.variants if v.name == variant)
        return self._length_N(f"text_len_{variant}", expected)

    def codes(self, i: int) -> NDArray[np.uint16]:
        """A sample's codes: a read-only view of the file.

        Args:
            i: number of the sample, in the order of the store.

        Returns:
            T codec codes, uint16.

        Raises:
            DataError: the part holds text, or its file is damaged.
        """
        if self.kind is not Kind.SPEECH:
            raise DataError(f"part {self.name} of {self.files} holds text, not speech codes; read its tokens")
        return np.frombuffer(self._sample_readers[TOKENS]([i])[0], TOKEN_DTYPES[self.kind])

    def tokens(self, i: int) -> NDArray[np.uint32]:
        """A text sample's ids: a read-only view of the file.

        Args:
            i: number of the sample, in the order of the store.

        Returns:
            T ids of the store's tokenizer, uint32.

        Raises:
            DataError: the part holds speech, or its file is damaged.
        """
        if self.kind is not Kind.TEXT:
            raise DataError(f"part {self.name} of {self.files} holds speech, not text; read its codes")
        return np.frombuffer(self._sample_readers[TOKENS]([i])[0], TOKEN_DTYPES[self.kind])

    def text(self, i: int, variant: str) -> NDArray[np.uint32]:
        """Ids of one transcript variant; of an instruction, the user's words are the variant `user`.

        Args:
            i: number of the sample, in the order of the store.
            variant: one of `variants`.

        Returns:
            T ids of the store's tokenizer, uint32; none where the sample lacks the variant.

        Raises:
            DataError: the part has no such variant.
        """
        self._check_variant(variant)
        return np.frombuffer(self._sample_readers[variant]([i])[0], TEXT_DTYPE)

    def reader(self, variant: str | None = None) -> SampleReader:
        """Reads many samples: their codes (or the ids of a text part), or one transcript variant."""
        if variant is not None:
            self._check_variant(variant)
        return self._sample_readers[TOKENS if variant is None else variant]

    def row(self, i: int) -> SampleRow:
        """Everything the sidecar records of a sample.

        Args:
            i: number of the sample, in the order of the store.

        Returns:
            Id, speaker, recording, times in seconds, transcripts and lengths.
        """
        shard, j = self.locate(i)
        return self._readers[shard].row(j)

    def column(self, name: str) -> pa.ChunkedArray:
        """A sidecar column of all samples, such as speaker_id; not cached."""
        if not self.num_samples:
            return pa.chunked_array([], pa.null())
        self.files.fetch(shard.file("parquet") for shard in self.info.shards)
        return pa.chunked_array([chunk for reader in self._readers for chunk in reader.column(name).chunks])

    def shard_column(self, shard: int, name: str) -> pa.ChunkedArray:
        """A sidecar column of the samples of one shard."""
        return self._readers[shard].column(name)

    def shard_files(self, number: int, variants: Iterable[str]) -> list[FileInfo]:
        """The files needed to read a shard: its sidecar, its tokens, and the ids of these variants."""
        suffixes = ("parquet", *map(suffix_of, (TOKENS, *variants)))
        return [self.info.shards[number].file(suffix) for suffix in suffixes]

    def span_of(self, i: int) -> ShardSpan:
        """The samples of the shard that holds sample i."""
        shard, j = self.locate(i)
        return ShardSpan(i - j, i - j + self.info.shards[shard].num_samples, self._readers[shard])

    def locate(self, i: int) -> tuple[int, int]:
        """The shard that holds sample i, and the row of the sample in it."""
        if not 0 <= i < self.num_samples:
            raise IndexError(f"part {self.name} has samples 0..{self.num_samples - 1}, asked for {i}")
        shard = bisect_right(self._first_samples, i) - 1
        return shard, i - self._first_samples[shard]

    def _check_variant(self, variant: str) -> None:
        if variant not in self.variants:
            known = ", ".join(self.variants) or "none"
            raise DataError(
                f"part {self.name} of {self.files} has no {variant} text (it has: {known}); "
                "choose another transcript or task for this source"
            )

    def _length_N(self, column: str, expected_total: int) -> NDArray[np.int32]:  # noqa: N802
        if column not in self._lengths:
            key = key_of("lengths", self.info.fingerprint, column)
            read = partial(self._read_lengths, column, expected_total)
            lengths_N = derived_if_many(self.place, self.num_samples, key, read)
            lengths_N.flags.writeable = False
            self._lengths[column] = lengths_N
        return self._lengths[column]

    def _read_lengths(self, column: str, expected_total: int) -> NDArray[np.int32]:
        self.files.fetch(shard.file("parquet") for shard in self.info.shards)
        lengths_N = np.empty(self.num_samples, np.int32)
        for first, reader in zip(self._first_samples, self._readers, strict=True):
            values = reader.column(column).to_numpy()
            lengths_N[first : first + len(values)] = values
        if int(lengths_N.sum(dtype=np.int64)) != expected_total:
            raise DataError(
                f"sidecars of part {self.name} of {self.files} are damaged: {column} adds up to "
                f"{lengths_N.sum(dtype=np.int64)}, the manifest says {expected_total}; {REPAIR}"
            )
        return lengths_N

    def __reduce__(self) -> tuple[type[Part], tuple[StoreFiles, PartInfo, int]]:
        return Part, (self.files, self.info, self._num_base)


MAX_NAMED_FILES = 10
_UNFINISHED = re.compile(r".+\.tmp-\d+")


class Store:
    """An opened store; pickles to its place and manifest, and files are mapped again where they are used."""

    def __init__(self, files: StoreFiles, manifest: Manifest) -> None:
        self.files, self.manifest = files, manifest
        self.parts = [Part(files, info, manifest.tokenizer.num_base) for info in manifest.parts]

    @property
    def path(self) -> str:
        """Folder or address, for messages."""
        return str(self.files)

    @property
    def fingerprint(self) -> str:
        return self.manifest.fingerprint

    def part(self, dataset_source: str, language: str, kind: Kind) -> Part:
        """The part of one source, language and kind.

        Args:
            dataset_source: name of the source.
            language: BCP 47 tag.
            kind: speech or text.

        Raises:
            DataError: the store has no such part; its parts are named.
        """
        for part in self.parts:
            if (part.dataset_source, part.language, part.kind) == (dataset_source, language, kind):
                return part
        known = ", ".join(part.name for part in self.parts)
        raise DataError(f"store {self.path} has no part {dataset_source}.{language}.{kind}; it has {known}")

    def __reduce__(self) -> tuple[type[Store], tuple[StoreFiles, Manifest]]:
        return Store, (self.files, self.manifest)


def open_store(path: str | Path, storage: StorageConfig | None = None) -> Store:
    """Opens a store and compares the size of every file.

    Args:
        path: a folder, or s3://bucket/prefix.
        storage: how object storage is reached and cached; by default the environment and the defaults.

    Raises:
        DataError: there is no store, its manifest is damaged, or files are missing or have another size.
    """
    files = store_files(path, storage)
    manifest = files.manifest()
    problems = size_problems(files, manifest)
    if problems:
        rest = len(problems) - MAX_NAMED_FILES
        lines = problems[:MAX_NAMED_FILES] + ([f"and {rest} more files"] if rest > 0 else [])
        raise DataError(
            f"store {path} is incomplete; copy these files again from where it came from, or rebuild it:\n"
            + "\n".join(f"  {line}" for line in lines)
        )
    return Store(files, manifest)


def store_files(path: str | Path, storage: StorageConfig | None = None) -> StoreFiles:
    """The files of a store in a folder or at s3://bucket/prefix; nothing is read yet."""
    if is_s3(path):
        from titan_speech.store.remote_files import RemoteFiles  # boto3 takes 0.2 s to import

        return RemoteFiles(S3Url.parse(path), storage or StorageConfig())
    if _UNFINISHED.fullmatch(Path(path).name):
        raise DataError(f"{path} is the temporary folder of an unfinished build; build the store again")
    return LocalFiles(Path(path))


def check_same_codec(stores: Sequence[Store]) -> None:
    """Refuses speech stores whose codecs differ by hash: codes of one codec mean nothing to another."""
    codecs = [(store.path, store.manifest.codec) for store in stores if store.manifest.codec is not None]
    if len({codec.hash for _, codec in codecs}) > 1:
        lines = (f"  {path}: codec {codec.name}, hash {codec.hash}" for path, codec in codecs)
        raise DataError(
            "stores made by different codecs cannot be mixed; re-encode one or drop it from the run:\n"
            + "\n".join(lines)
        )


def check_tokenizer(store: Store, tokenizer: TextTokenizer) -> None:
    """Refuses a tokenizer other than the one that made the store's text ids, or that one with further markup."""
    expected = store.manifest.tokenizer.fingerprint
    if expected not in (tokenizer.fingerprint, *tokenizer.older_fingerprints):
        raise DataError(
            f"store {store.path} was built with tokenizer {expected}, the run has {tokenizer.fingerprint}; "
            "point [tokenizer] path at the tokenizer the store was built with, or rebuild the store"
        )
