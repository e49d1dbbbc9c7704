"""One checkpoint to its address.

In: a committed checkpoint of this node. Out: its objects, and, when those of all nodes are there, its manifest. Each
file is compared with the checksum of the commit marker before it is sent; each object that is there is compared by the
size and checksum it was sent with, so nothing is sent twice, whoever sent it. Nodes do not talk to each other: the one
that writes the manifest sees the objects of the others.

A checkpoint of the same step that is complete there, but another one (thinned since, or saved anew), must stop to count
before its first object is replaced.

What uploads that were stopped left at an address, and no checkpoint there counts with.

In: an address, and the checkpoints the run still has. Out: objects and unfinished uploads of the others: their machine
went away, or retention deleted them before they were complete. Young ones may be on their way from another node, so
only what is older than a day is removed. Nothing a manifest names is touched, nor what a rollback left (`left/`).
"""

from __future__ import annotations

import hashlib
import logging
import re
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from titan_speech.checkpoint.commit import MARKER, FileRecord
from titan_speech.checkpoint.upload.local import HF, LocalCheckpoint, hf_record_sha256
from titan_speech.checkpoint.upload.remote import LEFT, Prefix, SentCheckpoint, SentFile, manifest_of_text
from titan_speech.errors import CheckpointError
from titan_speech.model.exported_files import MODEL_RECORD_NAME
from titan_speech.storage.retry import RateLimiter
from titan_speech.storage.s3 import SHA256_KEY, UnfinishedUpload
from titan_speech.storage.upload import XXH3_KEY, digest_file, upload_file

Report = Callable[[int], None]


class DamagedCheckpointError(CheckpointError):
    """A file is not what the marker says, so it is not sent."""


@dataclass(frozen=True)
class Sender:
    """How checkpoints are sent to one address."""

    prefix: Prefix
    pace: RateLimiter
    part_bytes: int

    def stop_counting(self, checkpoint: LocalCheckpoint) -> tuple[SentFile, ...]:
        """Files of another checkpoint of this name, which is complete no more."""
        there = self.prefix.find(checkpoint.name)
        if there is None or is_sent(there, checkpoint):
            return ()
        self.prefix.uncount(there.name)
        return there.files

    def send_files(self, checkpoint: LocalCheckpoint, has_all: bool, report: Report) -> Iterator[SentFile]:
        """Those this node has, which with `has_all` must be all; `report` hears of bytes as they are there.

        Raises:
            DamagedCheckpointError: a file has other bytes than the marker says, or is missing.
            DataError: the server cannot be reached; what is there stays.
        """
        for file in checkpoint.files:
            if file.path(checkpoint.path).is_file():
                yield self._send(checkpoint, file, report)
            elif has_all:
                raise DamagedCheckpointError(
                    f"{file.path(checkpoint.path)} is missing, so {checkpoint.name} is not uploaded"
                )

    def _send(self, checkpoint: LocalCheckpoint, file: FileRecord, report: Report) -> SentFile:
        there = self._there(checkpoint, file) if file.xxh3_128 else None
        if there is not None:
            report(there.num_bytes)
            return there
        path, name = file.path(checkpoint.path), checkpoint.path_of(file)
        digest = digest_file(path, self.part_bytes)
        if (digest.num_bytes, digest.xxh3_128) != (file.num_bytes, file.xxh3_128 or digest.xxh3_128):
            raise DamagedCheckpointError(
                f"{path} has other bytes than {checkpoint.marker_path} says, so {checkpoint.name} is not uploaded; "
                f"see titan-speech checkpoint verify {checkpoint.path}"
            )
        upload_file(self.prefix.client, path, self.prefix.url.child(name), digest, self.pace, report)
        return SentFile(name, digest.num_bytes, digest.sha256, digest.xxh3_128)

    def _there(self, checkpoint: LocalCheckpoint, file: FileRecord) -> SentFile | None:
        """The object, if it was sent from a file with the marker's checksum."""
        name = checkpoint.path_of(file)
        found = self.prefix.client.find(self.prefix.url.child(name))
        if found is None or (found.num_bytes, found.metadata.get(XXH3_KEY)) != (file.num_bytes, file.xxh3_128):
            return None
        sha256 = found.metadata.get(SHA256_KEY)
        return SentFile(name, file.num_bytes, sha256, file.xxh3_128) if sha256 else None

    def complete(
        self, checkpoint: LocalCheckpoint, seen: dict[str, SentFile], before: tuple[SentFile, ...] = ()
    ) -> SentCheckpoint | None:
        """Writes the manifest if all objects of all nodes are there, and notes which are in `seen`.

        Files of the checkpoint `before` this one that are not its own are deleted then.
        """
        for file in checkpoint.files:
            path = checkpoint.path_of(file)
            if path not in seen:
                there = self._there(checkpoint, file)
                if there is None:
                    return None
                seen[path] = there
        files = tuple(seen[checkpoint.path_of(file)] for file in checkpoint.files)
        if checkpoint.kind != HF:
            files += (self._send_marker(checkpoint),)
        sent = SentCheckpoint(checkpoint.name, checkpoint.step, checkpoint.kind, files)
        self.prefix.complete(sent)
        self.prefix.delete_files({file.path for file in before} - {file.path for file in files})
        return sent

    def _send_marker(self, checkpoint: LocalCheckpoint) -> SentFile:
        data = (checkpoint.path / MARKER).read_bytes()
        if hashlib.sha256(data).hexdigest() != checkpoint.marker_sha256:
            raise CheckpointError(f"{checkpoint.path} was replaced while it was uploaded; it is sent anew")
        return self.prefix.put(checkpoint.marker_path, data)


def is_sent(there: SentCheckpoint, checkpoint: LocalCheckpoint) -> bool:
    """Whether what is complete there is this checkpoint, not another of its step."""
    if checkpoint.kind == HF:
        ours = {(checkpoint.path_of(file), file.num_bytes) for file in checkpoint.files}
        record = {file.sha256 for file in there.files if file.path == f"{checkpoint.name}/{MODEL_RECORD_NAME}"}
        has_record = not record or record == {hf_record_sha256(checkpoint.path)}
        return has_record and ours == {(file.path, file.num_bytes) for file in there.files}
    return any(file.path == checkpoint.marker_path and file.sha256 == checkpoint.marker_sha256 for file in there.files)


def has_more(there: SentCheckpoint, checkpoint: LocalCheckpoint) -> bool:
    """Whether the checkpoint was reduced to its weights here and lies there in full."""
    named = {(file.path, file.num_bytes, file.xxh3_128) for file in there.files}
    weights = (file for file in checkpoint.files if file.role == "model")
    ours = {(checkpoint.path_of(file), file.num_bytes, file.xxh3_128) for file in weights}
    return (there.kind, checkpoint.kind) == ("full", "model") and ours <= named


def has_part(there: SentCheckpoint, checkpoint: LocalCheckpoint) -> bool:
    """The same for a node that has a part of the files; what was thinned has another marker on each node."""
    named = {(file.path, file.num_bytes, file.xxh3_128) for file in there.files}
    mine = (file for file in checkpoint.files if file.path(checkpoint.path).is_file())
    ours = {(checkpoint.path_of(file), file.num_bytes, file.xxh3_128) for file in mine}
    return there.kind == checkpoint.kind and ours <= named


logger = logging.getLogger(__name__)

OLD_SEC = 86_400.0
_OF_STEP = re.compile(r"(?:(step-\d+)/.+|(?:provenance|data_phases)/(step-\d+)\.json)")


@dataclass(frozen=True)
class StaleObject:
    """What of one checkpoint lies at the address without counting."""

    name: str
    paths: tuple[str, ...]
    num_bytes: int
    """Of whole objects; parts are not listed."""

    unfinished: tuple[UnfinishedUpload, ...]
    newest_unix_sec: float

    def __str__(self) -> str:
        unfinished = f", {len(self.unfinished)} unfinished uploads" if self.unfinished else ""
        return f"{self.name} ({len(self.paths)} objects, {self.num_bytes / 1e6:,.1f} MB{unfinished})"


def stale_objects(prefix: Prefix) -> list[StaleObject]:
    """By rising step; a checkpoint that is being sent looks the same, but for its age."""
    named = _named(prefix)
    objects = {path: one for path, one in prefix.client.list_objects(prefix.url).items() if path not in named}
    unfinished = prefix.client.list_unfinished_uploads(prefix.url)
    names = {_step_name(path) for path in (*objects, *(one.path for one in unfinished))} - {""}
    found = []
    for name in sorted(names, key=lambda name: int(name.removeprefix("step-"))):
        paths = tuple(path for path in objects if _step_name(path) == name)
        begun = tuple(one for one in unfinished if _step_name(one.path) == name)
        times = [*(objects[path].written_unix_sec for path in paths), *(one.begun_unix_sec for one in begun)]
        found.append(StaleObject(name, paths, sum(objects[path].num_bytes for path in paths), begun, max(times)))
    return found


def remove_stale_objects(prefix: Prefix, keep: Collection[str], older_than_sec: float = OLD_SEC) -> list[str]:
    """But for those of the checkpoints in `keep`; names of what was removed."""
    last_unix_sec = time.time() - older_than_sec
    old = [one for one in stale_objects(prefix) if one.name not in keep and one.newest_unix_sec <= last_unix_sec]
    for one in old:
        for upload in one.unfinished:
            prefix.client.abort_multipart(prefix.url.child(upload.path), upload.upload_id)
        prefix.delete_files(one.paths)
        logger.warning("%s was never complete at %s and is not here any more; it was removed there", one, prefix.url)
    return [one.name for one in old]


def _named(prefix: Prefix) -> set[str]:
    """Objects of what counts, and of what counted until a rollback."""
    files = {file.path for name in prefix.names() for file in prefix.read(name).files}
    for path in prefix.client.list_sizes(prefix.url.child(LEFT)):
        url = prefix.url.child(f"{LEFT}/{path}")
        files |= {file.path for file in manifest_of_text(prefix.client.read(url), str(url)).files}
    return files


def _step_name(path: str) -> str:
    """The checkpoint an object belongs to; empty for others."""
    match = _OF_STEP.fullmatch(path)
    return (match[1] or match[2]) if match else ""
