"""Retention carried out: rank 0 looks and decides, every node removes in the background.

In: the checkpoint folder, the [checkpoint] and the [upload] config.
Out: checkpoints deleted or reduced to their weights. The first process of every node removes, since without a shared
file system each node has its own part of the files. A checkpoint that waits for its upload stays as long as the disk of
rank 0 has space for two more checkpoints; then it is removed all the same: that training continues matters more than
the archive.
"""

from __future__ import annotations

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
    committed_checkpoints,
    read_commit,
    step_name,
)
from titan_speech.checkpoint.folders import discard, lock_for_removal, partial_path, publish
from titan_speech.checkpoint.retention import (
    Removal,
    RetentionPolicy,
    StoredCheckpoint,
    choose_removal,
    drop_optimizer_state,
    pinned_steps,
)
from titan_speech.checkpoint.upload.process import waiting_steps
from titan_speech.checkpoint.verify import CheckpointVerification, verify
from titan_speech.config.schema_operations import CheckpointConfig, UploadConfig
from titan_speech.distributed.environment import dist_env
from titan_speech.errors import CheckpointError

MIN_CHECKPOINTS_OF_SPACE = 2
"""The one that is written next, and one for whatever else the disk has to take until then."""


class RetentionKeeper:
    """One per process; only the first process of a node touches files."""

    def __init__(
        self, folder: Path, config: CheckpointConfig, upload: UploadConfig | None = None, *, has_all_files: bool = True
    ) -> None:
        """`has_all_files`: False where other nodes have files of the checkpoints that this one does not see."""
        self.folder, self.policy, self.has_all_files = folder, RetentionPolicy.from_config(config), has_all_files
        self.upload = upload or UploadConfig()
        self._is_first_of_node = dist_env().is_first_of_node
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="retention")

    def publish_on_this_node(self, checkpoint: Path, commit: Commit) -> None:
        """On a node that shares no file system with rank 0, give its part of the checkpoint its name and marker."""
        if self._is_first_of_node and partial_path(checkpoint).is_dir():
            publish(checkpoint, commit)

    def choose_removal(self, newest_step: int) -> Removal:
        """What the policy does not keep of the checkpoints that exist now, up to the step that was just saved.

        Newer ones are of a branch that was left by checkpoint.load_step; they count for nothing.
        """
        stored = [one for one in self._stored() if one.step <= newest_step]
        chosen = choose_removal(stored, self.policy)
        sound_steps = [one.step for one in stored if one.is_sound]
        if not any(one.is_waiting for one in stored) or has_space(self.folder, sound_steps):
            return chosen
        without = choose_removal([replace(one, is_waiting=False) for one in stored], self.policy)
        for step in sorted({*without.delete, *without.drop_optimizer} - {*chosen.delete, *chosen.drop_optimizer}):
            done = "deleted" if step in without.delete else "reduced to its weights"
            logger.warning(
                f"{step_name(step)} waits for its upload, but {self.folder} has no space for "
                f"{MIN_CHECKPOINTS_OF_SPACE} more checkpoints, so it is {done} (retention). Free disk space, or give "
                f"{self.upload.to} more bandwidth."
            )
        return without

    def _stored(self) -> list[StoredCheckpoint]:
        stored = stored_checkpoints(self.folder, has_all_files=self.has_all_files)
        waiting = waiting_steps(self.folder.parent, self.upload, {one.step: one.kind for one in stored})
        return [replace(one, is_waiting=one.step in waiting) for one in stored]

    def remove(self, chosen: Removal | None) -> None:
        """Begin to carry out what rank 0 chose, in the background."""
        if self._is_first_of_node and chosen is not None and (chosen.delete or chosen.drop_optimizer):
            self._worker.submit(self._remove, chosen)

    def _remove(self, chosen: Removal) -> None:
        for step in chosen.drop_optimizer:
            self._try(_drop_optimizer_state, step, "reduced to its weights")
        for step in chosen.delete:
            self._try(discard, step, "deleted")

    def _try(self, act: Callable[[Path], None], step: int, done: str) -> None:
        checkpoint = checkpoint_path(self.folder, step)
        try:
            with lock_for_removal(checkpoint) as is_free:
                if is_free:
                    act(checkpoint)
                    logger.info(f"{checkpoint} was {done} (retention).")
        except (OSError, CheckpointError) as error:
            logger.warning(f"{checkpoint} could not be {done}: {error}. It is tried again after the next save.")

    def close(self) -> None:
        """Wait for what is being removed."""
        self._worker.shutdown(wait=True)


def _drop_optimizer_state(checkpoint: Path) -> None:
    commit = read_commit(checkpoint)
    if commit is not None and commit.kind == "full":
        drop_optimizer_state(checkpoint, commit)


def has_space(folder: Path, steps: list[int]) -> bool:
    """Whether the disk has space for `MIN_CHECKPOINTS_OF_SPACE` more of the size of the largest of `steps`."""
    commits = (read_commit(checkpoint_path(folder, step)) for step in steps)
    largest = max((commit.num_bytes for commit in commits if commit is not None), default=0)
    return shutil.disk_usage(folder).free >= MIN_CHECKPOINTS_OF_SPACE * largest


def stored_checkpoints(folder: Path, *, has_all_files: bool = True) -> list[StoredCheckpoint]:
    """Every checkpoint with a marker; sound are those whose files have their sizes.

    Without `has_all_files` that is asked of the files this node has, as other nodes have the rest.
    """
    pinned, stored = pinned_steps(folder), []
    for checkpoint in committed_checkpoints(folder):
        found = verify(checkpoint.path, checksums=False)
        is_sound = found.is_sound or (not has_all_files and _is_sound_part(found))
        with lock_for_removal(checkpoint.path) as is_free:
            kind = found.commit.kind if found.commit else "full"
            is_suspect = found.commit is not None and bool(found.commit.suspect)
            is_pinned = checkpoint.step in pinned
            stored.append(
                StoredCheckpoint(checkpoint.step, kind, is_sound, is_pinned, not is_free, is_suspect=is_suspect)
            )
    return stored


def _is_sound_part(found: CheckpointVerification) -> bool:
    """On the node of rank 0, which has the index: the files that are here have their sizes."""
    if found.commit is None or not (found.checkpoint / INDEX).is_file():
        return False
    paths = {file: file.path(found.checkpoint) for file in found.commit.files}
    return all(path.stat().st_size == file.num_bytes for file, path in paths.items() if path.is_file())
