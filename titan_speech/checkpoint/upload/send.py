"""Which checkpoint is sent next, and one checkpoint to its address.

In: a committed checkpoint of this node, or a milestone exported as a Hugging Face folder (RUN/hf/step-N).
Out: its objects, and, once those of all nodes are there, its manifest. Each file is compared with the checksum of the
commit marker before it is sent; each object that is there is compared by the size and checksum it was sent with, so
nothing is sent twice, whoever sent it. Without a shared file system a node holds what its ranks wrote, and the marker
names the files of all; nodes do not talk to each other: the one that writes the manifest sees the objects of the
others.

If another checkpoint of the same step is complete there (without optimizer state since, or saved again), its manifest
is revoked before its first object is replaced.
"""

from __future__ import annotations

import functools
import hashlib
import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from titan_speech.checkpoint.commit import MARKER, FileRecord, committed_checkpoints, read_commit, step_from_name
from titan_speech.checkpoint.folders import lock_for_reading
from titan_speech.checkpoint.upload.remote import Prefix, SentCheckpoint, SentFile
from titan_speech.errors import CheckpointError
from titan_speech.model.exported_files import MODEL_RECORD_NAME, find_exported_files
from titan_speech.storage.retry import RateLimiter
from titan_speech.storage.s3 import SHA256_KEY
from titan_speech.storage.upload import XXH3_KEY, digest_file, upload_file
from titan_speech.utils.printable import one_line

logger = logging.getLogger(__name__)

Report = Callable[[int], None]

HF = "hf"


class DamagedCheckpointError(CheckpointError):
    """A file is not what the marker says, so it is not sent."""


@dataclass(frozen=True)
class LocalCheckpoint:
    """A checkpoint in a folder of this node that could be sent."""

    path: Path
    name: str
    """Its name at the address: step-N, or hf-N."""

    step: int
    kind: str
    written_unix_sec: float
    files: tuple[FileRecord, ...]
    marker_sha256: str
    """Distinguishes it from another checkpoint of the same step."""
    suspect: str = ""

    @property
    def num_bytes(self) -> int:
        return sum(file.num_bytes for file in self.files)

    @property
    def marker_path(self) -> str:
        """Below the folder, and below the prefix."""
        return f"{self.name}/{MARKER}"

    def path_of(self, file: FileRecord) -> str:
        """Below the prefix."""
        return file.name if file.role == "beside" else f"{self.name}/{file.name}"

    def lock_for_reading(self) -> AbstractContextManager[bool]:
        """As `checkpoint.folders.lock_for_reading`; Hugging Face folders are never removed by retention."""
        return nullcontext(self.path.is_dir()) if self.kind == HF else lock_for_reading(self.path)


def local_checkpoint(path: Path) -> LocalCheckpoint | None:
    """The checkpoint in a folder, or None if its marker is missing or damaged, which `checkpoint verify` reports."""
    try:
        commit = read_commit(path)
        marker = (path / MARKER).read_bytes()
    except (CheckpointError, OSError):
        return None
    if commit is None:
        return None
    digest = hashlib.sha256(marker).hexdigest()
    return LocalCheckpoint(
        path,
        path.name,
        commit.step,
        commit.kind,
        commit.written_unix_sec,
        commit.files,
        digest,
        commit.suspect,
    )


def local_checkpoints(folder: Path, kinds: Collection[str]) -> list[LocalCheckpoint]:
    """Committed checkpoints of these kinds, by rising step."""
    found = (local_checkpoint(checkpoint.path) for checkpoint in committed_checkpoints(folder))
    return [one for one in found if one is not None and one.kind in kinds]


def hf_folders(run: Path) -> list[LocalCheckpoint]:
    """Milestones exported as Hugging Face folders; they have their name only when they are whole, and no checksums."""
    found = []
    for path in (run / HF).glob("step-*"):
        step = step_from_name(path.name)
        if step is not None and path.is_dir() and (one := _hf_folder(path, step)) is not None:
            found.append(one)
    return found


def _hf_folder(path: Path, step: int) -> LocalCheckpoint | None:
    """The files of the export alone; None for a folder with symbolic links in their place, which is not uploaded."""
    if path.is_symlink():
        _warn_once(f"{path} is not uploaded: it is a symbolic link; expected the folder itself")
        return None
    found = find_exported_files(path)
    if found.links:
        _warn_once(
            f"{path} is not uploaded: not a regular file: {', '.join(found.links)}; symbolic links are not followed: "
            "put the files in their place, or delete the folder to have the milestone exported again"
        )
        return None
    if found.others:
        _warn_once(f"{path}: not uploaded, as no export has such files: {', '.join(map(one_line, found.others))}")
    files = tuple(FileRecord(name, (path / name).stat().st_size, "", "model") for name in found.files)
    identity = [(file.name, file.num_bytes) for file in files], _hf_record_sha256(path)
    digest = hashlib.sha256(repr(identity).encode()).hexdigest()
    return LocalCheckpoint(path, f"{HF}-{step}", step, HF, path.stat().st_mtime, files, digest)


@functools.cache
def _warn_once(message: str) -> None:
    """Log a warning once per process: folders are listed several times per upload pass."""
    logger.warning("%s", message)


def _hf_record_sha256(path: Path) -> str:
    """The sha256 of a folder's record, with a fingerprint of the weights: it differs where a run reached a step twice.

    Empty if the folder has none.
    """
    record = path / MODEL_RECORD_NAME
    return hashlib.sha256(record.read_bytes()).hexdigest() if record.is_file() else ""


def next_to_send(
    waiting: Sequence[LocalCheckpoint], newest_sent_step: int = -1, begun: str | None = None
) -> LocalCheckpoint | None:
    """Which checkpoint is sent next.

    One that was begun is finished first, so that a slow network completes one checkpoint after the other. Then the
    newest full one: should the machine be lost now, it is the one to resume from. The others follow, oldest first.

    Args:
        newest_sent_step: step of the newest full checkpoint that is complete at the address.
        begun: name of the checkpoint of which some files were sent.
    """
    for one in waiting:
        if one.name == begun:
            return one
    newest = max((one for one in waiting if one.kind == "full"), key=lambda one: one.step, default=None)
    if newest is not None and newest.step > newest_sent_step:
        return newest
    return min(waiting, key=lambda one: (one.step, one.kind != "full"), default=None)


@dataclass(frozen=True)
class Sender:
    """Sends checkpoints to one address."""

    prefix: Prefix
    pace: RateLimiter
    part_bytes: int

    def revoke_other(self, checkpoint: LocalCheckpoint) -> tuple[SentFile, ...]:
        """Revoke another checkpoint of this name that is complete there.

        Returns:
            Its files; empty if there is no other one.
        """
        there = self.prefix.find(checkpoint.name)
        if there is None or is_sent(there, checkpoint):
            return ()
        self.prefix.revoke(there.name)
        return there.files

    def send_files(self, checkpoint: LocalCheckpoint, has_all: bool, report: Report) -> Iterator[SentFile]:
        """Send the files this node has.

        Args:
            has_all: whether this node must have all files.
            report: is called with numbers of bytes as they arrive.

        Raises:
            DamagedCheckpointError: a file has other bytes than the marker says, or is missing.
            DataError: the server cannot be reached; what was sent stays.
        """
        for file in checkpoint.files:
            if file.path(checkpoint.path).is_file():
                yield self._send(checkpoint, file, report)
            elif has_all:
                raise DamagedCheckpointError(
                    f"{file.path(checkpoint.path)} is missing, so {checkpoint.name} is not uploaded"
                )

    def _send(self, checkpoint: LocalCheckpoint, file: FileRecord, report: Report) -> SentFile:
        there = self._find(checkpoint, file) if file.xxh3_128 else None
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

    def _find(self, checkpoint: LocalCheckpoint, file: FileRecord) -> SentFile | None:
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
        """Write the manifest if the objects of all nodes are there.

        Args:
            seen: objects that are known to be there, by path; those that are found are added.
            before: files of the checkpoint that this one replaces; those that it does not share are deleted.

        Returns:
            The manifest; None if an object is not there yet.
        """
        for file in checkpoint.files:
            path = checkpoint.path_of(file)
            if path not in seen:
                there = self._find(checkpoint, file)
                if there is None:
                    return None
                seen[path] = there
        files = tuple(seen[checkpoint.path_of(file)] for file in checkpoint.files)
        if checkpoint.kind != HF:
            files += (self._send_marker(checkpoint),)
        sent = SentCheckpoint(checkpoint.name, checkpoint.step, checkpoint.kind, files, checkpoint.suspect)
        self.prefix.complete(sent)
        self.prefix.delete_files({file.path for file in before} - {file.path for file in files})
        return sent

    def _send_marker(self, checkpoint: LocalCheckpoint) -> SentFile:
        data = (checkpoint.path / MARKER).read_bytes()
        if hashlib.sha256(data).hexdigest() != checkpoint.marker_sha256:
            raise CheckpointError(f"{checkpoint.path} was replaced while it was uploaded; it is sent again")
        return self.prefix.put(checkpoint.marker_path, data)


def is_sent(there: SentCheckpoint, checkpoint: LocalCheckpoint) -> bool:
    """Whether what is complete there is this checkpoint, not another one of its step."""
    if checkpoint.kind == HF:
        ours = {(checkpoint.path_of(file), file.num_bytes) for file in checkpoint.files}
        record = {file.sha256 for file in there.files if file.path == f"{checkpoint.name}/{MODEL_RECORD_NAME}"}
        has_record = not record or record == {_hf_record_sha256(checkpoint.path)}
        return has_record and ours == {(file.path, file.num_bytes) for file in there.files}
    return any(file.path == checkpoint.marker_path and file.sha256 == checkpoint.marker_sha256 for file in there.files)


def has_more(there: SentCheckpoint, checkpoint: LocalCheckpoint) -> bool:
    """Whether the checkpoint was reduced to its weights here and is there in full."""
    weights = [file for file in checkpoint.files if file.role == "model"]
    return (there.kind, checkpoint.kind) == ("full", "model") and _names_all(there, checkpoint, weights)


def has_part(there: SentCheckpoint, checkpoint: LocalCheckpoint) -> bool:
    """`is_sent` for a node that has a part of the files; a checkpoint of weights only has a marker per node."""
    mine = [file for file in checkpoint.files if file.path(checkpoint.path).is_file()]
    return there.kind == checkpoint.kind and _names_all(there, checkpoint, mine)


def _names_all(there: SentCheckpoint, checkpoint: LocalCheckpoint, files: Sequence[FileRecord]) -> bool:
    named = {(file.path, file.num_bytes, file.xxh3_128) for file in there.files}
    return {(checkpoint.path_of(file), file.num_bytes, file.xxh3_128) for file in files} <= named
