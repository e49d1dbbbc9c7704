"""Folders of checkpoints: how one appears, is replaced, is thinned, goes, and what killed saves leave behind.

In: a checkpoint folder (RUN/checkpoint). Out: steps that are there as a whole or not at all. A save writes
step-N.partial and is renamed to step-N when its marker lies in it; what is deleted is first renamed to step-N.deleted.
Nothing is copied: a thinned checkpoint shares its files with the full one it came from by hard links.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from titan_speech.checkpoint.commit import MARKER, STEP_NAME, Commit, sync_folder, write_durably

PARTIAL, DELETED, ROLLED_BACK = ".partial", ".deleted", ".rolled-back"


def checkpoint_path(folder: Path, step: int) -> Path:
    return folder / f"step-{step}"


def partial_path(checkpoint: Path) -> Path:
    return checkpoint.with_name(checkpoint.name + PARTIAL)


def publish(checkpoint: Path, commit: Commit) -> None:
    """Make the partial folder of `checkpoint` the checkpoint; one that is there already is replaced.

    A kill before the rename leaves a partial folder with a marker, which `recover` puts in place.
    """
    partial = partial_path(checkpoint)
    write_durably(partial / MARKER, commit.to_json())
    _put_in_place(checkpoint)


def _put_in_place(checkpoint: Path) -> None:
    deleted = checkpoint.with_name(checkpoint.name + DELETED)
    if checkpoint.exists():
        shutil.rmtree(deleted, ignore_errors=True)
        checkpoint.replace(deleted)
    partial_path(checkpoint).replace(checkpoint)
    sync_folder(checkpoint.parent)
    shutil.rmtree(deleted, ignore_errors=True)


def discard(checkpoint: Path) -> None:
    """Remove a checkpoint; a kill in between leaves no half of it under its name."""
    deleted = checkpoint.with_name(checkpoint.name + DELETED)
    try:
        checkpoint.replace(deleted)
    except FileNotFoundError:
        return
    shutil.rmtree(deleted, ignore_errors=True)


def discard_partial(checkpoint: Path) -> None:
    """Remove what a save that failed has written."""
    shutil.rmtree(partial_path(checkpoint), ignore_errors=True)


def recover(folder: Path) -> list[str]:
    """Finish or remove what killed saves left; what was done, in words. Only for the run that holds the folder."""
    done = []
    for path in sorted(folder.glob("step-*")):
        name = path.name.removesuffix(PARTIAL).removesuffix(DELETED)
        if name == path.name or not STEP_NAME.fullmatch(name):
            continue
        if path.name.endswith(PARTIAL) and (path / MARKER).is_file():
            _put_in_place(folder / name)
            done.append(f"{name} was complete but for its name, and is in place now")
        else:
            shutil.rmtree(path, ignore_errors=True)
            done.append(f"{path.name} of a run that was stopped was removed")
    return done


def link_or_copy(source: Path, target: Path) -> None:
    """The same file under a second name; a copy where the file system has no hard links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
