"""The gate for paths and checksums that come from outside.

In: text of a manifest, a marker, an index or a listing that somebody else wrote. Out: the same text, once it can only
name a file inside the folder it belongs to; otherwise an `UnsafePathError`. Nothing that was read from outside becomes
a file name without passing one of these functions.

Lexical rules alone do not see symbolic links, so whatever is written or opened goes through `path_inside` as well.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable
from pathlib import Path

from titan_speech.errors import DataError
from titan_speech.utils.printable import has_controls

MAX_PATH_BYTES, MAX_NAME_BYTES = 1024, 255
_SHA256 = re.compile("[0-9a-f]{64}")
_DRIVE = re.compile("[A-Za-z]:")


class UnsafePathError(DataError):
    """A path from outside that could name a file outside its folder, or a checksum that is not one."""


def relative_path(text: object) -> str:
    """Check a path that must stay inside the folder it is relative to.

    Args:
        text: the path as it was read, with `/` between its parts.

    Returns:
        The same text.

    Raises:
        UnsafePathError: it is not text, empty, absolute, longer than 1,024 bytes, has a drive, a backslash, a control
            character, or a part that is empty, `.`, `..` or longer than 255 bytes.
    """
    if not isinstance(text, str):
        raise UnsafePathError(f"found {text!r} as a path, expected text")
    reason = _fault(text)
    if reason:
        shown = text if len(text) <= 200 else f"{text[:200]}..."
        raise UnsafePathError(f"found the path {shown!r}, {reason}; expected a relative path inside the folder")
    return text


def _fault(text: str) -> str:
    """Why the path is refused; empty if it is not."""
    parts = text.split("/")
    faults = (
        (text == "", "which is empty"),
        (_num_bytes(text) > MAX_PATH_BYTES, f"which has more than {MAX_PATH_BYTES} bytes"),
        (max(map(_num_bytes, parts)) > MAX_NAME_BYTES, f"which has a name of more than {MAX_NAME_BYTES} bytes"),
        (text.startswith("/"), "which is absolute"),
        (_DRIVE.match(text) is not None, "which names a drive"),
        ("\\" in text, "which has a backslash"),
        (has_controls(text), "which has control characters"),
        (bool({"..", ".", ""} & set(parts)), "which has an empty part, '.' or '..'"),
    )
    return next((reason for is_so, reason in faults if is_so), "")


def _num_bytes(text: str) -> int:
    return len(text.encode(errors="surrogatepass"))


def path_inside(folder: Path, text: object) -> Path:
    """The file that a path from outside names, inside `folder` even after symbolic links are followed.

    Args:
        folder: the folder the path is relative to; it need not exist.
        text: the path as it was read.

    Returns:
        `folder / text`.

    Raises:
        UnsafePathError: `relative_path` refuses it, or a symbolic link on the way leads out of the folder.
    """
    path = folder / relative_path(text)
    if not _resolved(path).is_relative_to(folder.resolve()):
        raise UnsafePathError(f"{path} is reached through a symbolic link that leads out of {folder}; remove the link")
    return path


def referenced_file(folder: Path, text: str, allowed: Iterable[Path] = ()) -> Path:
    """An input file that a listing names: inside the listing's folder, or in a folder the user allowed.

    Args:
        folder: the folder of the listing; a relative path is taken from there.
        text: the path as the listing has it, relative or absolute.
        allowed: further folders that files may be in.

    Returns:
        The path, not resolved; the file need not exist.

    Raises:
        UnsafePathError: it is elsewhere, also by a symbolic link, or it has control characters.
    """
    if has_controls(text):
        raise UnsafePathError(f"found the path {text!r}, which has control characters")
    path = folder / text
    resolved = _resolved(path)
    if any(resolved.is_relative_to(root.resolve()) for root in (folder, *allowed)):
        return path
    raise UnsafePathError(
        f"{path} is outside {folder}, the folder of the listing that names it; if the listing may read it, say so with "
        f"--files-from {resolved.parent}"
    )


def _resolved(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError) as error:  # Python 3.11 and 3.12 raise RuntimeError for links in a circle
        raise UnsafePathError(
            f"{path} leads nowhere: {error}; remove the symbolic links that point at each other"
        ) from error


def sha256_text(text: object) -> str:
    """Check that a checksum from outside is a sha256: caches use it as a file name.

    Raises:
        UnsafePathError: it is not 64 digits 0-9a-f.
    """
    if not isinstance(text, str) or not _SHA256.fullmatch(text):
        raise UnsafePathError(f"found the sha256 {str(text)[:80]!r}, expected 64 digits 0-9a-f")
    return text


def byte_count(number: object) -> int:
    """Check a size from outside.

    Raises:
        UnsafePathError: it is not a whole number from 0.
    """
    if isinstance(number, bool) or not isinstance(number, int) or number < 0:
        raise UnsafePathError(f"found {number!r} as a number of bytes, expected a whole number from 0")
    return number


def open_without_link(path: Path, flags: int = 0) -> int:
    """Open a file for reading and writing, created if it is not there; never through a symbolic link.

    Locks, logs and partial files have names that others can guess: a link planted there would be written through.

    Args:
        flags: more of `os.open`, such as O_APPEND.

    Returns:
        The file descriptor.

    Raises:
        UnsafePathError: a symbolic link stands at the path.
        OSError: the file cannot be opened.
    """
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | flags, 0o666)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise UnsafePathError(f"{path} is a symbolic link, which could lead anywhere; remove it") from error


def create_without_link(path: Path) -> int:
    """Create a temporary file for writing; what stands at its guessable name is removed, and never written through.

    Returns:
        The file descriptor.

    Raises:
        OSError: the file cannot be made, or another process makes it at the same moment.
    """
    path.unlink(missing_ok=True)
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
