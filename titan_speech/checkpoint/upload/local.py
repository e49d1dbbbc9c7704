"""Checkpoints of this node that could be sent.

In: a run's folder and that of its checkpoints. Out: what is committed, with the files that this node has and those that
only other nodes have: without a shared file system a node holds what its ranks wrote, and the marker names the files of
all. Milestones as Hugging Face folders count too: RUN/hf/step-N has its name only when it is whole.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from titan_speech.checkpoint.commit import MARKER, STEP_NAME, FileRecord, committed_steps, read_commit
from titan_speech.checkpoint.folder import checkpoint_path
from titan_speech.checkpoint.upload.lease import kept_for_upload
from titan_speech.errors import CheckpointError

HF = "hf"
HF_RECORD = "titan_speech.json"
"""Of such a folder; it has a fingerprint of the weights, so it differs where a run came to a step a second time."""


@dataclass(frozen=True)
class LocalCheckpoint:
    """A checkpoint in a folder of this node."""

    path: Path
    name: str
    """At the address: step-N, or hf-N."""

    step: int
    kind: str
    written_unix_sec: float
    files: tuple[FileRecord, ...]
    marker_sha256: str
    """Tells it from another checkpoint of the same step."""

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

    def kept(self) -> AbstractContextManager[bool]:
        """Retention leaves it alone until the block ends (Hugging Face folders it never removes); False: it is gone."""
        return nullcontext(self.path.is_dir()) if self.kind == HF else kept_for_upload(self.path)


def local_checkpoint(path: Path) -> LocalCheckpoint | None:
    """None where there is no marker, or a damaged one, which `checkpoint verify` tells of."""
    try:
        commit = read_commit(path)
        marker = (path / MARKER).read_bytes()
    except (CheckpointError, OSError):
        return None
    if commit is None:
        return None
    digest = hashlib.sha256(marker).hexdigest()
    return LocalCheckpoint(path, path.name, commit.step, commit.kind, commit.written_unix_sec, commit.files, digest)


def local_checkpoints(folder: Path, kinds: Collection[str]) -> list[LocalCheckpoint]:
    """Committed ones of the kinds, by rising step."""
    found = (local_checkpoint(checkpoint_path(folder, step)) for step in committed_steps(folder))
    return [one for one in found if one is not None and one.kind in kinds]


def hf_folders(run: Path) -> list[LocalCheckpoint]:
    """Milestones as Hugging Face folders; names, sizes and their record tell them apart: they have no checksums."""
    matches = [(path, STEP_NAME.fullmatch(path.name)) for path in (run / HF).glob("step-*")]
    return [_hf_folder(path, int(match[1])) for path, match in matches if match and path.is_dir()]


def _hf_folder(path: Path, step: int) -> LocalCheckpoint:
    names = sorted(str(file.relative_to(path)) for file in path.rglob("*") if file.is_file())
    files = tuple(FileRecord(name, (path / name).stat().st_size, "", "model") for name in names)
    told = [(file.name, file.num_bytes) for file in files], hf_record_sha256(path)
    digest = hashlib.sha256(repr(told).encode()).hexdigest()
    return LocalCheckpoint(path, f"{HF}-{step}", step, HF, path.stat().st_mtime, files, digest)


def hf_record_sha256(path: Path) -> str:
    """Of a folder's record; empty where it has none."""
    record = path / HF_RECORD
    return hashlib.sha256(record.read_bytes()).hexdigest() if record.is_file() else ""
