"""The object that makes a checkpoint at an address complete: all its files, with sizes and sha256.

In: files, told by paths below the run's checkpoint folder. Out: `PREFIX/complete/NAME.json`, written when every file it
names was seen there. What is not named by such an object does not count, whatever lies there.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass

from titan_speech.errors import CheckpointError
from titan_speech.utils.safe_path import UnsafePathError, byte_count, relative_path, sha256_text

FOLDER = "complete"
FORMAT = 1
CHECKPOINT_NAME = re.compile(r"(step|hf)-\d{1,18}")
RECORD_FOLDERS = ("provenance", "data_phases")
"""Where records of checkpoints lie, beside them (checkpoint/commit.py)."""


@dataclass(frozen=True, order=True)
class SentFile:
    """A file of a checkpoint; `path` is the same below the folder and below the prefix."""

    path: str
    num_bytes: int
    sha256: str
    xxh3_128: str

    def __post_init__(self) -> None:
        relative_path(self.path)
        byte_count(self.num_bytes)
        sha256_text(self.sha256)


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
        sent = SentCheckpoint(str(record["name"]), int(record["step"]), str(record["kind"]), files)
        _check_places(sent)
        return sent
    except UnsafePathError as error:
        raise DamagedManifestError(
            f"{where}: {error}. Nothing of the checkpoint was fetched or written; find out who made it before you use "
            "it"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedManifestError(
            f"{where} is damaged ({error!r}); take another checkpoint, or push this one again"
        ) from error


def _check_places(sent: SentCheckpoint) -> None:
    """Files of one checkpoint only, and records beside it; nothing of another checkpoint or of the run.

    Raises:
        UnsafePathError: a name or a path is not one that an upload writes.
    """
    if not CHECKPOINT_NAME.fullmatch(sent.name) or sent.step != int(sent.name.rpartition("-")[2]):
        raise UnsafePathError(f"found the checkpoint {sent.name!r} of step {sent.step}, expected step-N or hf-N")
    for file in sent.files:
        top = file.path.partition("/")[0]
        if top == file.path or top not in (sent.name, *RECORD_FOLDERS):
            raise UnsafePathError(
                f"found the path {file.path!r}, expected one below {sent.name}/, {'/ or '.join(RECORD_FOLDERS)}/"
            )
