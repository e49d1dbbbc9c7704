"""The object that makes a checkpoint at an address complete: all its files, with sizes and sha256.

In: files, told by paths below the run's checkpoint folder. Out: `PREFIX/complete/NAME.json`, written when every file it
names was seen there. What is not named by such an object does not count, whatever lies there.

A run's checkpoints at s3://bucket/prefix: which are complete, and how one stops being there.

    PREFIX/run.json                     whose checkpoints these are
    PREFIX/complete/step-40.json        written last: names the files of step 40, with sizes and sha256
    PREFIX/left/step-50.json            a manifest that counts no more: the run was rolled back behind it
    PREFIX/step-40/__0_0.distcp, ...    as below the run's checkpoint folder
    PREFIX/provenance/step-40.json, ...

A checkpoint is removed in the opposite order: first it stops to count, then its files go, but for those that another
complete checkpoint names too (the files of data phases).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass

import xxhash

from titan_speech.errors import CheckpointError
from titan_speech.storage.retry import MissingObjectError
from titan_speech.storage.s3 import Client
from titan_speech.storage.s3_url import S3Url
from titan_speech.utils.safe_path import UnsafePathError, byte_count, relative_path, sha256_text

COMPLETE_DIR = "complete"
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
    return f"{COMPLETE_DIR}/{name}.json"


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


RUN_NAME, LEFT = "run.json", "left"


class AbsentCheckpointError(CheckpointError):
    """No complete checkpoint of this name is at the address."""


@dataclass(frozen=True)
class Prefix:
    """One run at an address."""

    client: Client
    url: S3Url

    def names(self) -> list[str]:
        """Checkpoints that are complete there, by rising step."""
        found = self.client.list_sizes(self.url.child(COMPLETE_DIR))
        names = [path.removesuffix(".json") for path in found if path.endswith(".json")]
        return sorted(
            (name for name in names if CHECKPOINT_NAME.fullmatch(name)), key=lambda name: (step_of(name), name)
        )

    def read(self, name: str) -> SentCheckpoint:
        """
        Raises:
            CheckpointError: there is no such complete checkpoint, or its manifest is damaged.
        """
        url = self.url.child(manifest_path(name))
        try:
            data, expected = self.client.read(url), self.client.stored_sha256(url)
        except MissingObjectError as error:
            raise AbsentCheckpointError(f"no complete checkpoint {name} at {self.url}; {self._known()}") from error
        if expected is not None and hashlib.sha256(data).hexdigest() != expected:
            raise DamagedManifestError(
                f"{url} is damaged: its sha256 is not {expected[:16]}...; push the checkpoint again"
            )
        sent = manifest_of_text(data, str(url))
        if sent.name != name:
            raise DamagedManifestError(f"{url} is the manifest of {sent.name}; push {name} again")
        return sent

    def find(self, name: str) -> SentCheckpoint | None:
        """None if it is not complete there, or its manifest is damaged."""
        try:
            return self.read(name)
        except (AbsentCheckpointError, DamagedManifestError):
            return None

    def complete(self, checkpoint: SentCheckpoint) -> None:
        """From here on it counts."""
        self.put(manifest_path(checkpoint.name), checkpoint.to_json().encode())

    def uncount(self, name: str) -> None:
        """It counts no more; its files stay."""
        self.client.delete(self.url.child(manifest_path(name)))

    def leave(self, name: str) -> None:
        """The run went back behind it: it counts no more, its manifest is kept under `left/`, and so are its files."""
        self.put(f"{LEFT}/{name}.json", self.client.read(self.url.child(manifest_path(name))))
        self.uncount(name)

    def remove(self, name: str) -> None:
        """It counts no more, and its files go."""
        gone = self.read(name)
        self.uncount(name)
        self.delete_files({file.path for file in gone.files})

    def delete_files(self, paths: Iterable[str]) -> None:
        """But for those that a complete checkpoint names."""
        paths = set(paths)
        if paths:
            paths -= {file.path for name in self.names() for file in self.read(name).files}
        for path in sorted(paths):
            self.client.delete(self.url.child(path))

    def run_id(self) -> str | None:
        url = self.url.child(RUN_NAME)
        try:
            data = self.client.read(url)
        except MissingObjectError:
            return None
        try:
            return str(json.loads(data)["id"])
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{url} is damaged ({error!r}); delete it, and the run writes it anew") from error

    def claim(self, run_id: str) -> None:
        """Says whose checkpoints these are."""
        self.put(RUN_NAME, json.dumps({"id": run_id}).encode() + b"\n")

    def put(self, path: str, data: bytes) -> SentFile:
        """A small file."""
        sha256 = hashlib.sha256(data).hexdigest()
        self.client.put(self.url.child(path), data, sha256)
        return SentFile(path, len(data), sha256, xxhash.xxh3_128_hexdigest(data))

    def _known(self) -> str:
        names = self.names()
        return f"there are {', '.join(names[-8:])}" if names else "there is none"


def step_of(name: str) -> int:
    """The number at the end of `step-40`."""
    assert CHECKPOINT_NAME.fullmatch(name), name
    return int(name.rpartition("-")[2])


def newest_full(prefix: Prefix) -> str | None:
    """Name of the newest checkpoint that a run can resume from."""
    return next((name for name in reversed(prefix.names()) if prefix.read(name).kind == "full"), None)
