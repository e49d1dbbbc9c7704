"""What changes when a store's tokenizer, normalization or codec does, and what cannot be changed from the store alone.

In: a store's manifest and what it is to become. Out: `MigrationPlan`: a step for each part, as text, and what keeps it
from being done. Transcripts lie in the sidecars, so speech parts are tokenized anew from them. Text parts hold ids
only: they are decoded where the old tokenizer is given and gives every id back, else they must be rebuilt.
Codes of one codec cannot be made codes of another: the audio must be encoded again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from titan_speech.errors import DataError
from titan_speech.store.manifest import Kind, Manifest, PartInfo
from titan_speech.store.normalizations import rules_of, under


class Step(StrEnum):
    """What happens to a part."""

    COPY = "copied as it is"
    TOKENIZE = "transcripts are tokenized anew from the sidecar"
    DECODE = "ids are decoded with the old tokenizer and tokenized anew"
    REBUILD = "must be rebuilt from its source (ids cannot be tokenized anew), or give --old-tokenizer DIR"
    ENCODE = "audio must be encoded again (codes of one codec are nothing to another)"

    @property
    def is_possible(self) -> bool:
        return self not in (Step.REBUILD, Step.ENCODE)


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
    steps: tuple[tuple[PartInfo, Step], ...]

    @property
    def impossible(self) -> list[tuple[PartInfo, Step]]:
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
        yield f"normalization    {old} -> {under(old, str(target.normalization_version))}"


def _normalization_changes(manifest: Manifest, target: Target) -> bool:
    return target.normalization_version is not None and rules_of(manifest.normalization_version) != {
        target.normalization_version
    }


def _step(part: PartInfo, manifest: Manifest, target: Target) -> Step:
    codec = manifest.codec
    if part.kind is Kind.SPEECH and codec and target.codec_hash not in (None, codec.hash):
        return Step.ENCODE
    tokenizer_changes = target.tokenizer not in (None, manifest.tokenizer.fingerprint)
    if not tokenizer_changes and not _normalization_changes(manifest, target):
        return Step.COPY
    if part.kind is Kind.SPEECH:
        return Step.TOKENIZE if part.variants else Step.COPY
    return Step.DECODE if target.can_decode else Step.REBUILD


def _what(part: PartInfo, step: Step) -> str:
    hours = f", {part.duration_sec / 3600:,.2f} h" if part.kind is Kind.SPEECH else ""
    texts = f", {part.num_text_tokens:,} transcript tokens" if step is Step.TOKENIZE else ""
    return f"{part.folder} ({part.num_samples:,} samples, {part.num_tokens:,} tokens{texts}{hours})"


def _sums(impossible: list[tuple[PartInfo, Step]]) -> Iterator[str]:
    encode = [part for part, step in impossible if step is Step.ENCODE]
    rebuild = [part for part, step in impossible if step is Step.REBUILD]
    if encode:
        hours = sum(part.duration_sec for part in encode) / 3600
        samples = sum(part.num_samples for part in encode)
        yield f"  to encode again: {samples:,} samples, {hours:,.2f} h of audio"
    if rebuild:
        samples, tokens = sum(part.num_samples for part in rebuild), sum(part.num_tokens for part in rebuild)
        yield f"  to rebuild: {samples:,} samples, {tokens:,} text tokens"
