"""manifest.json: what a token store holds, file by file. Written last and never changed.

In: the dataclasses below. Out: canonical JSON; manifest_reader.py reads it.

Compatibility promise: a reader of format version N reads every version up to N. Inside a version keys may be added, and
no key changes its meaning; a newer version is refused.

The normalization version names the rules that every text goes through, and after a plus the cleaning that chose the
texts (`text-2...+clean-1...`, from `text prepare`); a merged store names several. The rules must be the same in a whole
store, or one word has two spellings; which texts were chosen may differ by part.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any

from titan_speech.errors import DataError
from titan_speech.tokenization.vocabulary import CODES_PER_SEC
from titan_speech.utils.safe_path import byte_count, relative_path, sha256_text

FORMAT_VERSION = 1
MANIFEST_NAME = "manifest.json"
# Not fingerprinted: what may be reworded without changing a token, and what follows from the rest.
NOT_FINGERPRINTED = frozenset({"name", "licence", "created", "totals", "xxh3_128", "fingerprint"})


class Kind(StrEnum):
    """The content of the .tokens files of a part."""

    SPEECH = "speech"
    TEXT = "text"


@dataclass(frozen=True)
class CodecInfo:
    """The codec that made the codes; its hash identifies the weights."""

    name: str
    hash: str
    codes_per_sec: float = CODES_PER_SEC


def codes_per_sec(codec: CodecInfo | None) -> float:
    """1 where there are no codes: a store of text."""
    return codec.codes_per_sec if codec is not None else 1.0


@dataclass(frozen=True)
class TokenizerInfo:
    """The tokenizer that made the text ids."""

    fingerprint: str
    num_base: int


@dataclass(frozen=True)
class FileInfo:
    """One file; `path` is relative to the store."""

    path: str
    num_bytes: int
    sha256: str
    xxh3_128: str = ""
    """Of the same bytes, for fast verification (utils/checksum.py); empty in stores that were built without it."""

    def __post_init__(self) -> None:
        """A manifest comes from outside, and its paths become paths here."""
        relative_path(self.path)
        byte_count(self.num_bytes)
        sha256_text(self.sha256)


@dataclass(frozen=True)
class ShardInfo:
    """A shard: consecutive samples of a part, in stored order."""

    name: str
    num_samples: int
    num_tokens: int
    files: tuple[FileInfo, ...]

    @property
    def num_bytes(self) -> int:
        return sum(file.num_bytes for file in self.files)

    def file(self, suffix: str) -> FileInfo:
        """The shard's file NAME.suffix.

        Raises:
            DataError: the manifest lists none.
        """
        for file in self.files:
            if file.path.endswith(f"/{self.name}.{suffix}"):
                return file
        raise DataError(f"the manifest lists no {suffix} file of shard {self.name}; restore it or rebuild the store")


@dataclass(frozen=True)
class VariantInfo:
    """One transcript variant of a part; samples without it have length 0."""

    name: str
    num_samples: int
    num_tokens: int


@dataclass(frozen=True, order=True)
class PartKey:
    """Identifies a part."""

    dataset_source: str
    language: str
    kind: Kind

    @property
    def folder(self) -> str:
        return f"{self.dataset_source}.{self.language}.{self.kind}"


@dataclass(frozen=True)
class PartInfo:
    """All samples of one dataset source, language and kind."""

    dataset_source: str
    language: str
    kind: Kind
    num_samples: int
    num_tokens: int
    duration_sec: float
    variants: tuple[VariantInfo, ...]
    shards: tuple[ShardInfo, ...]

    @property
    def key(self) -> PartKey:
        return PartKey(self.dataset_source, self.language, self.kind)

    @property
    def folder(self) -> str:
        return self.key.folder

    @property
    def num_bytes(self) -> int:
        return sum(shard.num_bytes for shard in self.shards)

    @property
    def fingerprint(self) -> str:
        """16 hex characters that change with any byte of the part, in whatever store it is."""
        return content_fingerprint(_part_content(self))

    @property
    def num_text_tokens(self) -> int:
        """Tokens of all transcript variants together."""
        return sum(variant.num_tokens for variant in self.variants)


@dataclass(frozen=True)
class Totals:
    """Sums over several parts."""

    num_samples: int
    num_tokens: int
    num_text_tokens: int
    duration_sec: float

    @classmethod
    def of(cls, parts: Iterable[PartInfo]) -> Totals:
        kept = list(parts)
        names = ("num_samples", "num_tokens", "num_text_tokens")
        sums = (sum(getattr(part, name) for part in kept) for name in names)
        return cls(*sums, duration_sec=round(sum(part.duration_sec for part in kept), 3))


@dataclass(frozen=True, order=True)
class TaskTotals:
    """Number of samples of a part that a task can read."""

    part: str
    task: str
    num_samples: int


@dataclass(frozen=True)
class Manifest:
    """Everything that is known about a store without opening a shard."""

    name: str
    licence: str
    codec: CodecInfo | None
    tokenizer: TokenizerInfo
    normalization_version: str
    seed: int
    parts: tuple[PartInfo, ...]
    created: str | None = None
    tasks: tuple[TaskTotals, ...] | None = None
    """None in manifests that were written without them."""
    format_version: int = FORMAT_VERSION
    fingerprint: str = ""

    @property
    def num_samples(self) -> int:
        return sum(part.num_samples for part in self.parts)

    @property
    def files(self) -> list[FileInfo]:
        """Every file of the store but the manifest."""
        return [file for part in self.parts for shard in part.shards for file in shard.files]

    def sealed(self) -> Manifest:
        """The manifest with its fingerprint, as it is written."""
        return replace(self, fingerprint=content_fingerprint(self._content()))

    def totals_by(self, attribute: str) -> dict[str, Totals]:
        """Totals per `language`, `dataset_source` or `kind`."""
        values = sorted({str(getattr(part, attribute)) for part in self.parts})
        return {
            value: Totals.of(part for part in self.parts if str(getattr(part, attribute)) == value) for value in values
        }

    def to_json(self) -> str:
        content = self._content()
        content["xxh3_128"] = {file.path: file.xxh3_128 for file in self.files if file.xxh3_128}
        content["totals"] = {
            by: {value: asdict(totals) for value, totals in self.totals_by(by).items()}
            for by in ("dataset_source", "language", "kind")
        }
        if self.tasks is not None:
            content["totals"]["task"] = self._task_content(self.tasks)
        return json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n"

    @staticmethod
    def _task_content(tasks: tuple[TaskTotals, ...]) -> dict[str, Any]:
        """Number of samples of each task, by part and in all."""
        by_part: dict[str, dict[str, int]] = {}
        for totals in tasks:
            by_part.setdefault(totals.task, {})[totals.part] = totals.num_samples
        return {task: {"num_samples": sum(parts.values()), "parts": parts} for task, parts in by_part.items()}

    def _content(self) -> dict[str, Any]:
        content = asdict(replace(self, tasks=None))
        del content["tasks"]  # written under totals
        content["parts"] = [_part_content(part) | {"num_text_tokens": part.num_text_tokens} for part in self.parts]
        return content


def _part_content(part: PartInfo) -> dict[str, Any]:
    """The part's entry in the manifest, without xxh3-128: sha256 alone is a file's identity."""
    content = asdict(part)
    for shard in content["shards"]:
        for file in shard["files"]:
            del file["xxh3_128"]
    return content


def content_fingerprint(content: dict[str, Any]) -> str:
    """16 hex characters that change when any token, its order or its meaning changes."""
    kept = {key: value for key, value in content.items() if key not in NOT_FINGERPRINTED}
    canonical = json.dumps(kept, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


_AND, _CLEANING = " and ", "+"


def split_versions(version: str) -> list[str]:
    """The versions that a manifest's string names; each row of its sidecars has one of them."""
    return version.split(_AND)


def rules_in(version: str) -> set[str]:
    """The rules in a manifest's string, without cleaning."""
    return {one.partition(_CLEANING)[0] for one in split_versions(version)}


def join_versions(versions: Iterable[str]) -> str:
    """One string that names each version once."""
    return _AND.join(sorted({one for version in versions for one in split_versions(version)}))


def replace_rules(version: str, rules: str) -> str:
    """The version of the same texts after normalization by other rules: cleaning is kept."""
    return join_versions(rules + "".join(one.partition(_CLEANING)[1:]) for one in split_versions(version))
