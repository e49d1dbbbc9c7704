"""gold.json: which samples of which stores are set aside, for ever.

In: the choice `store gold` made. Out: canonical JSON beside the manifest of the gold store, and back, checked against
its fingerprint. Samples are named by id, which holds over merges; for the stores they were cut from also by number in
each part (named by the part's fingerprint), so that a run over those stores need not read a single id.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from titan_speech.config.tables import StorageTable
from titan_speech.errors import DataError
from titan_speech.store.store import store_files

GOLD_NAME = "gold.json"
GOLD_VERSION = 1


@dataclass(frozen=True)
class SourceStore:
    """A store the gold pack was cut from."""

    name: str
    fingerprint: str


@dataclass(frozen=True)
class DecodePrompt:
    """What is spoken at every checkpoint."""

    sample_id: str
    task: str
    """clone, tts where the speaker has no other sample, continuation where there is no transcript."""
    language: str
    reference_id: str | None = None
    """Another sample of the speaker, for cloning."""


@dataclass(frozen=True)
class HeldOutIds:
    """Every sample training must not read, by why."""

    chosen: tuple[str, ...]
    """Samples of the gold store: scored, spoken, or references of those."""
    recording: tuple[str, ...] = ()
    """Other samples of their recordings or speakers."""
    duplicate: tuple[str, ...] = ()
    """Others with the same codes or the same transcript."""

    @property
    def all(self) -> tuple[str, ...]:
        return self.chosen + self.recording + self.duplicate


@dataclass(frozen=True)
class Gold:
    """A frozen validation set."""

    seed: int
    by: str
    """source_video_id, speaker_id or sample: what is held out along with a chosen sample."""
    max_tokens: int
    stores: tuple[SourceStore, ...]
    ce: tuple[str, ...]
    decode: tuple[DecodePrompt, ...]
    held_out: HeldOutIds
    numbers: Mapping[str, tuple[int, ...]]
    """Numbers of held-out samples in each part of `stores` that has any, by fingerprint of the part."""
    fingerprint: str = ""

    def sealed(self) -> Gold:
        return replace(self, fingerprint=_fingerprint(asdict(self)))

    def to_json(self) -> str:
        content = {"gold_version": GOLD_VERSION} | asdict(self)
        return json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _fingerprint(content: dict[str, Any]) -> str:
    kept = {key: value for key, value in content.items() if key not in ("fingerprint", "gold_version")}
    return hashlib.sha256(json.dumps(kept, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:16]


def read_gold(place: str | Path, storage: StorageTable | None = None) -> Gold:
    """Of a folder, or of s3://bucket/prefix."""
    file, text = f"{place}/{GOLD_NAME}", store_files(place, storage).note(GOLD_NAME)
    if text is None:
        raise DataError(f"no gold pack at {place}: {GOLD_NAME} is missing; make one with titan-speech store gold")
    try:
        content = json.loads(text)
        version = content["gold_version"]
        if version != GOLD_VERSION:
            raise DataError(f"{file} has version {version!r}, this titan_speech reads {GOLD_VERSION}; upgrade it")
        gold = _gold(content)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{file} is damaged ({error!r}); restore it") from error
    if gold.fingerprint != gold.sealed().fingerprint:
        raise DataError(
            f"{file} is damaged: its content is not what its fingerprint says; it is never edited: restore it"
        )
    return gold


def _gold(content: dict[str, Any]) -> Gold:
    return Gold(
        **{name: content[name] for name in ("seed", "by", "max_tokens", "fingerprint")},
        stores=tuple(SourceStore(**store) for store in content["stores"]),
        ce=tuple(content["ce"]),
        decode=tuple(DecodePrompt(**prompt) for prompt in content["decode"]),
        held_out=HeldOutIds(**{why: tuple(ids) for why, ids in content["held_out"].items()}),
        numbers={part: tuple(numbers) for part, numbers in content["numbers"].items()},
    )
