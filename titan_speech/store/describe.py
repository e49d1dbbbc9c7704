"""What a store holds, and whether all of it is still right.

In: the path of a store. Out: `describe_store`, a tree of parts with tokens, hours and fingerprints, from the
manifest alone (30 ms at 1,250 shards); `verify_store`, every problem found by reading every byte (150 MB/s):
sizes, sha256 of each file, lengths, the checksum of each sample, ranges, constants and repeated ids.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import NDArray

from titan_speech.errors import DataError
from titan_speech.store.manifest import Kind, Manifest, PartInfo, ShardInfo, Totals, read_manifest
from titan_speech.store.part import ShardReader
from titan_speech.store.store import shard_size_problems, size_problems


@dataclass(frozen=True)
class Verification:
    """Outcome of reading a whole store; it is sound when there are no problems."""

    path: Path
    problems: tuple[str, ...]
    num_files: int
    num_bytes: int
    num_samples: int

    @property
    def is_sound(self) -> bool:
        return not self.problems

    def __str__(self) -> str:
        read = f"{self.num_files} files, {self.num_bytes / 1e6:,.1f} MB, {self.num_samples:,} samples"
        if self.is_sound:
            return f"{self.path}: sound ({read})"
        lines = "\n".join(f"  {problem}" for problem in self.problems)
        return f"{self.path}: {len(self.problems)} problems ({read})\n{lines}"


def describe_store(path: str | Path) -> str:
    """A tree: the store, its totals per language, its parts with their transcript variants."""
    manifest = read_manifest(Path(path))
    lines = [f"{manifest.name}  {path}", *_header(manifest), "", "by language"]
    lines += _totals_table(manifest)
    lines += ["", "parts"]
    for number, part in enumerate(manifest.parts):
        last = number == len(manifest.parts) - 1
        lines += _part_lines(part, "└─" if last else "├─", "  " if last else "│ ")
    return "\n".join(lines)


def _header(manifest: Manifest) -> list[str]:
    codec = manifest.codec
    rate = f"{codec.codes_per_sec:g} codes/s" if codec else ""
    return [
        f"  format version   {manifest.format_version}",
        f"  fingerprint      {manifest.fingerprint}",
        f"  codec            {f'{codec.name}, hash {codec.hash}, {rate}' if codec else 'none: text only'}",
        f"  tokenizer        {manifest.tokenizer.fingerprint}, {manifest.tokenizer.num_base:,} rows",
        f"  normalization    {manifest.normalization_version}",
        f"  licence          {manifest.licence}",
    ]


def _totals_table(manifest: Manifest) -> list[str]:
    rows = [*manifest.totals_by("language").items(), ("all", Totals.of(manifest.parts))]
    return [
        f"  {language:<8} {totals.num_samples:>12,} samples {totals.num_tokens:>16,} tokens "
        f"{totals.num_text_tokens:>14,} transcript tokens {totals.duration_sec / 3600:>10,.2f} h"
        for language, totals in rows
    ]


def _part_lines(part: PartInfo, branch: str, trunk: str) -> Iterator[str]:
    hours = f", {part.duration_sec / 3600:,.2f} h" if part.kind is Kind.SPEECH else ""
    yield (
        f"{branch} {part.folder}: {part.num_samples:,} samples, {part.num_tokens:,} tokens{hours}, "
        f"{len(part.shards)} shards"
    )
    for variant in part.variants:
        yield f"{trunk}   {variant.name}: {variant.num_samples:,} samples, {variant.num_tokens:,} text tokens"


def verify_store(path: str | Path, num_threads: int = 4) -> Verification:
    """Reads everything; a manifest that cannot be read raises, all else is collected."""
    path = Path(path)
    manifest = read_manifest(path)
    shards = [(part, shard) for part in manifest.parts for shard in part.shards]
    missing = size_problems(path, manifest)
    with ThreadPoolExecutor(num_threads) as pool:
        found = pool.map(lambda pair: _shard_problems(path, manifest, *pair), shards)
        problems = [problem for some in found for problem in some]
    files = [file for _, shard in shards for file in shard.files]
    return Verification(
        path=path,
        problems=(*missing, *problems, *(_repeated_ids(path, manifest) if not missing + problems else ())),
        num_files=len(files),
        num_bytes=sum(file.num_bytes for file in files),
        num_samples=sum(part.num_samples for part in manifest.parts),
    )


def _shard_problems(path: Path, manifest: Manifest, part: PartInfo, shard: ShardInfo) -> list[str]:
    if shard_size_problems(path, shard):
        return []  # named already
    reader = ShardReader(path, part, shard, manifest.tokenizer.num_base)
    problems = []
    checks = [lambda: reader.row(0)] + [lambda name=name: reader.samples(name) for name in _suffixes(part)]
    for check in checks:
        try:
            check()
        except DataError as error:
            problems.append(str(error))
    return problems or _content_problems(path, manifest, part, shard, reader)


def _suffixes(part: PartInfo) -> list[str]:
    return ["tokens", *(f"text.{variant.name}" for variant in part.variants)]


def _content_problems(
    path: Path, manifest: Manifest, part: PartInfo, shard: ShardInfo, reader: ShardReader
) -> list[str]:
    """The files are the ones that were written; this checks that what was written fits together."""
    where = path / part.folder / shard.name
    problems = []
    samples, checksums_N = reader.samples("tokens"), reader.column("checksum").to_numpy()
    wrong = [j for j, sum_ in enumerate(checksums_N) if xxhash.xxh3_64_intdigest(samples.get(j).data) != sum_]
    if wrong:
        sample_id = reader.column("sample_id")[wrong[0]]
        problems.append(f"{where}: checksum of sample {sample_id} is wrong (and of {len(wrong) - 1} more)")
    if len(samples.data) != shard.num_tokens:
        problems.append(f"{where}: {len(samples.data)} tokens, the manifest says {shard.num_tokens}")
    for column, expected in _constant_columns(manifest, part):
        others = set(reader.column(column).to_pylist()) - {expected}
        if others:
            problems.append(f"{where}: {column} {sorted(map(str, others))}, the manifest says {expected}")
    return problems


def _constant_columns(manifest: Manifest, part: PartInfo) -> list[tuple[str, str | None]]:
    codec = manifest.codec.hash if manifest.codec and part.kind is Kind.SPEECH else None
    return [
        ("dataset_source", part.dataset_source),
        ("language", part.language),
        ("codec_ckpt_hash", codec),
        ("tokenizer_version", manifest.tokenizer.fingerprint),
        ("normalization_version", manifest.normalization_version),
    ]


def _repeated_ids(path: Path, manifest: Manifest) -> list[str]:
    """Ids are compared by a 64-bit hash (8 bytes a sample); the writer compares the ids themselves."""
    shards = [(info, shard) for info in manifest.parts for shard in info.shards]
    hashes: list[NDArray[np.uint64]] = []
    for info, shard in shards:
        ids = ShardReader(path, info, shard, manifest.tokenizer.num_base).column("sample_id").to_pylist()
        hashes.append(np.array([xxhash.xxh3_64_intdigest(id_.encode()) for id_ in ids], np.uint64))
    hashes_N = np.concatenate(hashes)
    num_repeated = len(hashes_N) - len(np.unique(hashes_N))
    return [f"{path}: {num_repeated} sample ids occur more than once"] if num_repeated else []
