"""A cache for one command, gone when it ends, however it ends.

In: the node's cache folder. Out: an empty folder in it that only this process uses. A process that is killed leaves its
folder behind; the next one removes it. Which are left behind is told by locks on the folders, which the kernel drops
with their process. The folder above is locked while one is made and not locked yet.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp

from titan_speech.errors import DataError

PREFIX = "verify-"


@contextmanager
def scratch_cache(cache: Path) -> Iterator[Path]:
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with _locked(cache):
            _remove_left_behind(cache)
            folder = Path(mkdtemp(prefix=PREFIX, dir=cache))
            lock = _lock(folder)
    except OSError as error:
        raise DataError(
            f"the cache {cache} cannot be written ({error}); set TITAN_SPEECH_CACHE to a folder on a local disk"
        ) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _remove_left_behind(cache: Path) -> None:
    for folder in cache.glob(f"{PREFIX}*"):
        try:
            lock = _lock(folder, fcntl.LOCK_NB)
        except (BlockingIOError, FileNotFoundError):
            continue  # in use, or removed meanwhile by its owner
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _lock(folder: Path, flags: int = 0) -> int:
    """File number of the folder, locked as long as it is open."""
    file_number = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(file_number, fcntl.LOCK_EX | flags)
    except BaseException:
        os.close(file_number)
        raise
    return file_number


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    file_number = _lock(folder)
    try:
        yield
    finally:
        os.close(file_number)
