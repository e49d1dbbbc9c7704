"""What makes the bytes of a built store, as one value that is recorded with a build in progress.

In: what the command line said. Out: `BuildSettings`, and the difference to those an unfinished build began with.
The number of processes is left out: it changes no byte. So is `--skip-bad`: samples that are fine are the same either
way.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from titan_speech.corpus.format import ImportOptions
from titan_speech.store.manifest import CodecInfo

SPILL_VERSION = 2
"""Raised when the files of an unfinished build change."""


@dataclass(frozen=True)
class BuildSettings:
    """Equal settings and inputs give equal bytes."""

    format: str
    options: ImportOptions
    name: str
    licence: str
    codec: CodecInfo | None
    tokenizer_fingerprint: str
    normalization_version: str
    seed: int
    shard_bytes: int
    required_transcripts: tuple[str, ...]

    def content(self) -> dict[str, str]:
        """Each setting as JSON text, by the name its option has."""
        values: dict[str, object] = {"spill version": SPILL_VERSION, "from": self.format}
        for name, value in asdict(self.options).items():
            values["input" if name == "inputs" else name.replace("_", "-")] = _plain(value)
        codec = asdict(self.codec) if self.codec is not None else None
        values |= {"name": self.name, "licence": self.licence, "codec": codec}
        values |= {"tokenizer": self.tokenizer_fingerprint, "normalization": self.normalization_version}
        values |= {"seed": self.seed, "shard-mb": self.shard_bytes / (1 << 20)}
        values["require-transcript"] = list(self.required_transcripts)
        return {name: json.dumps(value, sort_keys=True, ensure_ascii=False) for name, value in values.items()}


def _plain(value: object) -> object:
    if isinstance(value, Path):
        return str(value.absolute())
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return dict(value) if isinstance(value, Mapping) else value


def differences(began_with: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """One line for each setting that is not as it was."""
    names = [*now, *(name for name in began_with if name not in now)]
    return [
        f"{name}: began with {began_with.get(name, 'nothing')}, now {now.get(name, 'nothing')}"
        for name in names
        if began_with.get(name) != now.get(name)
    ]
