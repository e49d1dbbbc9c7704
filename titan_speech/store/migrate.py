"""Give a store another tokenizer or text normalization, without its original data.

In: a store, and tokenizers by folder. Out: a new store with the same codes in the same order; or, before anything is
written, an error that lists what must be built or encoded again. All parts are migrated or none: a store never has two
tokenizers.

    speech, transcripts in the sidecar   tokenized again from them
    text, which has only ids             decoded with the old tokenizer, if it is given and its ids of the decoded text
                                         are the stored ones; otherwise the part must be rebuilt from its source
    codes of another codec               cannot be computed: the audio must be encoded again

One process tokenizes 1 M transcript tokens/s; codes are copied.

Shapes: N samples of a shard.
"""

from __future__ import annotations

from collections.abc import Sequence
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
from titan_speech.store.assemble import ShardRewrite, StoredShard, assemble_store, shards_of
from titan_speech.store.external_sort import Ragged
from titan_speech.store.files import TEXT_DTYPE, TOKENS, length_column
from titan_speech.store.manifest import Kind, Manifest, PartInfo, TokenizerInfo, replace_rules, rules_in
from titan_speech.store.reader import open_store
from titan_speech.store.sample import SPEECH_VARIANTS, transcript_hashes
from titan_speech.store.writer import SHARD_BYTES, check_shard_bytes
from titan_speech.tokenization.text_tokenizer import TextTokenizer
from titan_speech.utils.printable import joined_lines
from titan_speech.utils.text_table import counted, hours

Texts = list[str | None]


@dataclass(frozen=True)
class MigrateOptions:
    """What changes; None leaves a thing unchanged. Tokenizers are paths: each process loads its own."""

    tokenizer: Path | None = None
    old_tokenizer: Path | None = None
    """The store's tokenizer, to decode parts of text."""
    normalize: bool = False
    codec_name: str | None = None
    codec_hash: str | None = None
    shard_bytes: int = SHARD_BYTES
    num_workers: int | None = None


class MigrationStep(StrEnum):
    """What happens to a part."""

    COPY = "copied unchanged"
    TOKENIZE = "transcripts are tokenized again from the sidecar"
    DECODE = "ids are decoded with the old tokenizer and tokenized again"
    REBUILD = "must be rebuilt from its source (ids cannot be tokenized again), or give --old-tokenizer DIR"
    ENCODE = "audio must be encoded again (codes of one codec mean nothing to another)"

    @property
    def is_possible(self) -> bool:
        return self not in (MigrationStep.REBUILD, MigrationStep.ENCODE)


@dataclass(frozen=True)
class MigrationPlan:
    """What changes in a store, and the step for each part; its text is what `--plan` prints."""

    path: str | Path
    manifest: Manifest
    changes: tuple[str, ...]
    """Empty if the store has the tokenizer, normalization and codec already."""
    steps: tuple[tuple[PartInfo, MigrationStep], ...]

    def __str__(self) -> str:
        if not self.changes:
            return f"nothing to migrate: {self.path} has this tokenizer, normalization and codec already"
        lines = [f"migration of {self.path} ({self.manifest.fingerprint})", *(f"  {change}" for change in self.changes)]
        for part, step in self.steps:
            length = f", {hours(part.duration_sec / 3600)}" if part.kind is Kind.SPEECH else ""
            texts = f", {part.num_text_tokens:,} transcript tokens" if step is MigrationStep.TOKENIZE else ""
            size = f"{counted(part.num_samples, 'sample')}, {counted(part.num_tokens, 'token')}{texts}{length}"
            lines.append(f"  {part.folder} ({size}): {step}")
        if encode := self._parts(MigrationStep.ENCODE):
            samples, duration_sec = sum(part.num_samples for part in encode), sum(part.duration_sec for part in encode)
            lines.append(f"  to encode again: {counted(samples, 'sample')}, {hours(duration_sec / 3600)} of audio")
        if rebuild := self._parts(MigrationStep.REBUILD):
            samples, tokens = sum(part.num_samples for part in rebuild), sum(part.num_tokens for part in rebuild)
            lines.append(f"  to rebuild: {counted(samples, 'sample')}, {tokens:,} text tokens")
        return joined_lines(lines)

    def _parts(self, wanted: MigrationStep) -> list[PartInfo]:
        return [part for part, step in self.steps if step is wanted]

    def refuse_impossible(self) -> None:
        if not all(step.is_possible for _, step in self.steps):
            raise DataError(f"store {self.path} cannot be migrated from its own files; nothing was written\n{self}")


def plan_migration(path: str | Path, options: MigrateOptions, storage: StorageConfig | None = None) -> MigrationPlan:
    """What a migration would do; nothing is written.

    Raises:
        DataError: --old-tokenizer is not the store's, or --normalization was given without a tokenizer.
    """
    manifest = open_store(path, storage).manifest
    codec, old_tokenizer, old_rules = manifest.codec, manifest.tokenizer.fingerprint, manifest.normalization_version
    tokenizer = old_tokenizer if options.tokenizer is None else _tokenizer(options.tokenizer).fingerprint
    changes_codec = codec is not None and options.codec_hash not in (None, codec.hash)
    changes_texts = tokenizer != old_tokenizer
    changes = []
    if codec is not None and changes_codec:
        name = options.codec_name or "another codec"
        changes.append(f"codec            {codec.name}, hash {codec.hash} -> {name}, hash {options.codec_hash}")
    if changes_texts:
        changes.append(f"tokenizer        {old_tokenizer} -> {tokenizer}")
    if options.normalize and rules_in(old_rules) != {_normalization_version()}:
        changes_texts = True
        changes.append(f"normalization    {old_rules} -> {replace_rules(old_rules, _normalization_version())}")
    if changes:
        _refuse_wrong_tokenizers(path, manifest, options)
    steps = []
    for part in manifest.parts:
        if part.kind is Kind.SPEECH and changes_codec:
            step = MigrationStep.ENCODE
        elif not changes_texts or (part.kind is Kind.SPEECH and not part.variants):
            step = MigrationStep.COPY
        elif part.kind is Kind.SPEECH:
            step = MigrationStep.TOKENIZE
        else:
            step = MigrationStep.DECODE if options.old_tokenizer is not None else MigrationStep.REBUILD
        steps.append((part, step))
    return MigrationPlan(path, manifest, tuple(changes), tuple(steps))


def migrate_store(
    path: str | Path, output: str | Path, options: MigrateOptions, storage: StorageConfig | None = None
) -> Manifest:
    """Write the migrated store.

    Args:
        path: the store: a folder, or s3://bucket/prefix.
        output: the new folder; must not exist.

    Returns:
        The manifest of the new store.

    Raises:
        DataError: there is nothing to migrate, or a part cannot be migrated; nothing is written.
    """
    check_shard_bytes(options.shard_bytes)
    plan = plan_migration(path, options, storage)
    if not plan.changes:
        raise DataError(str(plan))
    plan.refuse_impossible()
    manifest = replace(plan.manifest, parts=())
    if options.tokenizer is not None:
        tokenizer = _tokenizer(options.tokenizer)
        manifest = replace(manifest, tokenizer=TokenizerInfo(tokenizer.fingerprint, tokenizer.num_base))
    if options.normalize:
        version = replace_rules(manifest.normalization_version, _normalization_version())
        manifest = replace(manifest, normalization_version=version)
    store = open_store(path, storage)
    rewrites = [
        ShardRewrite(
            store.files, part, shard, shard.name, manifest.seed, _MigrateShard(part, shard.name, manifest, options)
        )
        for part, shard in shards_of(store)
    ]
    return assemble_store(
        Path(output),
        manifest,
        rewrites,
        shard_bytes=options.shard_bytes,
        num_workers=options.num_workers,
        verb="migrate to",
        check=False,
        keep_scores=not options.normalize,  # error rates are of the texts
    )


def _refuse_wrong_tokenizers(path: str | Path, manifest: Manifest, options: MigrateOptions) -> None:
    expected = manifest.tokenizer.fingerprint
    if options.normalize and options.tokenizer is None:
        raise DataError(
            f"--normalization changes texts, so they are tokenized again: name the tokenizer too (that of {path} has "
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


@dataclass(frozen=True)
class _MigrateShard:
    """Changes a shard to the new tokenizer and normalization."""

    part: PartInfo
    shard_name: str
    manifest: Manifest
    """Of the new store."""
    options: MigrateOptions

    def __call__(self, shard: StoredShard) -> StoredShard:
        if self.options.tokenizer is not None:
            shard = self._text_shard(shard) if self.part.kind is Kind.TEXT else self._speech_shard(shard)
        versions = shard.rows["normalization_version"].to_pylist()
        if self.options.normalize:
            versions = [replace_rules(version, _normalization_version()) for version in versions]
        columns = {
            "tokenizer_version": pa.array([self.manifest.tokenizer.fingerprint] * shard.rows.num_rows),
            "normalization_version": pa.array(versions),
        }
        return replace(shard, rows=_replace_columns(shard.rows, columns))

    def _speech_shard(self, shard: StoredShard) -> StoredShard:
        """Transcripts tokenized again from the sidecar."""
        rows, data = shard.rows, dict(shard.data)
        for variant in (name for name in SPEECH_VARIANTS if name in data):
            texts = self._normalize(rows[f"transcript_{variant}"].to_pylist(), rows)
            data[variant] = self._encode(texts)
            columns = {
                f"transcript_{variant}": pa.array(texts, pa.string()),
                f"text_len_{variant}": pa.array(data[variant].lengths_N),
            }
            if variant == "native":
                columns["transcript_hash"] = pa.array(transcript_hashes(texts), pa.string())
            rows = _replace_columns(rows, columns)
        return replace(shard, rows=rows, data=data)

    def _text_shard(self, shard: StoredShard) -> StoredShard:
        """Documents decoded with the old tokenizer and tokenized again."""
        data, columns = {}, {}
        for name, ragged in shard.data.items():
            data[name] = self._encode(self._normalize(self._decode(ragged, shard.rows), shard.rows))
            columns[length_column(name)] = pa.array(data[name].lengths_N)
        checksums = [xxhash.xxh3_64_intdigest(ids.data) for ids in data[TOKENS].split()]
        columns["checksum"] = pa.array(checksums, pa.uint64())
        return replace(shard, rows=_replace_columns(shard.rows, columns), data=data)

    def _decode(self, ragged: Ragged, rows: pa.Table) -> Texts:
        """The text of each sample, None for a sample without ids; every text must give the stored ids again."""
        assert self.options.old_tokenizer is not None, "the plan refuses parts that cannot be decoded"
        tokenizer = _tokenizer(self.options.old_tokenizer)
        pieces = [ids.tolist() for ids in ragged.split()]
        texts = [tokenizer.decode(ids) if ids else None for ids in pieces]
        encoded = iter(tokenizer.encode_batch([text for text in texts if text is not None]))
        changed = [j for j, ids in enumerate(pieces) if ids and next(encoded) != ids]
        if changed:
            raise DataError(
                f"part {self.part.folder}: the ids of sample {rows['sample_id'][changed[0]]} are not those of the text "
                f"they decode to (nor are those of {len(changed) - 1} more in shard {self.shard_name}), so its text is "
                "not known; rebuild this part from its source"
            )
        return texts

    def _normalize(self, texts: Texts, rows: pa.Table) -> Texts:
        if not self.options.normalize:
            return texts
        from titan_speech.tokenization.normalize import normalize

        normalized = [None if text is None else normalize(text, self.part.language) for text in texts]
        blank = [j for j, text in enumerate(normalized) if text is not None and not text.strip()]
        if blank:
            raise DataError(
                f"part {self.part.folder}: nothing is left of a text of sample {rows['sample_id'][blank[0]]} by "
                f"normalization (nor of {len(blank) - 1} more in shard {self.shard_name}); rebuild without them"
            )
        return normalized

    def _encode(self, texts: Texts) -> Ragged:
        """The new ids of each text; no ids for a sample without text."""
        assert self.options.tokenizer is not None, "texts are changed only for a tokenizer"
        ids = iter(_tokenizer(self.options.tokenizer).encode_batch([text for text in texts if text is not None]))
        pieces: list[Sequence[int]] = [() if text is None else next(ids) for text in texts]
        lengths_N = np.fromiter(map(len, pieces), np.int32, len(pieces))
        return Ragged(np.fromiter(chain.from_iterable(pieces), TEXT_DTYPE, int(lengths_N.sum())), lengths_N)


def _replace_columns(rows: pa.Table, columns: dict[str, pa.Array]) -> pa.Table:
    for name, values in columns.items():
        rows = rows.set_column(rows.schema.get_field_index(name), rows.schema.field(name), values)
    return rows
