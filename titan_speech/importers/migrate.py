"""What changes when a store's tokenizer, normalization or codec does, and what cannot be changed from the store alone.

In: a store's manifest and what it is to become. Out: `MigrationPlan`: a step for each part, as text, and what keeps it
from being done. Transcripts lie in the sidecars, so speech parts are tokenized anew from them. Text parts hold ids
only: they are decoded where the old tokenizer is given and gives every id back, else they must be rebuilt.
Codes of one codec cannot be made codes of another: the audio must be encoded again.

A store under another tokenizer or normalization.

In: a store, and tokenizers by folder. Out: a new store with the same codes, in the same order; or an error that says
what must be built or encoded anew (migrate_plan.py). Never a mixture: all parts are migrated or none. One process
tokenizes 1 M transcript tokens/s; codes are copied.

Shapes: N samples of a shard.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cache
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
import xxhash

from titan_speech.config.schema_data import StorageConfig
from titan_speech.errors import DataError
from titan_speech.store.external_sort import Ragged, Run
from titan_speech.store.files import TEXT_DTYPE, TOKENS, StoreFiles
from titan_speech.store.manifest import Kind, Manifest, PartInfo, ShardInfo, TokenizerInfo
from titan_speech.store.merge import RunJob, StoredShard, assemble_store, read_shard
from titan_speech.store.reader import open_store
from titan_speech.store.sample import SPEECH_VARIANTS, has_rules, rules_of
from titan_speech.store.writer import check_shard_bytes
from titan_speech.tokenization.text_tokenizer import TextTokenizer


class MigrationStep(StrEnum):
    """What happens to a part."""

    COPY = "copied as it is"
    TOKENIZE = "transcripts are tokenized anew from the sidecar"
    DECODE = "ids are decoded with the old tokenizer and tokenized anew"
    REBUILD = "must be rebuilt from its source (ids cannot be tokenized anew), or give --old-tokenizer DIR"
    ENCODE = "audio must be encoded again (codes of one codec are nothing to another)"

    @property
    def is_possible(self) -> bool:
        return self not in (MigrationStep.REBUILD, MigrationStep.ENCODE)


@dataclass(frozen=True)
class Target:
    """What the store is to become; None leaves a thing as it is."""

    tokenizer: str | None = None
    """Fingerprint."""
    normalization_version: str | None = None
    codec_name: str | None = None
    codec_hash: str | None = None
    can_decode: bool = False
    """The old tokenizer is at hand."""


@dataclass(frozen=True)
class MigrationPlan:
    """A step for each part."""

    path: str | Path
    manifest: Manifest
    changes: tuple[str, ...]
    steps: tuple[tuple[PartInfo, MigrationStep], ...]

    @property
    def impossible(self) -> list[tuple[PartInfo, MigrationStep]]:
        return [(part, step) for part, step in self.steps if not step.is_possible]

    def __str__(self) -> str:
        if not self.changes:
            return f"nothing to migrate: {self.path} has this tokenizer, normalization and codec already"
        lines = [f"migration of {self.path} ({self.manifest.fingerprint})", *(f"  {change}" for change in self.changes)]
        lines += [f"  {_what(part, step)}: {step}" for part, step in self.steps]
        return "\n".join([*lines, *_sums(self.impossible)])

    def refuse_impossible(self) -> None:
        if self.impossible:
            raise DataError(f"store {self.path} cannot be migrated from its own files; nothing was written\n{self}")


def migration_plan(path: str | Path, manifest: Manifest, target: Target) -> MigrationPlan:
    """Without changes where the store is what it is to become."""
    steps = tuple((part, _step(part, manifest, target)) for part in manifest.parts)
    return MigrationPlan(path, manifest, tuple(_changes(manifest, target)), steps)


def _changes(manifest: Manifest, target: Target) -> Iterator[str]:
    codec = manifest.codec
    if target.codec_hash is not None and codec is not None and target.codec_hash != codec.hash:
        name = target.codec_name or "another codec"
        yield f"codec            {codec.name}, hash {codec.hash} -> {name}, hash {target.codec_hash}"
    if target.tokenizer is not None and target.tokenizer != manifest.tokenizer.fingerprint:
        yield f"tokenizer        {manifest.tokenizer.fingerprint} -> {target.tokenizer}"
    if _normalization_changes(manifest, target):
        old = manifest.normalization_version
        yield f"normalization    {old} -> {has_rules(old, str(target.normalization_version))}"


def _normalization_changes(manifest: Manifest, target: Target) -> bool:
    return target.normalization_version is not None and rules_of(manifest.normalization_version) != {
        target.normalization_version
    }


def _step(part: PartInfo, manifest: Manifest, target: Target) -> MigrationStep:
    codec = manifest.codec
    if part.kind is Kind.SPEECH and codec and target.codec_hash not in (None, codec.hash):
        return MigrationStep.ENCODE
    tokenizer_changes = target.tokenizer not in (None, manifest.tokenizer.fingerprint)
    if not tokenizer_changes and not _normalization_changes(manifest, target):
        return MigrationStep.COPY
    if part.kind is Kind.SPEECH:
        return MigrationStep.TOKENIZE if part.variants else MigrationStep.COPY
    return MigrationStep.DECODE if target.can_decode else MigrationStep.REBUILD


def _what(part: PartInfo, step: MigrationStep) -> str:
    hours = f", {part.duration_sec / 3600:,.2f} h" if part.kind is Kind.SPEECH else ""
    texts = f", {part.num_text_tokens:,} transcript tokens" if step is MigrationStep.TOKENIZE else ""
    return f"{part.folder} ({part.num_samples:,} samples, {part.num_tokens:,} tokens{texts}{hours})"


def _sums(impossible: list[tuple[PartInfo, MigrationStep]]) -> Iterator[str]:
    encode = [part for part, step in impossible if step is MigrationStep.ENCODE]
    rebuild = [part for part, step in impossible if step is MigrationStep.REBUILD]
    if encode:
        hours = sum(part.duration_sec for part in encode) / 3600
        samples = sum(part.num_samples for part in encode)
        yield f"  to encode again: {samples:,} samples, {hours:,.2f} h of audio"
    if rebuild:
        samples, tokens = sum(part.num_samples for part in rebuild), sum(part.num_tokens for part in rebuild)
        yield f"  to rebuild: {samples:,} samples, {tokens:,} text tokens"


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


def plan_migration(path: str | Path, options: MigrateOptions, storage: StorageConfig | None = None) -> MigrationPlan:
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
    path: str | Path, output: str | Path, options: MigrateOptions, storage: StorageConfig | None = None
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
    from titan_speech.tokenization.normalize import normalization_version

    return normalization_version()


def _renamed(version: str, options: MigrateOptions) -> str:
    return has_rules(version, _normalization_version()) if options.normalize else version


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
        from titan_speech.tokenization.normalize import normalize

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
