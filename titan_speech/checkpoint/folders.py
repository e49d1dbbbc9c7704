"""How checkpoint folders appear and disappear, and the lock of one that is read or removed.

In: .../step-N, and the marker of what a save has written. Out: the folder under its name, or no longer. A save writes
step-N.partial and renames it once the marker is in it; a removal renames before it deletes. So a kill at any instant
leaves a complete checkpoint or none. One lock per checkpoint, on its marker, keeps retention from removing what is
being read.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from contextlib import AbstractContextManager
from pathlib import Path

from titan_speech.checkpoint.commit import MARKER, Commit, step_from_name
from titan_speech.utils.files import sync_folder, write_atomically
from titan_speech.utils.locks import try_lock

PARTIAL, DELETED, ROLLED_BACK = ".partial", ".deleted", ".rolled-back"


def partial_path(checkpoint: Path) -> Path:
    """Where a save writes until the checkpoint is complete."""
    return checkpoint.with_name(checkpoint.name + PARTIAL)


def publish(checkpoint: Path, commit: Commit) -> None:
    """Turn the partial folder of `checkpoint` into the checkpoint; one of the same step is replaced.

    A kill before the rename leaves a partial folder with a marker, which `recover` renames.
    """
    write_atomically(partial_path(checkpoint) / MARKER, commit.to_json())
    _rename_partial(checkpoint)


def _rename_partial(checkpoint: Path) -> None:
    deleted = checkpoint.with_name(checkpoint.name + DELETED)
    if checkpoint.exists():
        shutil.rmtree(deleted, ignore_errors=True)
        checkpoint.replace(deleted)
    partial_path(checkpoint).replace(checkpoint)
    sync_folder(checkpoint.parent)
    shutil.rmtree(deleted, ignore_errors=True)


def discard(checkpoint: Path) -> None:
    """Remove a checkpoint, if it exists; a kill meanwhile leaves no incomplete folder under its name."""
    deleted = checkpoint.with_name(checkpoint.name + DELETED)
    try:
        checkpoint.replace(deleted)
    except FileNotFoundError:
        return
    shutil.rmtree(deleted, ignore_errors=True)


def recover(folder: Path) -> list[str]:
    """Finish or remove what killed saves and removals left. Only for the run that holds the lock of the folder.

    Returns:
        A sentence for each thing that was done.
    """
    done = []
    for path in sorted(folder.glob("step-*")):
        name = path.name.removesuffix(PARTIAL).removesuffix(DELETED)
        if name == path.name or step_from_name(name) is None:
            continue
        if path.is_symlink():  # no save makes one; the next would write into the folder it leads to
            path.unlink()
            done.append(f"{path.name}, a symbolic link, was removed; what it led to was not touched")
        elif path.name.endswith(PARTIAL) and (path / MARKER).is_file():
            _rename_partial(folder / name)
            done.append(f"{name} was complete but not renamed yet; it was renamed now")
        else:
            shutil.rmtree(path, ignore_errors=True)
            done.append(f"{path.name}, left by a run that was stopped, was removed")
    return done


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name; copy it where the file system has no hard links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def lock_for_reading(checkpoint: Path) -> AbstractContextManager[bool]:
    """Keep retention from removing a checkpoint while it is uploaded or exported.

    Yields:
        False if the checkpoint does not exist or is being removed. Nobody waits.
    """
    return try_lock(checkpoint / MARKER, fcntl.LOCK_SH)


def lock_for_removal(checkpoint: Path) -> AbstractContextManager[bool]:
    """Keep others from beginning to read a checkpoint while it is removed or loses its optimizer state.

    Yields:
        False if the checkpoint does not exist or is being read. Nobody waits; retention tries again after the next
        save.
    """
    return try_lock(checkpoint / MARKER, fcntl.LOCK_EX)
