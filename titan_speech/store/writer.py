"""Writes a token store from samples in memory, whole or not at all.

In: samples with codes and transcripts, or with text, in any order. Out: a folder that `open_store` opens:

    STORE/manifest.json                  written last
    STORE/<part>/00000.tokens            uint16 codes or uint32 text ids, samples back to back
    STORE/<part>/00000.text.<variant>    uint32 ids of one transcript variant, samples back to back
    STORE/<part>/00000.parquet           one row per sample, in the same order

Everything is written to STORE.tmp-<pid> and renamed at the end, so a killed build leaves nothing that opens. Bad
samples are collected, not written, and named together when the build ends; the store is then not made. One process
writes 10 M tokens per second of CPU time from arrays of 500 codes, 5 M with a transcript to tokenize for each.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from numpy.typing import ArrayLike

from titan_speech.errors import DataError
from titan_speech.storage.s3_url import S3Url, is_s3
from titan_speech.store.files import LocalFiles
from titan_speech.store.manifest import MANIFEST_NAME, CodecInfo, Manifest, PartInfo, TokenizerInfo
from titan_speech.store.problems import Problems
from titan_speech.store.sample import SampleInfo
from titan_speech.store.sample_conflicts import find_conflicts
from titan_speech.store.sample_sorter import SampleSorter, StoreSettings
from titan_speech.store.shard_writer import by_part, write_part
from titan_speech.store.tasks import count_tasks
from titan_speech.tokenization.text_tokenizer import TextTokenizer
from titan_speech.utils.files import write_atomically

logger = logging.getLogger(__name__)

SHARD_BYTES, MAX_SHARD_BYTES = 128 << 20, 4 << 30


class StoreWriter:
    """Context manager: the store exists when the block ends without an error, otherwise nothing is left."""

    def __init__(
        self,
        path: str | Path,
        *,
        name: str,
        codec: CodecInfo | None,
        tokenizer: TextTokenizer,
        normalization_version: str,
        licence: str,
        seed: int = 0,
        shard_bytes: int = SHARD_BYTES,
        created: str | None = None,
    ) -> None:
        check_shard_bytes(shard_bytes)
        self.path = Path(path)
        self.codec, self.tokenizer = codec, tokenizer
        self.manifest = Manifest(
            name=name,
            licence=licence,
            codec=codec,
            tokenizer=TokenizerInfo(tokenizer.fingerprint, tokenizer.num_base),
            normalization_version=normalization_version,
            seed=seed,
            parts=(),
            created=created,
        )
        self._shard_bytes = shard_bytes
        self._problems = Problems(f"store {self.path} was not built")
        self._folder = fresh_folder(self.path)
        self._runs_folder = self._folder / "spill"
        self._duration_mismatches = Problems("", limit=None)
        settings = StoreSettings(tokenizer, codec, normalization_version, seed)
        self._sorter = SampleSorter(self._runs_folder, settings, self._problems.add, self._duration_mismatches.add)

    def add_speech(self, info: SampleInfo, codes: ArrayLike, transcripts: Mapping[str, str] | None = None) -> None:
        """Adds a sample of speech.

        Args:
            info: id, source, language, speaker and times of the sample.
            codes: T codec codes, integers 0 to 65,535, 50 per second.
            transcripts: text by variant: `native`, `romanized`, others; `description` is a voice description.

        A bad sample is not raised here: `close` names all of them together.
        """
        self._sorter.add_speech(info, codes, transcripts)

    def add_text(self, info: SampleInfo, text: str, user: str | None = None) -> None:
        """Adds a document.

        Args:
            info: id, source and language of the document.
            text: the document; of an instruction, the answer.
            user: of an instruction, what the user says.
        """
        self._sorter.add_text(info, text, user)

    def add_file(self, name: str, content: str) -> None:
        """Adds a file next to the manifest, which does not list it: a record of how the store was made."""
        write_atomically(self._folder / name, content)

    def close(self) -> Manifest:
        """Writes shards and manifest and moves the store into place; `with` does this at the end.

        Raises:
            DataError: samples are bad or contradict each other, no sample was added, or the path is in use.
        """
        runs = self._sorter.finish()
        find_conflicts(runs, self._problems)
        self._problems.raise_if_any()
        if not runs:
            raise DataError(f"store {self.path} was not built: no samples were added")
        if self._duration_mismatches.found:
            logger.warning("%s", duration_warning(self._duration_mismatches))
        parts = tuple(write_part(some, self._folder, self._shard_bytes, self.codec) for some in by_part(runs).values())
        self.manifest = complete_manifest(self.manifest, parts, self._folder)
        shutil.rmtree(self._runs_folder)
        publish(self.manifest, self._folder, self.path)
        return self.manifest

    def abort(self) -> None:
        """Removes everything that was written."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self.close()
        finally:
            if self._folder.exists():
                self.abort()


def check_shard_bytes(shard_bytes: int) -> None:
    if not 0 < shard_bytes <= MAX_SHARD_BYTES:
        raise DataError(
            f"shard_bytes is {shard_bytes}; expected 1..{MAX_SHARD_BYTES} (--shard-mb: above 0, up to "
            f"{MAX_SHARD_BYTES >> 20}; 128 is usual)"
        )


def duration_warning(mismatches: Problems) -> str:
    """The warning about samples whose times do not match the length of their codes."""
    return (
        f"samples whose times do not match the length of their codes: {mismatches.count:,}; they are in the store, and "
        f"titan-speech store audit judges how many are too many:\n{mismatches.lines()}"
    )


def complete_manifest(manifest: Manifest, parts: tuple[PartInfo, ...], store: Path) -> Manifest:
    """The manifest with the parts written in `store`, samples per task, and its fingerprint."""
    return replace(manifest, parts=parts, tasks=count_tasks(LocalFiles(store), parts)).sealed()


def write_manifest(manifest: Manifest, store: Path) -> None:
    """Writes the last of a store's files; it is flushed to disk when this returns."""
    write_atomically(store / MANIFEST_NAME, manifest.to_json())


def publish(manifest: Manifest, folder: Path, path: Path) -> None:
    """Writes the manifest and moves the finished store to its place.

    Raises:
        DataError: the place is taken.
    """
    write_manifest(manifest, folder)
    try:
        os.rename(folder, path)
    except OSError as error:
        raise DataError(f"{path} appeared during the build ({error}); it was left unchanged") from error


def fresh_folder(path: Path) -> Path:
    """Makes the temporary folder next to a new store; neither may exist."""
    if is_s3(path):
        raise DataError(f"{S3Url.parse(path)} is not a folder: write to one, then send it with titan-speech store push")
    if path.exists():
        raise DataError(f"{path} exists already and a store is never changed: choose another path or delete it")
    folder = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    if folder.exists():
        raise DataError(f"{folder} exists already; delete it if no build of {path} is running")
    for left in path.parent.glob(f"{path.name}.tmp-*"):
        logger.warning("%s belongs to another build; delete it if that build is not running", left)
    folder.mkdir(parents=True)
    return folder
