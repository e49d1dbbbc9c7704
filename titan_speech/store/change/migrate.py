"""A store under another tokenizer or normalization.

In: a store, and tokenizers by folder. Out: a new store with the same codes, in the same order; or an error that says
what must be built or encoded anew (migrate_plan.py). Never a mixture: all parts are migrated or none. One process
tokenizes 1 M transcript tokens/s; codes are copied.

Shapes: N samples of a shard.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
import xxhash

from titan_speech.config.tables import StorageTable
from titan_speech.errors import DataError
from titan_speech.store.builder import check_shard_bytes
from titan_speech.store.change.assemble import RunJob, assemble_store
from titan_speech.store.change.migrate_plan import MigrationPlan, Target, migration_plan
from titan_speech.store.change.stored import StoredShard, read_shard
from titan_speech.store.files import StoreFiles
from titan_speech.store.manifest import Kind, Manifest, PartInfo, ShardInfo, TokenizerInfo
from titan_speech.store.normalizations import under
from titan_speech.store.samples import SPEECH_VARIANTS
from titan_speech.store.shards import TEXT_DTYPE, TOKENS
from titan_speech.store.store import open_store
from titan_speech.store.write.runs import Ragged, Run
from titan_speech.text_tokenizer import TextTokenizer

Texts = list[str | None]


@dataclass(frozen=True)
class MigrateOptions:
    """What changes. Paths, not tokenizers: each process loads its own."""

    tokenizer: Path | None = None
    old_tokenizer: Path | None = None
    normalize: bool = False
    codec_name: str | None = None
    codec_hash: str | None = None
    shard_bytes: int = 128 << 20
    num_workers: int | None = None


def plan_migration(path: str | Path, options: MigrateOptions, storage: StorageTable | None = None) -> MigrationPlan:
    """What would be done, without writing."""
    manifest = open_store(path, storage).manifest
    target = Target(
        tokenizer=None if options.tokenizer is None else _tokenizer(options.tokenizer).fingerprint,
        normalization_version=_normalization_version() if options.normalize else None,
        codec_name=options.codec_name,
        codec_hash=options.codec_hash,
        can_decode=options.old_tokenizer is not None,
    )
    plan = migration_plan(path, manifest, target)
    if plan.changes:
        _refuse_wrong_tokenizers(path, manifest, options)
    return plan


def migrate_store(
    path: str | Path, output: str | Path, options: MigrateOptions, storage: StorageTable | None = None
) -> Manifest:
    """The migrated store at `output`; nothing is written when a part cannot be migrated."""
    check_shard_bytes(options.shard_bytes)
    plan = plan_migration(path, options, storage)
    if not plan.changes:
        raise DataError(str(plan))
    plan.refuse_impossible()
    old = plan.manifest
    tokenizer = _tokenizer(options.tokenizer) if options.tokenizer is not None else None
    manifest = replace(
        old,
        parts=(),
        tokenizer=TokenizerInfo(tokenizer.fingerprint, tokenizer.num_base) if tokenizer is not None else old.tokenizer,
        normalization_version=_renamed(old.normalization_version, options),
    )
    files = open_store(path, storage).files
    jobs = [
        RunJob(_MigratedRun(files, part, shard, manifest, options), shard.num_bytes)
        for part in old.parts
        for shard in part.shards
    ]
    return assemble_store(
        Path(output),
        manifest,
        jobs,
        shard_bytes=options.shard_bytes,
        num_workers=options.num_workers,
        verb="migrate to",
        check=False,
    )


def _refuse_wrong_tokenizers(path: str | Path, manifest: Manifest, options: MigrateOptions) -> None:
    expected = manifest.tokenizer.fingerprint
    if options.normalize and options.tokenizer is None:
        raise DataError(
            f"--normalization changes texts, so they are tokenized anew: name the tokenizer too (that of {path} has "
            f"fingerprint {expected})"
        )
    if options.old_tokenizer is not None and (found := _tokenizer(options.old_tokenizer).fingerprint) != expected:
        raise DataError(
            f"--old-tokenizer {options.old_tokenizer} has fingerprint {found}, {path} was built with {expected}; "
            "give that one"
        )


@cache
def _tokenizer(path: Path) -> TextTokenizer:
    return TextTokenizer.load(path)


def _normalization_version() -> str:
    from titan_speech.corpus.text.normalize import normalization_version

    return normalization_version()


def _renamed(version: str, options: MigrateOptions) -> str:
    return under(version, _normalization_version()) if options.normalize else version


@dataclass(frozen=True)
class _MigratedRun:
    """A shard under the new tokenizer and normalization."""

    store: StoreFiles
    part: PartInfo
    shard: ShardInfo
    manifest: Manifest
    options: MigrateOptions

    def __call__(self, folder: Path) -> Run:
        shard = read_shard(self.store, self.part, self.shard)
        if self.options.tokenizer is not None:
            shard = self._text_shard(shard) if self.part.kind is Kind.TEXT else self._speech_shard(shard)
        columns = {
            "tokenizer_version": pa.array([self.manifest.tokenizer.fingerprint] * shard.rows.num_rows),
            "normalization_version": pa.array(
                [_renamed(version, self.options) for version in shard.rows["normalization_version"].to_pylist()]
            ),
        }
        shard = replace(shard, rows=_with_columns(shard.rows, columns))
        return shard.write_run(folder, self.shard.name, self.manifest.seed, unit=str(self.store))

    def _speech_shard(self, shard: StoredShard) -> StoredShard:
        """Transcripts from the sidecar."""
        rows, data = shard.rows, dict(shard.data)
        for variant in (name for name in SPEECH_VARIANTS if name in data):
            texts = self._normalized(rows[f"transcript_{variant}"].to_pylist(), rows)
            data[variant] = self._encoded(texts)
            columns = {
                f"transcript_{variant}": pa.array(texts, pa.string()),
                f"text_len_{variant}": pa.array(data[variant].lengths_N),
            }
            if variant == "native":
                columns["transcript_hash"] = pa.array([_hash(text) for text in texts], pa.string())
            rows = _with_columns(rows, columns)
        return replace(shard, rows=rows, data=data)

    def _text_shard(self, shard: StoredShard) -> StoredShard:
        """Ids by way of their text, if the old tokenizer gives every one back."""
        data, columns = {}, {}
        for name, ragged in shard.data.items():
            data[name] = self._encoded(self._normalized(self._decoded(ragged, shard.rows), shard.rows))
            columns["code_len" if name == TOKENS else f"text_len_{name}"] = pa.array(data[name].lengths_N)
        sums = [xxhash.xxh3_64_intdigest(ids.data) for ids in data[TOKENS].split()]
        columns["checksum"] = pa.array(sums, pa.uint64())
        return replace(shard, rows=_with_columns(shard.rows, columns), data=data)

    def _decoded(self, ragged: Ragged, rows: pa.Table) -> Texts:
        old = _tokenizer(_given(self.options.old_tokenizer))
        pieces = [ids.tolist() for ids in ragged.split()]
        texts = [old.decode(ids) if ids else None for ids in pieces]
        again = iter(old.encode_batch([text for text in texts if text is not None]))
        changed = [j for j, ids in enumerate(pieces) if ids and next(again) != ids]
        if changed:
            raise DataError(
                f"part {self.part.folder}: the ids of sample {rows['sample_id'][changed[0]]} are not those of the text "
                f"they decode to (nor are those of {len(changed) - 1} more in shard {self.shard.name}), so its text is "
                "not known; rebuild this part from its source"
            )
        return texts

    def _normalized(self, texts: Texts, rows: pa.Table) -> Texts:
        if not self.options.normalize:
            return texts
        from titan_speech.corpus.text.normalize import normalize

        done = [None if text is None else normalize(text, self.part.language) for text in texts]
        blank = [j for j, text in enumerate(done) if text is not None and not text.strip()]
        if blank:
            raise DataError(
                f"part {self.part.folder}: nothing is left of a text of sample {rows['sample_id'][blank[0]]} by "
                f"normalization (nor of {len(blank) - 1} more in shard {self.shard.name}); rebuild without them"
            )
        return done

    def _encoded(self, texts: Texts) -> Ragged:
        """Ids of each text; none where there is none."""
        ids = iter(
            _tokenizer(_given(self.options.tokenizer)).encode_batch([text for text in texts if text is not None])
        )
        pieces: list[Sequence[int]] = [() if text is None else next(ids) for text in texts]
        lengths_N = np.fromiter(map(len, pieces), np.int32, len(pieces))
        return Ragged(np.fromiter(chain.from_iterable(pieces), TEXT_DTYPE, int(lengths_N.sum())), lengths_N)


def _given(path: Path | None) -> Path:
    assert path is not None, "the plan refuses parts whose tokenizer is not given"
    return path


def _hash(text: str | None) -> str | None:
    return None if text is None else hashlib.sha256(text.encode()).hexdigest()[:16]


def _with_columns(rows: pa.Table, columns: dict[str, pa.Array]) -> pa.Table:
    for name, values in columns.items():
        rows = rows.set_column(rows.schema.get_field_index(name), rows.schema.field(name), values)
    return rows
