"""Verifies one shard of a store, byte by byte.

In: a shard as the manifest describes it. Out: `CheckedShard`: what is wrong with it, and the keys of its samples, by
which order and repeated ids are found over shards. Problems name files by their path in the store. A damaged file is
still read as far as possible, to name the samples concerned.

Shapes: N samples of the shard.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from titan_speech.errors import DataError
from titan_speech.store.external_sort import checksums, order_keys
from titan_speech.store.files import TOKENS, StoreFiles, dtype_of, length_column, suffix_of
from titan_speech.store.manifest import FileInfo, Kind, Manifest, PartInfo, ShardInfo, split_versions
from titan_speech.store.shard_reader import CONSTANT_COLUMNS, read_sidecar
from titan_speech.tokenization.vocabulary import bad_text_id
from titan_speech.utils.text_table import counted


@dataclass(frozen=True)
class CheckedShard:
    """The result of reading a shard."""

    part: PartInfo
    shard: ShardInfo
    problems: tuple[str, ...]
    key_N: NDArray[np.uint64]
    """Keys of its samples in stored order; empty if its sidecar cannot be read."""
    num_text_tokens: dict[str, int]
    """By transcript variant."""

    @property
    def sidecar(self) -> str:
        return self.shard.file("parquet").path


class ShardCheck:
    """Reads shards of one store; threads may share it."""

    def __init__(self, store: StoreFiles, manifest: Manifest) -> None:
        self.files, self.manifest = store, manifest
        self.path_of_sha256 = {file.sha256: file.path for file in manifest.files}

    def shard(self, part: PartInfo, shard: ShardInfo) -> CheckedShard:
        problems = [problem for file in shard.files for problem in self._content_problems(file)]
        try:
            return self._compared(part, shard, problems)
        except Exception as error:  # columns of other types, lengths beyond memory: files that fit their checksums
            found = f"{part.folder}/{shard.name} cannot be checked ({type(error).__name__}: {str(error)[:200]})"
            return CheckedShard(part, shard, (*problems, found), np.empty(0, np.uint64), {})

    def _compared(self, part: PartInfo, shard: ShardInfo, problems: list[str]) -> CheckedShard:
        """Compares the rows of the sidecar with the manifest and with the files."""
        names = (TOKENS, *(variant.name for variant in part.variants))
        try:
            columns = ["sample_id", "checksum", *map(length_column, names), *CONSTANT_COLUMNS]
            table = read_sidecar(self.files, part, shard, columns)
        except (FileNotFoundError, DataError) as error:
            if not problems and not isinstance(error, FileNotFoundError):
                problems.append(str(error))
            return CheckedShard(part, shard, tuple(problems), np.empty(0, np.uint64), {})
        if table.num_rows != shard.num_samples:
            found = f"{shard.file('parquet').path} has {counted(table.num_rows, 'row')}"
            problems.append(f"{found}, the manifest says {shard.num_samples}")
        problems += self._constant_problems(part, shard, table)
        for name in names:
            problems += self._sample_problems(part, shard.file(suffix_of(name)), name, table)
        keys = order_keys(table["sample_id"], self.manifest.seed)
        sums = {v.name: int(table[f"text_len_{v.name}"].to_numpy().sum(dtype=np.int64)) for v in part.variants}
        return CheckedShard(part, shard, tuple(problems), keys, sums)

    def _content_problems(self, file: FileInfo) -> list[str]:
        """Compares the bytes with those that were written; a file with another file's contents names that file."""
        try:
            found = self.files.sha256(file)
        except FileNotFoundError:
            return []  # its size was reported as missing
        except (OSError, DataError) as error:
            return [f"{file.path} cannot be read: {error}"]
        if found == file.sha256:
            return []
        other = self.path_of_sha256.get(found)
        if other is not None:
            return [f"{file.path} holds the contents of {other}: the files were swapped, or one copied over the other"]
        return [f"{file.path} is damaged: sha256 {found[:16]}..., expected {file.sha256[:16]}..."]

    def _constant_problems(self, part: PartInfo, shard: ShardInfo, table: pa.Table) -> list[str]:
        """Compares columns that have one value per shard with the manifest."""
        manifest = self.manifest
        codec = manifest.codec.hash if manifest.codec and part.kind is Kind.SPEECH else None
        versions = (manifest.tokenizer.fingerprint, manifest.normalization_version)
        problems = []
        for column, expected in zip(
            CONSTANT_COLUMNS, (part.dataset_source, part.language, codec, *versions), strict=True
        ):
            allowed = split_versions(versions[1]) if column == "normalization_version" else [expected]
            others = set(table[column].unique().to_pylist()) - set(allowed)
            if others:
                found = ", ".join(sorted(map(str, others)))
                problems.append(f"{shard.file('parquet').path}: {column} {found}, the manifest says {expected}")
        return problems

    def _sample_problems(self, part: PartInfo, file: FileInfo, name: str, table: pa.Table) -> list[str]:
        """Checks lengths, ranges and checksums of one file's samples; `name` is TOKENS or a variant."""
        data = self.files.unverified_array(file, dtype_of(name, part.kind))
        if data is None:
            return []  # reported already
        offset_N1 = np.concatenate([[0], np.cumsum(table[length_column(name)].to_numpy(), dtype=np.int64)])
        if offset_N1[-1] != len(data):
            return [f"{file.path} has {counted(len(data), 'token')}, its sidecar says {offset_N1[-1]}"]
        if name == TOKENS:
            wrong = np.flatnonzero(checksums(data, offset_N1) != table["checksum"].to_numpy())
            if len(wrong):
                rest = f" (and of {len(wrong) - 1} more)" if len(wrong) > 1 else ""
                sample_id = table["sample_id"][int(wrong[0])]
                return [f"{file.path}: checksum of sample {sample_id} is wrong{rest}"]
        num_base = self.manifest.tokenizer.num_base
        is_text = name != TOKENS or part.kind is Kind.TEXT
        if is_text and (bad := bad_text_id(data, num_base)) is not None:
            return [f"{file.path} holds text id {bad}, expected less than {num_base}"]
        return []
