"""Reads a manifest and checks it: version, shape, fingerprint, paths, sizes.

In: manifest.json, which somebody else may have written. Out: a `Manifest`, or a `DataError` that says what is wrong.
Reading takes 22 ms per 1,000 shards; a store of 80 M samples has about 1,250 shards of 128 MB.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from titan_speech.errors import DataError
from titan_speech.store.manifest import (
    FORMAT_VERSION,
    MANIFEST_NAME,
    CodecInfo,
    FileInfo,
    Kind,
    Manifest,
    PartInfo,
    ShardInfo,
    TaskTotals,
    TokenizerInfo,
    VariantInfo,
    content_fingerprint,
)
from titan_speech.utils.json_text import parse_json, read_small_file
from titan_speech.utils.record_types import check_types
from titan_speech.utils.safe_path import UnsafePathError
from titan_speech.utils.text_table import counted


def read_manifest(store: Path) -> Manifest:
    """
    Raises:
        DataError: there is no store in the folder, or its manifest is damaged or newer than this version.
    """
    file = store / MANIFEST_NAME
    if not file.is_file():
        raise DataError(f"no token store at {store}: {MANIFEST_NAME} is missing; {_hint(store)}")
    try:
        text = read_small_file(file)
    except ValueError as error:
        raise DataError(f"{file} has {error}; restore it from the store's source or rebuild") from error
    return manifest_of_text(text, str(file))


def manifest_of_text(text: bytes, where: str) -> Manifest:
    """As `read_manifest`; `where` names the file or object that the text was read from."""
    try:
        content = parse_json(text)
        version = content["format_version"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{where} is damaged ({error!r}); restore it from the store's source or rebuild") from error
    if not isinstance(version, int) or not 1 <= version <= FORMAT_VERSION:
        raise DataError(
            f"{where} has format version {version!r}, this titan_speech reads 1 to {FORMAT_VERSION}; "
            "upgrade titan_speech, or rebuild the store with this one"
        )
    return _parsed(content, where)


Upgrade = Callable[[dict[str, Any]], dict[str, Any]]
UPGRADES: dict[int, Upgrade] = {}
"""By format version N, the function that makes content of version N + 1 of a manifest's; applied in turn after the
fingerprint was checked. Version 1 is the first, so the table is empty."""


def _upgraded(content: dict[str, Any]) -> dict[str, Any]:
    """The content in this format version; the fingerprint stays that of the store as it was written."""
    for version in range(content["format_version"], FORMAT_VERSION):
        kept = {"fingerprint": content["fingerprint"], "format_version": version + 1}
        content = UPGRADES[version](content) | kept
    return content


def _hint(store: Path) -> str:
    if not store.exists():
        near = store.parent if store.parent.is_dir() else Path(".")
        found = sorted(path.parent.name for path in near.glob(f"*/{MANIFEST_NAME}"))[:8]
        return f"the folder does not exist; stores in {near}: {', '.join(found) or 'none'}"
    return "the folder is not a store, or its build was cut short: build it again"


def _parsed(content: dict[str, Any], file: str) -> Manifest:
    try:
        expected = content_fingerprint(content)
        if content["fingerprint"] != expected:
            raise DataError(
                f"{file} is damaged: fingerprint {content['fingerprint']}, but its content gives {expected}; "
                "a manifest is never edited: restore it or rebuild the store"
            )
        return _manifest(_upgraded(content))
    except UnsafePathError as error:
        raise DataError(
            f"{file}: {error}. Nothing of the store was read or written; find out who made it before you use it"
        ) from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{file} is damaged ({error!r}); restore it or rebuild the store") from error


def _manifest(content: dict[str, Any]) -> Manifest:
    names = ("name", "licence", "normalization_version", "seed", "created", "format_version", "fingerprint")
    codec = content["codec"]
    manifest = Manifest(
        **{name: content[name] for name in names},
        codec=None if codec is None else CodecInfo(codec["name"], codec["hash"], codec["codes_per_sec"]),
        tokenizer=TokenizerInfo(content["tokenizer"]["fingerprint"], content["tokenizer"]["num_base"]),
        parts=tuple(_part(part, content.get("xxh3_128", {})) for part in content["parts"]),
        tasks=_tasks(content.get("totals", {}).get("task")),
    )
    check_types(manifest)
    unknown = {totals.part for totals in manifest.tasks or ()} - {part.folder for part in manifest.parts}
    if unknown:
        raise ValueError(f"its tasks name parts that it does not have: {', '.join(sorted(unknown))}")
    _check_sizes(manifest)
    return manifest


def _tasks(content: dict[str, Any] | None) -> tuple[TaskTotals, ...] | None:
    if content is None:
        return None
    pairs = ((part, task, count) for task, of in content.items() for part, count in of["parts"].items())
    return tuple(sorted(TaskTotals(*pair) for pair in pairs))


def _part(content: dict[str, Any], xxh3_128s: dict[str, str]) -> PartInfo:
    names = ("dataset_source", "language", "num_samples", "num_tokens", "duration_sec")
    variants = (VariantInfo(v["name"], v["num_samples"], v["num_tokens"]) for v in content["variants"])
    shards = []
    for shard in content["shards"]:
        files = (FileInfo(f["path"], f["num_bytes"], f["sha256"], xxh3_128s.get(f["path"], "")) for f in shard["files"])
        shards.append(ShardInfo(shard["name"], shard["num_samples"], shard["num_tokens"], tuple(files)))
    return PartInfo(
        **{name: content[name] for name in names},
        kind=Kind(content["kind"]),
        variants=tuple(variants),
        shards=tuple(shards),
    )


def _check_sizes(manifest: Manifest) -> None:
    """Readers make tables of as many samples and tokens as a shard states, and find samples by sums over shards."""
    for shard in (shard for part in manifest.parts for shard in part.shards):
        most = max((file.num_bytes for file in shard.files), default=0)
        if not 0 <= shard.num_samples <= shard.num_tokens <= most:
            found = f"{counted(shard.num_samples, 'sample')} of {shard.num_tokens} tokens"
            raise ValueError(f"shard {shard.name} has {found}, more than its files hold")
    if len({part.folder for part in manifest.parts}) < len(manifest.parts):
        raise ValueError("it has two parts of one name")
    for part in manifest.parts:
        if len({shard.name for shard in part.shards}) < len(part.shards):
            raise ValueError(f"part {part.folder} has two shards of one name")
        for name in ("num_samples", "num_tokens"):
            found, expected = getattr(part, name), sum(getattr(shard, name) for shard in part.shards)
            if found != expected:
                raise ValueError(f"part {part.folder} has {name} {found}, its shards have {expected}")
