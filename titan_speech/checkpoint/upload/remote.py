"""A run's checkpoints at s3://bucket/prefix: which are complete, how one is removed, and what stopped uploads left.

In: an address; files, named by their path below the run's checkpoint folder.
Out: `PREFIX/complete/NAME.json`, the manifest, written once every file it names was seen there. A checkpoint without a
manifest is not complete, whatever objects are there.

    PREFIX/run.json                     whose checkpoints these are
    PREFIX/complete/step-40.json        written last: names the files of step 40, with sizes and sha256
    PREFIX/left/step-50.json            a manifest that is no longer valid: the run was rolled back to an earlier step
    PREFIX/step-40/__0_0.distcp, ...    as below the run's checkpoint folder
    PREFIX/provenance/step-40.json, ...

A checkpoint is removed in the opposite order: first its manifest, then its files, except those that another complete
checkpoint names too (the files of data phases).
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import time
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass

import xxhash

from titan_speech.checkpoint.commit import step_from_name
from titan_speech.errors import CheckpointError
from titan_speech.storage.retry import MissingObjectError
from titan_speech.storage.s3 import Client, DamagedObjectError, UnfinishedUpload
from titan_speech.storage.s3_url import S3Url
from titan_speech.utils.json_text import parse_json
from titan_speech.utils.record_types import check_types
from titan_speech.utils.safe_path import UnsafePathError, byte_count, relative_path, sha256_text
from titan_speech.utils.text_table import counted

logger = logging.getLogger(__name__)

COMPLETE_DIR, RETIRED_DIR = "complete", "left"
RUN_NAME = "run.json"
FORMAT = 1
CHECKPOINT_NAME = re.compile(r"(step|hf)-\d{1,18}")
COMPANION_DIRS = ("provenance", "data_phases")
"""Folders of companion files (checkpoint/commit.py)."""

STALE_AFTER_SEC = 86_400.0
"""Younger objects may be on their way from another node."""


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
    """A checkpoint that is complete at an address: the content of its manifest."""

    name: str
    step: int
    kind: str
    files: tuple[SentFile, ...]
    suspect: str = ""
    """As its marker says (checkpoint/suspect.py)."""

    @property
    def num_bytes(self) -> int:
        return sum(file.num_bytes for file in self.files)

    def to_json(self) -> str:
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1) + "\n"


class DamagedManifestError(CheckpointError):
    """The object is not a valid manifest."""


class AbsentCheckpointError(CheckpointError):
    """No complete checkpoint of this name is at the address."""


def step_of(name: str) -> int:
    """The number at the end of `step-40` or `hf-40`."""
    assert CHECKPOINT_NAME.fullmatch(name), name
    return int(name.rpartition("-")[2])


def manifest_path(name: str) -> str:
    return f"{COMPLETE_DIR}/{name}.json"


def manifest_from_json(text: bytes, where: str) -> SentCheckpoint:
    """The inverse of `SentCheckpoint.to_json`.

    Raises:
        DamagedManifestError: the manifest is damaged, or names files that an upload does not write.
        CheckpointError: it is of another format.
    """
    try:
        record = parse_json(text)
        if record["format"] != FORMAT:
            raise CheckpointError(
                f"{where} has format {record['format']}, this version reads {FORMAT}; install the version that wrote it"
            )
        files = tuple(SentFile(**file) for file in record["files"])
        sent = SentCheckpoint(
            str(record["name"]), int(record["step"]), str(record["kind"]), files, str(record.get("suspect", ""))
        )
        check_types(sent)
        _check_paths(sent)
        return sent
    except UnsafePathError as error:
        raise DamagedManifestError(
            f"{where}: {error}. Nothing of the checkpoint was fetched or written; find out who made it before you use "
            "it"
        ) from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamagedManifestError(
            f"{where} is damaged ({error!r}); take another checkpoint, or push this one again"
        ) from error


def _manifest_of(name: str, text: bytes, where: str) -> SentCheckpoint:
    """The manifest in `text`, which is stored where that of `name` belongs."""
    sent = manifest_from_json(text, where)
    if sent.name != name:
        raise DamagedManifestError(f"{where} is the manifest of {sent.name}; push {name} again")
    return sent


def _check_paths(sent: SentCheckpoint) -> None:
    """Files of one checkpoint and its companion files only; nothing of another checkpoint or of the run.

    Raises:
        UnsafePathError: a name or a path is not one that an upload writes.
    """
    if not CHECKPOINT_NAME.fullmatch(sent.name) or sent.step != step_of(sent.name):
        raise UnsafePathError(f"found the checkpoint {sent.name!r} of step {sent.step}, expected step-N or hf-N")
    for file in sent.files:
        top = file.path.partition("/")[0]
        if top == file.path or top not in (sent.name, *COMPANION_DIRS):
            raise UnsafePathError(
                f"found the path {file.path!r}, expected one below {sent.name}/, {'/ or '.join(COMPANION_DIRS)}/"
            )


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
        """The manifest of a checkpoint.

        Raises:
            CheckpointError: no such checkpoint is complete there, or its manifest is damaged.
        """
        url = self.url.child(manifest_path(name))
        try:
            return self.client.read(url, lambda content: _manifest_of(name, content, str(url)))
        except MissingObjectError as error:
            names = self.names()
            known = f"there are {', '.join(names[-8:])}" if names else "no checkpoint is complete"
            raise AbsentCheckpointError(f"no complete checkpoint {name} at {self.url}; {known}") from error
        except DamagedObjectError as error:
            raise DamagedManifestError(f"{error}; push the checkpoint again") from error

    def find(self, name: str) -> SentCheckpoint | None:
        """The manifest, or None if the checkpoint is not complete there or its manifest is damaged."""
        try:
            return self.read(name)
        except (AbsentCheckpointError, DamagedManifestError):
            return None

    def complete(self, checkpoint: SentCheckpoint) -> None:
        """Write the manifest: from here on the checkpoint is complete."""
        self.put(manifest_path(checkpoint.name), checkpoint.to_json().encode())

    def revoke(self, name: str) -> None:
        """Delete the manifest: the checkpoint is no longer complete; its files stay."""
        self.client.delete(self.url.child(manifest_path(name)))

    def retire(self, name: str) -> None:
        """Revoke a checkpoint that a rollback left behind; its manifest is kept under `left/`, and so are its files."""
        self.put(f"{RETIRED_DIR}/{name}.json", self.client.read(self.url.child(manifest_path(name))))
        self.revoke(name)

    def remove(self, name: str) -> None:
        """Revoke a checkpoint and delete its files."""
        removed = self.read(name)
        self.revoke(name)
        self.delete_files({file.path for file in removed.files})

    def delete_files(self, paths: Iterable[str]) -> None:
        """Delete objects, except those that a complete checkpoint names."""
        paths = set(paths)
        if paths:
            paths -= {file.path for name in self.names() for file in self.read(name).files}
        for path in sorted(paths):
            self.client.delete(self.url.child(path))

    def run_id(self) -> str | None:
        """Whose checkpoints are at the address; None if nobody has claimed it."""
        url = self.url.child(RUN_NAME)
        try:
            return self.client.read(url, lambda content: _run_id_in(content, url))
        except MissingObjectError:
            return None
        except DamagedObjectError as error:
            raise CheckpointError(f"{error}; delete it, and the run writes it again") from error

    def claim(self, run_id: str) -> None:
        """Record whose checkpoints are at the address."""
        self.put(RUN_NAME, json.dumps({"id": run_id}).encode() + b"\n")

    def put(self, path: str, data: bytes) -> SentFile:
        """Write a small object."""
        sha256 = hashlib.sha256(data).hexdigest()
        self.client.put(self.url.child(path), data, sha256)
        return SentFile(path, len(data), sha256, xxhash.xxh3_128_hexdigest(data))


def _run_id_in(content: bytes, url: S3Url) -> str:
    try:
        return str(parse_json(content)["id"])
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{url} is damaged ({error!r}); delete it, and the run writes it again") from error


def newest_full(prefix: Prefix) -> str | None:
    """Name of the newest checkpoint that a run can resume from and that is not suspect."""
    complete = ((name, prefix.read(name)) for name in reversed(prefix.names()))
    return next((name for name, sent in complete if sent.kind == "full" and not sent.suspect), None)


@dataclass(frozen=True)
class StaleObjects:
    """Objects of one checkpoint that is not complete at the address."""

    name: str
    paths: tuple[str, ...]
    num_bytes: int
    """Size of whole objects; parts are not listed."""

    unfinished: tuple[UnfinishedUpload, ...]
    newest_unix_sec: float

    def __str__(self) -> str:
        unfinished = f", {len(self.unfinished)} unfinished uploads" if self.unfinished else ""
        return f"{self.name} ({counted(len(self.paths), 'object')}, {self.num_bytes / 1e6:,.1f} MB{unfinished})"


def stale_objects(prefix: Prefix) -> list[StaleObjects]:
    """Objects that no manifest names, retired ones included, by rising step.

    A checkpoint that is being sent looks the same, except for its age.
    """
    named = {file.path for name in prefix.names() for file in prefix.read(name).files}
    for path in prefix.client.list_sizes(prefix.url.child(RETIRED_DIR)):
        url = prefix.url.child(f"{RETIRED_DIR}/{path}")
        retired = prefix.client.read(url, lambda content, where=str(url): manifest_from_json(content, where))
        named |= {file.path for file in retired.files}
    objects = {path: one for path, one in prefix.client.list_objects(prefix.url).items() if path not in named}
    unfinished = prefix.client.list_unfinished_uploads(prefix.url)
    names = {_checkpoint_of(path) for path in (*objects, *(one.path for one in unfinished))} - {""}
    found = []
    for name in sorted(names, key=step_of):
        paths = tuple(path for path in objects if _checkpoint_of(path) == name)
        begun = tuple(one for one in unfinished if _checkpoint_of(one.path) == name)
        times = [*(objects[path].written_unix_sec for path in paths), *(one.begun_unix_sec for one in begun)]
        found.append(StaleObjects(name, paths, sum(objects[path].num_bytes for path in paths), begun, max(times)))
    return found


def remove_stale_objects(prefix: Prefix, keep: Collection[str], older_than_sec: float = STALE_AFTER_SEC) -> list[str]:
    """Remove what stopped uploads left at an address of checkpoints that the run no longer has.

    Args:
        keep: names of checkpoints that the run still has.

    Returns:
        The names of the checkpoints whose objects were removed.
    """
    last_unix_sec = time.time() - older_than_sec
    old = [one for one in stale_objects(prefix) if one.name not in keep and one.newest_unix_sec <= last_unix_sec]
    for one in old:
        for upload in one.unfinished:
            prefix.client.abort_multipart(prefix.url.child(upload.path), upload.upload_id)
        prefix.delete_files(one.paths)
        logger.warning("%s was never complete at %s and no longer exists here; it was removed there", one, prefix.url)
    return [one.name for one in old]


def _checkpoint_of(path: str) -> str:
    """Name of the checkpoint (step-N) that an object belongs to; empty for others."""
    top, _, rest = path.partition("/")
    name = rest.removesuffix(".json") if top in COMPANION_DIRS and rest.endswith(".json") else top
    return name if rest and step_from_name(name) is not None and CHECKPOINT_NAME.fullmatch(name) else ""
