"""Retention at work: looks at what there is, decides on rank 0, removes in the background on every node.

In: the checkpoint folder, the [checkpoint] and the [upload] table. Out: checkpoints deleted or thinned. Rank 0 decides;
the first process of every node does it, since on clusters without a shared file system each has its own part of the
files. What waits for an upload stays as long as the disk of rank 0 has room for two more checkpoints: going on comes
before the archive.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from torchtitan.tools.logging import logger

from titan_speech.checkpoint.commit import (
    INDEX,
    Commit,
    checkpoint_path,
    committed_steps,
    discard,
    partial_path,
    publish,
    read_commit,
)
from titan_speech.checkpoint.retention import (
    Kept,
    Removal,
    RetentionPolicy,
    drop_optimizer_state,
    pinned_steps,
    removal,
)
from titan_speech.checkpoint.upload.local import free_to_remove
from titan_speech.checkpoint.upload.process import waiting_steps
from titan_speech.checkpoint.verify import Verification, verify
from titan_speech.config.schema_operations import CheckpointConfig, UploadConfig
from titan_speech.errors import CheckpointError

MIN_CHECKPOINTS_OF_SPACE = 2
"""Checkpoints: the one that is written next, and one for what else the disk may take until then."""


class RetentionKeeper:
    """One a process; only the first of a node touches files."""

    def __init__(
        self, folder: Path, table: CheckpointConfig, upload: UploadConfig | None = None, *, has_all_files: bool = True
    ) -> None:
        self.folder, self.policy, self.has_all_files = folder, retention_policy(table), has_all_files
        self.upload = upload or UploadConfig()
        self._is_first_of_node = os.environ.get("LOCAL_RANK", "0") == "0"
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="retention")

    def have_on_this_node(self, checkpoint: Path, commit: Commit) -> None:
        """On a node that shares no file system with rank 0, its part of the checkpoint gets name and marker here."""
        if self._is_first_of_node and partial_path(checkpoint).is_dir():
            publish(checkpoint, commit)

    def removal(self, newest_step: int) -> Removal:
        """What the policy does not keep of what is there now, up to the step that was just saved.

        Newer ones are of a branch that was left by checkpoint.load_step; they count for nothing.
        """
        kept = [one for one in self._kept() if one.step <= newest_step]
        decided = removal(kept, self.policy)
        if not any(one.is_waiting for one in kept) or has_room(self.folder, [one.step for one in kept if one.is_sound]):
            return decided
        without = removal([replace(one, is_waiting=False) for one in kept], self.policy)
        for step in sorted({*without.delete, *without.thin} - {*decided.delete, *decided.thin}):
            done = "deleted" if step in without.delete else "reduced to its weights"
            logger.warning(
                f"step-{step} waits for its upload, but {self.folder} has no room for {MIN_CHECKPOINTS_OF_SPACE} more "
                f"checkpoints, so it is {done} (retention). Make room, or give {self.upload.to} more bandwidth."
            )
        return without

    def _kept(self) -> list[Kept]:
        kept = kept_checkpoints(self.folder, has_all_files=self.has_all_files)
        waiting = waiting_steps(self.folder.parent, self.upload, {one.step: one.kind for one in kept})
        return [replace(one, is_waiting=one.step in waiting) for one in kept]

    def apply(self, decided: Removal | None) -> None:
        if self._is_first_of_node and decided is not None and (decided.delete or decided.thin):
            self._worker.submit(self._apply, decided)

    def _apply(self, decided: Removal) -> None:
        for step in decided.thin:
            self._try(self._thin, step, "reduced to its weights")
        for step in decided.delete:
            self._try(discard, step, "deleted")

    def _try(self, act: Callable[[Path], None], step: int, what: str) -> None:
        checkpoint = checkpoint_path(self.folder, step)
        try:
            with free_to_remove(checkpoint) as is_free:
                if is_free:
                    act(checkpoint)
                    logger.info(f"{checkpoint} was {what} (retention).")
        except (OSError, CheckpointError) as error:
            logger.warning(f"{checkpoint} could not be {what}: {error}. It is tried again after the next save.")

    def _thin(self, checkpoint: Path) -> None:
        commit = read_commit(checkpoint)
        if commit is not None and commit.kind == "full":
            drop_optimizer_state(checkpoint, commit)

    def close(self) -> None:
        """Waits for what is being removed."""
        self._worker.shutdown(wait=True)


def retention_policy(table: CheckpointConfig) -> RetentionPolicy:
    return RetentionPolicy(table.keep_last_full, table.keep_last_model_only, table.milestone_every_steps)


def has_room(folder: Path, steps: list[int]) -> bool:
    """Whether the disk takes some more checkpoints of the size of the largest of `steps`."""
    commits = (read_commit(checkpoint_path(folder, step)) for step in steps)
    largest = max((commit.num_bytes for commit in commits if commit is not None), default=0)
    return shutil.disk_usage(folder).free >= MIN_CHECKPOINTS_OF_SPACE * largest


def kept_checkpoints(folder: Path, *, has_all_files: bool = True) -> list[Kept]:
    """Everything with a marker; sound is what has all its files, or all that this node ever had, at their sizes."""
    pinned, found = pinned_steps(folder), []
    for step in committed_steps(folder):
        verification = verify(checkpoint_path(folder, step), checksums=False)
        is_sound = verification.is_sound or (not has_all_files and _is_sound_part(verification))
        with free_to_remove(verification.checkpoint) as is_free:
            kind = verification.commit.kind if verification.commit else "full"
            found.append(Kept(step, kind, is_sound, step in pinned, not is_free))
    return found


def _is_sound_part(found: Verification) -> bool:
    """On the node of rank 0, which has the index: what is here has its size, other nodes have the rest."""
    if found.commit is None or not (found.checkpoint / INDEX).is_file():
        return False
    sizes = {file: file.path(found.checkpoint) for file in found.commit.files}
    return all(path.stat().st_size == file.num_bytes for file, path in sizes.items() if path.is_file())
