"""The held-out validation set: which samples of which stores training must never read, and what they are used for.

In: gold.json next to the manifest of a store that `store held-out` made, in a folder or at s3://bucket/prefix. Out:
`HeldOutSet`, checked against its fingerprint, and back to canonical JSON. Samples are named by id, which stays the same
over merges; for the stores they were chosen from also by number in each part (named by the part's fingerprint), so that
a run over those stores need not read a single id.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from titan_speech.config.schema_data import StorageConfig
from titan_speech.errors import DataError
from titan_speech.store.reader import store_files
from titan_speech.utils.json_text import parse_json
from titan_speech.utils.record_types import check_types

HELD_OUT_NAME = "gold.json"
HELD_OUT_VERSION = 1


@dataclass(frozen=True)
class SourceStore:
    """A store that samples were chosen from."""

    name: str
    fingerprint: str


@dataclass(frozen=True)
class DecodePrompt:
    """A sample that is generated at every checkpoint."""

    sample_id: str
    task: str
    """clone, tts where the speaker has no other sample, continuation where there is no transcript."""
    language: str
    reference_id: str | None = None
    """Another sample of the speaker, for cloning."""


@dataclass(frozen=True)
class HeldOutIds:
    """Every sample that training must not read, by the reason."""

    chosen: tuple[str, ...]
    """Samples in the held-out store itself: scored, generated, or reference speech of those."""
    recording: tuple[str, ...] = ()
    """Other samples of their recordings or speakers."""
    duplicate: tuple[str, ...] = ()
    """Others with the same codes or the same transcript."""

    @property
    def all(self) -> tuple[str, ...]:
        return self.chosen + self.recording + self.duplicate


@dataclass(frozen=True)
class HeldOutSet:
    """A held-out validation set, which is never changed."""

    seed: int
    by: str
    """source_video_id, speaker_id or sample: what else is held out with a chosen sample."""
    max_tokens: int
    stores: tuple[SourceStore, ...]
    ce: tuple[str, ...]
    decode: tuple[DecodePrompt, ...]
    held_out: HeldOutIds
    numbers: Mapping[str, tuple[int, ...]]
    """Numbers of held-out samples in each part of `stores` that has any, by fingerprint of the part."""
    fingerprint: str = ""

    def sealed(self) -> HeldOutSet:
        """The set with its fingerprint, which covers everything else."""
        content = {key: value for key, value in asdict(self).items() if key != "fingerprint"}
        text = json.dumps(content, sort_keys=True, ensure_ascii=False)
        return replace(self, fingerprint=hashlib.sha256(text.encode()).hexdigest()[:16])

    def to_json(self) -> str:
        content = {"gold_version": HELD_OUT_VERSION} | asdict(self)
        return json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def read_held_out_set(place: str | Path, storage: StorageConfig | None = None) -> HeldOutSet:
    """Reads the held-out set in a folder or at s3://bucket/prefix.

    Raises:
        DataError: there is no held-out set, or it is damaged or newer than this version.
    """
    file, text = f"{place}/{HELD_OUT_NAME}", store_files(place, storage).read(HELD_OUT_NAME)
    if text is None:
        raise DataError(
            f"no held-out set at {place}: {HELD_OUT_NAME} is missing; make one with titan-speech store held-out"
        )
    try:
        content = parse_json(text)
        version = content["gold_version"]
        if version != HELD_OUT_VERSION:
            raise DataError(f"{file} has version {version!r}, this titan_speech reads {HELD_OUT_VERSION}; upgrade it")
        held_out = _parse_held_out_set(content)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{file} is damaged ({error!r}); restore it") from error
    if held_out.fingerprint != held_out.sealed().fingerprint:
        raise DataError(
            f"{file} is damaged: its content is not what its fingerprint says; it is never edited: restore it"
        )
    return held_out


def _parse_held_out_set(content: dict[str, Any]) -> HeldOutSet:
    held_out = HeldOutSet(
        **{name: content[name] for name in ("seed", "by", "max_tokens", "fingerprint")},
        stores=tuple(SourceStore(**store) for store in content["stores"]),
        ce=tuple(content["ce"]),
        decode=tuple(DecodePrompt(**prompt) for prompt in content["decode"]),
        held_out=HeldOutIds(**{why: tuple(ids) for why, ids in content["held_out"].items()}),
        numbers={part: tuple(numbers) for part, numbers in content["numbers"].items()},
    )
    check_types(held_out)
    return held_out
