"""Checkpoints of this node that could be sent.

In: a run's checkpoint folder. Out: what is committed in it, with the files that this node has and those that only other
nodes have: without a shared file system a node holds what its ranks wrote, and the marker names the files of all.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from titan_speech.checkpoint.commit import MARKER, Commit, FileRecord, committed_steps, read_commit
from titan_speech.checkpoint.folder import checkpoint_path
from titan_speech.errors import CheckpointError


@dataclass(frozen=True)
class LocalCheckpoint:
    """A committed checkpoint in a folder of this node."""

    path: Path
    commit: Commit
    marker_sha256: str
    """Tells it from another checkpoint of the same step."""

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def step(self) -> int:
        return self.commit.step

    @property
    def kind(self) -> str:
        return self.commit.kind

    @property
    def marker_path(self) -> str:
        """Below the folder, and below the prefix."""
        return f"{self.name}/{MARKER}"

    def path_of(self, file: FileRecord) -> str:
        """The same below the folder, and below the prefix."""
        return file.name if file.role == "beside" else f"{self.name}/{file.name}"


def local_checkpoint(path: Path) -> LocalCheckpoint | None:
    """None where there is no marker, or a damaged one, which `checkpoint verify` tells of."""
    try:
        commit = read_commit(path)
        marker = (path / MARKER).read_bytes()
    except (CheckpointError, OSError):
        return None
    return LocalCheckpoint(path, commit, hashlib.sha256(marker).hexdigest()) if commit else None


def local_checkpoints(folder: Path, kinds: Collection[str]) -> list[LocalCheckpoint]:
    """Those of the kinds, by rising step."""
    found = (local_checkpoint(checkpoint_path(folder, step)) for step in committed_steps(folder))
    return [one for one in found if one is not None and one.kind in kinds]
