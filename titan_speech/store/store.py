"""Opening a token store, local and read-only.

In: a folder written by `StoreWriter`. Out: `Store` with one `Part` per dataset source, language and kind.

Opening reads the manifest and compares every file's size, so missing and truncated files are named together
before anything starts (50 ms per 1,000 shards); contents are checked when a file is first used (part.py).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from titan_speech.errors import DataError
from titan_speech.store.manifest import Kind, Manifest, ShardInfo, read_manifest
from titan_speech.store.part import Part
from titan_speech.text_tokenizer import TextTokenizer

MAX_NAMED_FILES = 10
_UNFINISHED = re.compile(r".+\.tmp-\d+")


class Store:
    """An opened store; pickles to its path and manifest, files are mapped again where they are used."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path, self.manifest = path, manifest
        self.parts = [Part(path, info, manifest.tokenizer.num_base) for info in manifest.parts]

    @property
    def fingerprint(self) -> str:
        return self.manifest.fingerprint

    def part(self, dataset_source: str, language: str, kind: Kind) -> Part:
        for part in self.parts:
            if (part.dataset_source, part.language, part.kind) == (dataset_source, language, kind):
                return part
        known = ", ".join(part.name for part in self.parts)
        raise DataError(f"store {self.path} has no part {dataset_source}.{language}.{kind}; it has {known}")

    def __reduce__(self) -> tuple[type[Store], tuple[Path, Manifest]]:
        return Store, (self.path, self.manifest)


def open_store(path: str | Path) -> Store:
    path = Path(path)
    if _UNFINISHED.fullmatch(path.name):
        raise DataError(f"{path} is the temporary folder of an unfinished build; build the store again")
    manifest = read_manifest(path)
    problems = size_problems(path, manifest)
    if problems:
        rest = len(problems) - MAX_NAMED_FILES
        lines = problems[:MAX_NAMED_FILES] + ([f"and {rest} more files"] if rest > 0 else [])
        raise DataError(
            f"store {path} is incomplete; copy these files again from where it came from, or rebuild it:\n"
            + "\n".join(f"  {line}" for line in lines)
        )
    return Store(path, manifest)


def size_problems(path: Path, manifest: Manifest) -> list[str]:
    """One line for each file that is missing or has another size than the manifest says."""
    shards = (shard for part in manifest.parts for shard in part.shards)
    return [problem for shard in shards for problem in shard_size_problems(path, shard)]


def shard_size_problems(path: Path, shard: ShardInfo) -> list[str]:
    problems = []
    for file in shard.files:
        try:
            num_bytes = (path / file.path).stat().st_size
        except OSError:
            problems.append(f"{file.path} is missing (expected {file.num_bytes} bytes)")
            continue
        if num_bytes != file.num_bytes:
            what = "truncated" if num_bytes < file.num_bytes else "too long"
            problems.append(f"{file.path} is {what}: {num_bytes} bytes, expected {file.num_bytes}")
    return problems


def check_same_codec(stores: Sequence[Store]) -> None:
    """Codes of two codecs are two languages; stores of a run agree on the codec's hash. Text stores pass."""
    codecs = [(store.path, store.manifest.codec) for store in stores if store.manifest.codec is not None]
    if len({codec.hash for _, codec in codecs}) > 1:
        lines = (f"  {path}: codec {codec.name}, hash {codec.hash}" for path, codec in codecs)
        raise DataError(
            "stores made by different codecs cannot be mixed; re-encode one or drop it from the run:\n"
            + "\n".join(lines)
        )


def check_tokenizer(store: Store, tokenizer: TextTokenizer) -> None:
    """Text ids mean what they meant when the store was built."""
    expected = store.manifest.tokenizer.fingerprint
    if tokenizer.fingerprint != expected:
        raise DataError(
            f"store {store.path} was built with tokenizer {expected}, the run has {tokenizer.fingerprint}; "
            "point [tokenizer] path at the tokenizer the store was built with, or rebuild the store"
        )
