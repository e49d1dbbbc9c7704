"""When a checkpoint is saved, and which checkpoints are kept: pure functions of the steps, and pins on disk.

In: [checkpoint] cadence, keep_last_full, keep_last_model_only, milestone_every_steps; the checkpoints that exist.
Out: whether a save is due at a step; which checkpoints are deleted and which lose their optimizer state.

Newest first, the last `keep_last_full` full checkpoints stay full; of the others the last `keep_last_model_only` stay
as weights only, and the rest is deleted. Left alone are milestones, pinned checkpoints, those that somebody reads (a
running upload or export) or that wait for an upload, and damaged ones, of which nothing is known. One sound checkpoint
always stays. Suspect ones count for nothing: the newest of them stays, to look at, and the others are deleted. A pin is
one empty file, `pinned/step-N` in the checkpoint folder, so it can be set while the run trains.
"""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from titan_speech.checkpoint.commit import INDEX, Commit, Kind, file_record, role_of_name, step_from_name, step_name
from titan_speech.checkpoint.folders import link_or_copy, partial_path, publish
from titan_speech.config.schema_operations import CadenceRule, CheckpointConfig
from titan_speech.errors import CheckpointError

PINNED_DIR = "pinned"


def is_due(rules: Sequence[CadenceRule], step: int) -> bool:
    """Whether a save is due at a step: a multiple of `every` of the first rule whose `until` is not passed.

    A function of the step alone, so a run that was interrupted anywhere saves at the same steps as one that was not.
    """
    every = next((rule.every for rule in rules if rule.until is None or step <= rule.until), None)
    return every is not None and step > 0 and step % every == 0


def pinned_steps(folder: Path) -> frozenset[int]:
    """Pinned steps of a folder of checkpoints."""
    steps = (step_from_name(path.name) for path in (folder / PINNED_DIR).glob("step-*"))
    return frozenset(step for step in steps if step is not None)


def pin(folder: Path, step: int) -> None:
    """Exempt a checkpoint from retention."""
    (folder / PINNED_DIR).mkdir(exist_ok=True)
    (folder / PINNED_DIR / step_name(step)).touch()


def unpin(folder: Path, step: int) -> None:
    """Leave a checkpoint to retention again.

    Raises:
        CheckpointError: the step is not pinned.
    """
    try:
        (folder / PINNED_DIR / step_name(step)).unlink()
    except FileNotFoundError as error:
        pinned = ", ".join(map(str, sorted(pinned_steps(folder)))) or "none"
        raise CheckpointError(
            f"step {step} in {folder} is not pinned, so nothing was changed; pinned: {pinned}"
        ) from error


@dataclass(frozen=True)
class StoredCheckpoint:
    """A checkpoint that exists, as retention sees it."""

    step: int
    kind: Kind = "full"
    is_sound: bool = True
    is_pinned: bool = False
    is_held: bool = False
    """An upload or an export reads it."""
    is_waiting: bool = False
    """It has not been uploaded yet, and the upload keeps everything."""
    is_suspect: bool = False
    """A run does not resume from it by itself."""


@dataclass(frozen=True)
class RetentionPolicy:
    """The settings of [checkpoint] that decide what is kept."""

    keep_last_full: int
    """0 keeps everything."""

    keep_last_model_only: int
    milestone_every_steps: int
    """0: no milestones."""

    @classmethod
    def from_config(cls, config: CheckpointConfig) -> RetentionPolicy:
        return cls(config.keep_last_full, config.keep_last_model_only, config.milestone_every_steps)

    def is_milestone(self, step: int) -> bool:
        return self.milestone_every_steps > 0 and step > 0 and step % self.milestone_every_steps == 0


@dataclass(frozen=True)
class Removal:
    """What retention does, in rising order of steps."""

    delete: tuple[int, ...] = ()
    drop_optimizer: tuple[int, ...] = ()
    """Steps that are reduced to their weights."""


def choose_removal(stored: Collection[StoredCheckpoint], policy: RetentionPolicy) -> Removal:
    """Which checkpoints the policy deletes or reduces to their weights."""
    if policy.keep_last_full == 0:
        return Removal()
    num_full = num_model_only = num_suspect = 0
    delete, drop_optimizer = [], []
    for one in sorted((one for one in stored if one.is_sound), key=lambda one: -one.step):
        if one.is_suspect and not num_suspect:
            num_suspect += 1
        elif not one.is_suspect and one.kind == "full" and num_full < policy.keep_last_full:
            num_full += 1
        elif one.is_pinned or one.is_held or one.is_waiting or policy.is_milestone(one.step):
            continue
        elif one.is_suspect:
            delete.append(one.step)
        elif num_model_only < policy.keep_last_model_only or num_full == 0:
            num_model_only += 1
            drop_optimizer += [one.step] if one.kind == "full" else []
        else:
            delete.append(one.step)
    return Removal(tuple(sorted(delete)), tuple(sorted(drop_optimizer)))


def drop_optimizer_state(checkpoint: Path, commit: Commit) -> Commit:
    """Reduce a committed checkpoint to its weights.

    Each rank wrote weights and all else in separate files, so nothing is copied: a new folder links to the files of
    weights, gets an index that names only them and a marker of kind "model", and replaces the old folder by a rename.
    A kill leaves one or the other. Files that only other nodes have are not required here.

    Returns:
        The new commit.

    Raises:
        CheckpointError: the index is refused; nothing was changed.
    """
    from titan_speech.checkpoint.index_reader import (
        read_index,  # which loads torch: `checkpoint list` and `pin` need none
    )

    metadata = read_index(checkpoint / INDEX) if (checkpoint / INDEX).exists() else None
    partial = partial_path(checkpoint)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    kept = [file for file in commit.files if file.role in ("model", "beside")]
    for file in kept:
        if file.role == "model" and file.path(checkpoint).exists():
            link_or_copy(file.path(checkpoint), partial / file.name)
    if metadata is not None:
        entries, places = metadata.state_dict_metadata, metadata.storage_data
        of_weights = replace(
            metadata,
            state_dict_metadata={name: entry for name, entry in entries.items() if role_of_name(name) == "model"},
            planner_data={name: path for name, path in metadata.planner_data.items() if role_of_name(name) == "model"},
            storage_data={index: place for index, place in places.items() if role_of_name(index.fqn) == "model"},
        )
        with (partial / INDEX).open("wb") as file:
            pickle.dump(of_weights, file)
            file.flush()
            os.fsync(file.fileno())
        kept.append(file_record(partial / INDEX, INDEX, "index"))
    reduced = replace(commit, kind="model", files=tuple(kept))
    publish(checkpoint, reduced)
    return reduced
