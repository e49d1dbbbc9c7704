"""Opening a token store, read-only: in a folder, or at s3://bucket/prefix.

In: what `StoreWriter` wrote, or `store push` sent. Out: `Store` with one `Part` per dataset source, language and kind.

Opening reads the manifest and compares every file's size, so missing and truncated files are named together
before anything starts (50 ms per 1,000 shards; one listing of 1,000 objects a request); contents are checked when a
file is first used (part.py). A part's sidecars are fetched together when its lengths are first asked for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from titan_speech.config.tables import StorageTable
from titan_speech.errors import DataError
from titan_speech.remote.url import is_s3
from titan_speech.store.files import LocalFiles, StoreFiles
from titan_speech.store.manifest import Kind, Manifest
from titan_speech.store.part import Part
from titan_speech.text_tokenizer import TextTokenizer

MAX_NAMED_FILES = 10
_UNFINISHED = re.compile(r".+\.tmp-\d+")


class Store:
    """An opened store; pickles to its place and manifest, files are mapped again where they are used."""

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
        for part in self.parts:
            if (part.dataset_source, part.language, part.kind) == (dataset_source, language, kind):
                return part
        known = ", ".join(part.name for part in self.parts)
        raise DataError(f"store {self.path} has no part {dataset_source}.{language}.{kind}; it has {known}")

    def __reduce__(self) -> tuple[type[Store], tuple[StoreFiles, Manifest]]:
        return Store, (self.files, self.manifest)


def open_store(path: str | Path, storage: StorageTable | None = None) -> Store:
    """`storage` says how s3:// is reached and cached; without it the environment and the defaults do."""
    files = store_files(path, storage)
    manifest = files.manifest()
    problems = files.size_problems(manifest)
    if problems:
        rest = len(problems) - MAX_NAMED_FILES
        lines = problems[:MAX_NAMED_FILES] + ([f"and {rest} more files"] if rest > 0 else [])
        raise DataError(
            f"store {path} is incomplete; copy these files again from where it came from, or rebuild it:\n"
            + "\n".join(f"  {line}" for line in lines)
        )
    return Store(files, manifest)


def store_files(path: str | Path, storage: StorageTable | None = None) -> StoreFiles:
    """The files of the store there; a folder or s3://bucket/prefix."""
    if is_s3(path):
        from titan_speech.remote.files import remote_files  # boto3 takes 0.2 s to import

        return remote_files(path, storage)
    if _UNFINISHED.fullmatch(Path(path).name):
        raise DataError(f"{path} is the temporary folder of an unfinished build; build the store again")
    return LocalFiles(Path(path))


@contextmanager
def stored_files(path: str | Path, storage: StorageTable | None = None) -> Iterator[StoreFiles]:
    """As `store_files`, for looking at what is stored now: no copy that a cache has stands in for it."""
    if not is_s3(path):
        yield store_files(path)
        return
    from titan_speech.remote.copies import cache_folder
    from titan_speech.remote.scratch import scratch_cache

    storage = storage or StorageTable()
    with scratch_cache(cache_folder(storage)) as folder:
        yield store_files(path, replace(storage, cache_dir=str(folder)))


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
