"""A complete checkpoint from an address into a folder of this node.

In: an address, a name and a folder. Out: the checkpoint in it, verified file by file and with its marker, as a save
would have left it. Files that the folder has already (the shards this node wrote) are not fetched. One process of a
node fetches while the others wait. What was killed is gone on with: ranges of 8 MB that came are kept in `fetching/`.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from titan_speech.checkpoint.commit import MARKER, checkpoint_path, discard, link_or_copy, sync_folder
from titan_speech.checkpoint.upload.remote import Prefix, SentCheckpoint, SentFile
from titan_speech.checkpoint.verify import verify
from titan_speech.errors import CheckpointError
from titan_speech.storage.download import RemoteFile, download_files
from titan_speech.utils.progress import Progress
from titan_speech.utils.safe_path import path_inside

logger = logging.getLogger(__name__)

FETCHING_DIR = "fetching"


def fetch(prefix: Prefix, name: str, folder: Path) -> Path:
    """The path of the checkpoint, which is whole.

    Raises:
        CheckpointError: it is not complete there.
        DataError: the server cannot be reached, an object is damaged, or the disk is full; what came is kept.
    """
    sent = prefix.read(name)
    checkpoint = checkpoint_path(folder, sent.step)
    with _one_process(folder):
        if not _is_here(checkpoint, sent):
            _fetch(prefix, sent, folder)
            _put_in_place(folder / FETCHING_DIR, checkpoint)
    return checkpoint


def _is_here(checkpoint: Path, sent: SentCheckpoint) -> bool:
    """Whole, and no less than what is there: it may have been reduced to its weights here."""
    found = verify(checkpoint, checksums=False)
    return found.is_sound and found.commit is not None and (found.commit.kind == "full" or sent.kind == "model")


def _fetch(prefix: Prefix, sent: SentCheckpoint, folder: Path) -> None:
    """Into `fetching`, the marker last; what lies beside checkpoints goes to its place at once."""
    inside = {file.path: file for file in sent.files if file.path.startswith(f"{sent.name}/")}
    beside = [file for file in sent.files if file.path not in inside]
    marker = inside.pop(f"{sent.name}/{MARKER}", None)
    if marker is None:
        raise CheckpointError(f"{prefix.url}: the manifest of {sent.name} names no {MARKER}; take another checkpoint")
    for path in inside:
        _take_over(path_inside(folder, path), path_inside(folder / FETCHING_DIR, path))
    with Progress(f"fetch {sent.name} from {prefix.url}", sent.num_bytes, "MB", 1e6) as progress:
        for files, place in (
            (beside, folder),
            (inside.values(), folder / FETCHING_DIR),
            ([marker], folder / FETCHING_DIR),
        ):
            remote = {file.path: _remote(prefix, file) for file in files}
            download_files(prefix.client, remote, place, lambda _, num_bytes: progress.add(num_bytes))


def _take_over(ours: Path, place: Path) -> None:
    """A file this node wrote; whether it is the right one, its sha256 will tell."""
    if ours.is_file() and not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        link_or_copy(ours, place)


def _put_in_place(fetching: Path, checkpoint: Path) -> None:
    """A kill in between leaves no half of it under its name."""
    discard(checkpoint)
    (fetching / checkpoint.name).replace(checkpoint)
    sync_folder(checkpoint.parent)
    shutil.rmtree(fetching, ignore_errors=True)


def _remote(prefix: Prefix, file: SentFile) -> RemoteFile:
    return RemoteFile(prefix.url.child(file.path), file.num_bytes, file.sha256, file.xxh3_128)


@contextmanager
def _one_process(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    file_number = os.open(folder / f"{FETCHING_DIR}.lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(file_number, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file_number)
