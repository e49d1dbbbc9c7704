"""At which steps a checkpoint is due.

In: the rules of [checkpoint] cadence. Out: a pure function of the step, so a run that was cut anywhere saves at the
same steps as one that was not. A rule holds up to its `until`; in it the multiples of `every` are due.

Checkpoints pinned by hand, which retention leaves as they are.

In: a checkpoint folder and a step. Out: `pinned/step-N`, one empty file a pin: it is made and removed whole, also while
the run goes on.

Which checkpoints go and which lose their optimizer, as a pure function.

In: what there is, and the policy. Out: steps to delete and steps to thin to their weights. Newest first, the last
`keep_last_full` that are full stay full; of the others the last `keep_last_model_only` stay as weights, the rest goes.
Left as they are: milestones, what is pinned, what somebody holds (an upload or an export that runs) or waits for, and
what is not sound, since nothing is known of it. One sound checkpoint always stays.

A full checkpoint becomes one of weights only.

In: a committed checkpoint whose ranks wrote weights and all else in separate files. Out: the same step with the files
of weights, an index that names only them, and a marker of kind "model". The weights are not copied: the new folder
links to the same files and takes the place of the old one by a rename, so a kill leaves one or the other.
"""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch.distributed.checkpoint.metadata import Metadata

from titan_speech.checkpoint.commit import (
    INDEX,
    STEP_NAME,
    Commit,
    Kind,
    file_record,
    link_or_copy,
    partial_path,
    publish,
    role_of_name,
)
from titan_speech.checkpoint.dcp_index import read_index
from titan_speech.config.schema_operations import CadenceRule
from titan_speech.errors import CheckpointError


def is_due(rules: Sequence[CadenceRule], step: int) -> bool:
    """Whether the rule that covers `step` has it as a multiple; steps beyond the last rule are never due."""
    every = next((rule.every for rule in rules if rule.until is None or step <= rule.until), None)
    return every is not None and step > 0 and step % every == 0


PINNED_DIR = "pinned"


def pinned_steps(folder: Path) -> frozenset[int]:
    matches = (STEP_NAME.fullmatch(path.name) for path in (folder / PINNED_DIR).glob("step-*"))
    return frozenset(int(match[1]) for match in matches if match)


def pin(folder: Path, step: int) -> None:
    (folder / PINNED_DIR).mkdir(exist_ok=True)
    (folder / PINNED_DIR / f"step-{step}").touch()


def unpin(folder: Path, step: int) -> None:
    """
    Raises:
        CheckpointError: the step is not pinned.
    """
    try:
        (folder / PINNED_DIR / f"step-{step}").unlink()
    except FileNotFoundError as error:
        pinned = ", ".join(map(str, sorted(pinned_steps(folder)))) or "none"
        raise CheckpointError(
            f"step {step} in {folder} is not pinned, so nothing was changed; pinned: {pinned}"
        ) from error


@dataclass(frozen=True)
class Kept:
    """A checkpoint that is there."""

    step: int
    kind: Kind = "full"
    is_sound: bool = True
    is_pinned: bool = False
    is_held: bool = False
    is_waiting: bool = False
    """To be sent to an address that keeps everything."""


@dataclass(frozen=True)
class RetentionPolicy:
    """The settings of [checkpoint] that say what stays."""

    keep_last_full: int
    """0 keeps everything."""

    keep_last_model_only: int
    milestone_every_steps: int
    """0: none."""

    def is_milestone(self, step: int) -> bool:
        return self.milestone_every_steps > 0 and step > 0 and step % self.milestone_every_steps == 0


@dataclass(frozen=True)
class Removal:
    """What is to be done, in rising order of steps."""

    delete: tuple[int, ...] = ()
    thin: tuple[int, ...] = ()


def removal(kept: Collection[Kept], policy: RetentionPolicy) -> Removal:
    """What the policy does not keep."""
    if policy.keep_last_full == 0:
        return Removal()
    num_full = num_model = 0
    delete, thin = [], []
    for one in sorted((one for one in kept if one.is_sound), key=lambda one: -one.step):
        if one.kind == "full" and num_full < policy.keep_last_full:
            num_full += 1
        elif one.is_pinned or one.is_held or one.is_waiting or policy.is_milestone(one.step):
            continue
        elif num_model < policy.keep_last_model_only or num_full == 0:
            num_model += 1
            thin += [one.step] if one.kind == "full" else []
        else:
            delete.append(one.step)
    return Removal(tuple(sorted(delete)), tuple(sorted(thin)))


def drop_optimizer_state(checkpoint: Path, commit: Commit) -> Commit:
    """Drop all but the weights of `checkpoint`; the new commit. Files of other nodes' disks are not missed.

    Raises:
        CheckpointError: its index is refused; nothing was changed.
    """
    index = read_index(checkpoint / INDEX) if (checkpoint / INDEX).exists() else None
    partial = partial_path(checkpoint)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    kept = [file for file in commit.files if file.role in ("model", "beside")]
    for file in kept:
        if file.role == "model" and file.path(checkpoint).exists():
            link_or_copy(file.path(checkpoint), partial / file.name)
    if index is not None:
        _write_index(partial / INDEX, _of_weights(index))
        kept.append(file_record(partial / INDEX, INDEX, "index"))
    thinned = replace(commit, kind="model", files=tuple(kept))
    publish(checkpoint, thinned)
    return thinned


def _of_weights(metadata: Metadata) -> Metadata:
    """The index without what belongs to the state."""
    return replace(
        metadata,
        state_dict_metadata={
            name: entry for name, entry in metadata.state_dict_metadata.items() if role_of_name(name) == "model"
        },
        planner_data={name: path for name, path in metadata.planner_data.items() if role_of_name(name) == "model"},
        storage_data={index: at for index, at in metadata.storage_data.items() if role_of_name(index.fqn) == "model"},
    )


def _write_index(path: Path, metadata: Metadata) -> None:
    with path.open("wb") as file:
        pickle.dump(metadata, file)
        file.flush()
        os.fsync(file.fileno())
