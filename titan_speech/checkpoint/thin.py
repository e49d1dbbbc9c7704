"""A full checkpoint becomes one of weights only.

In: a committed checkpoint whose ranks wrote weights and all else in separate files. Out: the same step with the files
of weights, an index that names only them, and a marker of kind "model". The weights are not copied: the new folder
links to the same files and takes the place of the old one by a rename, so a kill leaves one or the other.
"""

from __future__ import annotations

import os
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

from torch.distributed.checkpoint.metadata import Metadata

from titan_speech.checkpoint.commit import Commit, file_record
from titan_speech.checkpoint.dcp_index import read_index
from titan_speech.checkpoint.folder import link_or_copy, partial_path, publish
from titan_speech.checkpoint.names import INDEX, role_of_name


def thin(checkpoint: Path, commit: Commit) -> Commit:
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
