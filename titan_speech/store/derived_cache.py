"""Arrays that are worked out from a store once and then mapped: lengths, pairs, packs of a group.

In: a key that changes with everything the array depends on, and how to make it. Out: the array, mapped from a file in
the folder STORE.derived beside the store, or under the cache folder where the store cannot be written beside (read-only
or in object storage). Nothing there is ever needed: a file that is missing, damaged or of another version is made anew,
and the folder may be deleted at any time.

Of several processes that want one array, one makes it and the others wait. It is written under another name and renamed
when it is whole, so none ever reads a half-written one. A file is checked against its xxh3_128 when a process first
opens it (2 GB/s on a busy core); 80 M lengths take 320 MB of disk, and of memory only the pages in use.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import NDArray

from titan_speech.storage.cache_folder import cache_folder

logger = logging.getLogger(__name__)

MIN_ITEMS = 1 << 17
"""Arrays over fewer samples are made anew in every process: that takes less than a second."""
MAGIC = b"TSDERIV1"
HEADER = struct.Struct("<8s8sqq16s")  # magic, dtype, rows, columns, xxh3_128 of the data
CHUNK_BYTES = 1 << 22


def derived_folder(store: Path | str) -> Path:
    """Where the arrays of a store are kept."""
    path = Path(store)
    if path.is_dir() and os.access(path.parent, os.W_OK):
        return path.with_name(f"{path.name}.derived")
    return cache_folder() / "derived" / path.name


def key_of(*content: object) -> str:
    """The name of what depends on all of this; 32 hex characters."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:32]


def derived_array(folder: Path, key: str, make: Callable[[], NDArray]) -> NDArray:
    """The array of this key, made if no whole one is there; changes to it stay in this process."""
    file = folder / f"{key}.array"
    if (found := _mapped(file)) is not None:
        return found
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _lock(folder / f"{key}.lock"):
            if (found := _mapped(file)) is None:
                _write(file, make())
                found = _mapped(file)
    except OSError as error:
        logger.warning("%s cannot be kept (%s); it is made again by each process", file, error)
        found = None
    return make() if found is None else found


def _mapped(file: Path) -> NDArray | None:
    """The array if the file is there and whole."""
    try:
        with open(file, "rb") as opened:
            header = HEADER.unpack(opened.read(HEADER.size))
            digest = xxhash.xxh3_128()
            while chunk := opened.read(CHUNK_BYTES):
                digest.update(chunk)
    except FileNotFoundError:
        return None
    except (OSError, struct.error) as error:
        logger.warning("%s is damaged (%s) and is made anew", file, error)
        return None
    magic, dtype, rows, columns, expected = header
    if magic != MAGIC or digest.digest() != expected:
        logger.warning("%s is damaged and is made anew", file)
        return None
    shape = (rows, columns) if columns else (rows,)
    if not rows:
        return np.empty(shape, dtype.rstrip(b"\0").decode())
    return np.memmap(file, dtype.rstrip(b"\0").decode(), "c", HEADER.size, shape).view(np.ndarray)


def _write(file: Path, array: NDArray) -> None:
    data = np.ascontiguousarray(array)
    rows, columns = data.shape if data.ndim == 2 else (len(data), 0)
    digest = xxhash.xxh3_128(data.data if data.size else b"").digest()
    temporary = file.with_name(f"{file.name}.tmp-{os.getpid()}")
    try:
        with open(temporary, "wb") as opened:
            opened.write(HEADER.pack(MAGIC, data.dtype.str.encode(), rows, columns, digest))
            data.tofile(opened)
            opened.flush()
            os.fsync(opened.fileno())
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _lock(file: Path) -> Iterator[None]:
    """Held by one process of a machine; where the file system knows no locks, all make the same array."""
    with open(file, "wb") as opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX)
        except OSError as error:
            logger.warning("%s cannot be locked (%s)", file, error)
        yield
