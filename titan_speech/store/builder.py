"""Building a token store: one writer, all or nothing.

In: samples with codes and transcripts, or with text, in any order. Out: a folder that `open_store` opens:

    STORE/manifest.json                  written last
    STORE/<part>/00000.tokens            uint16 codes or uint32 text ids, samples back to back
    STORE/<part>/00000.text.<variant>    uint32 ids of one transcript variant, samples back to back
    STORE/<part>/00000.parquet           one row a sample, in the same order

All is written to STORE.tmp-<pid> and renamed at the end, so a killed build leaves nothing that opens. Bad
samples are collected, not written, and named together when the build ends; the store is then not made. One
process builds 6 M tokens/s from arrays of 500 codes, 2 with a transcript to tokenize for each.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import ArrayLike, NDArray

from titan_speech.errors import DataError
from titan_speech.store.manifest import MANIFEST_NAME, CodecInfo, Kind, Manifest, TokenizerInfo
from titan_speech.store.problems import Problem, Problems
from titan_speech.store.samples import (
    SampleInfo,
    SampleRow,
    blank_problems,
    code_problems,
    info_problems,
    transcript_problems,
)
from titan_speech.store.shards import TEXT_DTYPE, TOKEN_DTYPES, PartKey, PartSpill, flush_to_disk, write_part
from titan_speech.text_tokenizer import TextTokenizer

logger = logging.getLogger(__name__)

MAX_SHARD_BYTES = 4 << 30


class StoreWriter:
    """Context manager; the store exists when the block ends without an error, otherwise nothing is left."""

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
        shard_bytes: int = 128 << 20,
        created: str | None = None,
    ) -> None:
        if not 0 < shard_bytes <= MAX_SHARD_BYTES:
            raise DataError(f"shard_bytes is {shard_bytes}; expected 1..{MAX_SHARD_BYTES} (128 MB is usual)")
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
        self._spills: dict[PartKey, PartSpill] = {}
        self._folder = _fresh_folder(self.path)
        self._spill_folder = self._folder / "spill"

    def add_speech(self, info: SampleInfo, codes: ArrayLike, transcripts: Mapping[str, str] | None = None) -> None:
        """A sample of speech; `transcripts` by variant, a voice description as the variant `description`."""
        texts = dict(transcripts or {})
        codes_T = np.asarray(codes)
        problems = info_problems(info) + code_problems(codes_T) + transcript_problems(texts)
        if self.codec is None:
            problems.append(Problem("codec", "speech in a store without a codec: give StoreWriter its codec"))
        if self._refused(info, problems):
            return
        columns: dict[str, Any] = {f"transcript_{variant}": text for variant, text in texts.items()}
        columns["codec_ckpt_hash"] = self.codec.hash if self.codec is not None else None
        if "native" in texts:
            columns["transcript_hash"] = hashlib.sha256(texts["native"].encode()).hexdigest()[:16]
        ids = {variant: self._encode(text) for variant, text in texts.items()}
        self._add(Kind.SPEECH, info, codes_T, ids, columns)

    def add_text(self, info: SampleInfo, text: str, user: str | None = None) -> None:
        """A document; with `user` an instruction, whose answer is `text`."""
        texts = {"text": text} if user is None else {"text": text, "user": user}
        if self._refused(info, info_problems(info) + blank_problems(texts)):
            return
        ids = {} if user is None else {"user": self._encode(user)}
        self._add(Kind.TEXT, info, self._encode(text), ids, {})

    def _encode(self, text: str) -> NDArray:
        return np.asarray(self.tokenizer.encode(text), dtype=TEXT_DTYPE)

    def _add(
        self,
        kind: Kind,
        info: SampleInfo,
        tokens_T: NDArray,
        ids: Mapping[str, NDArray],
        columns: dict[str, Any],
    ) -> None:
        tokens_T = np.ascontiguousarray(tokens_T, dtype=TOKEN_DTYPES[kind])
        columns |= {f"text_len_{variant}": len(ids_T) for variant, ids_T in ids.items()}
        row = SampleRow(
            **vars(info),
            **columns,
            code_len=len(tokens_T),
            checksum=xxhash.xxh3_64_intdigest(tokens_T.data),
            tokenizer_version=self.tokenizer.fingerprint,
            normalization_version=self.manifest.normalization_version,
        )
        self._spill(PartKey(info.dataset_source, info.language, kind)).add(row, tokens_T, ids)

    def _spill(self, key: PartKey) -> PartSpill:
        if key not in self._spills:
            self._spills[key] = PartSpill(self._spill_folder / key.folder, key, self.manifest.seed)
        return self._spills[key]

    def _refused(self, info: SampleInfo, problems: list[Problem]) -> bool:
        for problem in problems:
            self._problems.add(info.sample_id, problem)
        return bool(problems)

    def close(self) -> Manifest:
        """Writes shards and manifest and moves the store into place; `with` does this at the end."""
        for spill in self._spills.values():
            spill.seal()
        self._find_duplicates()
        self._problems.raise_if_any()
        if not self._spills:
            raise DataError(f"store {self.path} was not built: no samples were added")
        codes_per_sec = self.codec.codes_per_sec if self.codec is not None else 1.0
        spills = sorted(self._spills.values(), key=lambda spill: spill.key.folder)
        parts = tuple(write_part(spill, self._folder, self._shard_bytes, codes_per_sec) for spill in spills)
        self.manifest = replace(self.manifest, parts=parts).sealed()
        shutil.rmtree(self._spill_folder)
        self._publish()
        return self.manifest

    def _find_duplicates(self) -> None:
        """Equal keys are looked up: two ids may share a 64-bit key, two samples may not share an id."""
        keys_of = {key: np.frombuffer(spill.order_keys, np.uint64) for key, spill in self._spills.items()}
        keys_N = np.sort(np.concatenate([*keys_of.values(), np.empty(0, np.uint64)]))
        repeated = np.unique(keys_N[1:][keys_N[1:] == keys_N[:-1]])
        seen: set[str] = set()
        for key, spill in self._spills.items() if repeated.size else ():
            suspects = np.flatnonzero(np.isin(keys_of[key], repeated))
            for sample_id in spill.rows()["sample_id"].take(pa.array(suspects)).to_pylist():
                if sample_id in seen:
                    self._problems.add(sample_id, Problem("duplicate", "duplicate sample_id"))
                seen.add(sample_id)

    def _publish(self) -> None:
        with open(self._folder / MANIFEST_NAME, "w", encoding="utf-8") as file:
            file.write(self.manifest.to_json())
            file.flush()
            flush_to_disk(file.fileno())
        try:
            os.rename(self._folder, self.path)
        except OSError as error:
            raise DataError(f"{self.path} appeared during the build ({error}); it was left as it is") from error

    def abort(self) -> None:
        """Leaves nothing behind."""
        try:
            for spill in self._spills.values():
                spill.seal()
        finally:
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


def _fresh_folder(path: Path) -> Path:
    """The temporary folder beside the store to be; both must be free."""
    if path.exists():
        raise DataError(f"{path} exists already and a store is never changed: choose another path or delete it")
    folder = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    if folder.exists():
        raise DataError(f"{folder} exists already; delete it if no build of {path} is running")
    for left in path.parent.glob(f"{path.name}.tmp-*"):
        logger.warning("%s is of another build; delete it if that build is not running", left)
    folder.mkdir(parents=True)
    return folder
