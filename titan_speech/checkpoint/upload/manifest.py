"""The object that makes a checkpoint at an address complete: all its files, with sizes and sha256.

In: files, told by paths below the run's checkpoint folder. Out: `PREFIX/complete/NAME.json`, written when every file it
names was seen there. What is not named by such an object does not count, whatever lies there.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from titan_speech.errors import CheckpointError

FOLDER = "complete"
FORMAT = 1


@dataclass(frozen=True, order=True)
class SentFile:
    """A file of a checkpoint; `path` is the same below the folder and below the prefix."""

    path: str
    num_bytes: int
    sha256: str
    xxh3_128: str


@dataclass(frozen=True)
class SentCheckpoint:
    """A checkpoint that lies complete at an address."""

    name: str
    step: int
    kind: str
    files: tuple[SentFile, ...]

    @property
    def num_bytes(self) -> int:
        return sum(file.num_bytes for file in self.files)

    def to_json(self) -> str:
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1) + "\n"


class DamagedManifestError(CheckpointError):
    """The object at the manifest's place is none."""


def manifest_path(name: str) -> str:
    return f"{FOLDER}/{name}.json"


def manifest_of_text(text: bytes, where: str) -> SentCheckpoint:
    """
    Raises:
        DamagedManifestError: it is damaged.
        CheckpointError: it is of another format.
    """
    try:
        record = json.loads(text)
        if record["format"] != FORMAT:
            raise CheckpointError(
                f"{where} has format {record['format']}, this version reads {FORMAT}; install the version that wrote it"
            )
        files = tuple(SentFile(**file) for file in record["files"])
        return SentCheckpoint(str(record["name"]), int(record["step"]), str(record["kind"]), files)
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedManifestError(
            f"{where} is damaged ({error!r}); take another checkpoint, or push this one again"
        ) from error
