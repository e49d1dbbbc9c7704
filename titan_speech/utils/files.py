"""Small files written whole or not at all.

In: a path and its content. Out: the file, durable after a power cut, or the file that was there before. A temporary
file next to it is written, flushed to disk and renamed, and the folder is flushed: two fsyncs per file.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from titan_speech.utils.safe_path import create_without_link

_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
"""Errors of a hard link on a file system that has none."""


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file so that a reader, a crash or a full disk never meets half of it.

    Args:
        path: where the file goes; missing parent folders are made.
        content: text is written as UTF-8; half of a surrogate pair, which has none, as its JSON escape.

    Raises:
        OSError: the file cannot be written; what was there before stays, and no temporary file does.
    """
    with _written(path.with_name(f"{path.name}.tmp-{os.getpid()}"), content) as temporary:
        os.replace(temporary, path)
    sync_folder(path.parent)


def create_atomically(path: Path, content: str | bytes) -> bool:
    """Write a file that is not there yet, as `write_atomically`; False, and nothing is written, if it is.

    Of several processes that try at once, on whichever machines that share the file system, one writes it: a hard link
    is made or refused in one step. A file system without them decides by a look before the write.

    Args:
        path: where the file goes; missing parent folders are made.
        content: as for `write_atomically`.

    Raises:
        OSError: the file cannot be written; no temporary file stays.
    """
    if path.exists():
        return False
    random = os.urandom(4).hex()  # process ids of two machines, or of two containers, may be the same
    with _written(path.with_name(f"{path.name}.tmp-{os.getpid()}-{random}"), content) as temporary:
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            os.replace(temporary, path)
    sync_folder(path.parent)
    return True


@contextmanager
def _written(temporary: Path, content: str | bytes) -> Iterator[Path]:
    """A temporary file, whole and flushed, which is removed after the block."""
    temporary.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
    try:
        with open(create_without_link(temporary), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def use_umask(octal: str) -> None:
    """From here on this process and those it starts make files with these permissions; "" changes nothing."""
    if octal:
        os.umask(int(octal, 8))


def sync_folder(folder: Path) -> None:
    """Make new names in a folder durable; a file's own fsync does not.

    Raises:
        OSError: the folder cannot be opened.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
