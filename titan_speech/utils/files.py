"""Small files written whole or not at all.

In: a path and its content. Out: the file, durable after a power cut, or the file that was there before. A temporary
file beside it is written, flushed to disk and renamed, and the folder is flushed: two fsyncs per file.
"""

from __future__ import annotations

import os
from pathlib import Path

from titan_speech.utils.safe_path import create_without_link


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file so that a reader, a crash or a full disk never meets half of it.

    Args:
        path: where the file goes; missing parent folders are made.
        content: text is written as UTF-8; half of a surrogate pair, which has none, as its JSON escape.

    Raises:
        OSError: the file cannot be written; what was there before stays, and no temporary file does.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    data = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
    try:
        with open(create_without_link(temporary), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


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
