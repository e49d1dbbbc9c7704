"""Arrays that are computed from a store once and then mapped: lengths, pairs, packs per block.

In: a key that changes with everything the array depends on, and how to compute it. Out: the array, mapped from a file
in the folder STORE.derived next to the store, or in the cache folder where that cannot be written (read-only or in
object storage). Nothing in it is ever needed: a file that is missing, damaged or of another version is computed again,
and the folder may be deleted at any time.

Of several processes that want one array, one computes it and the others wait. It is written under another name and
renamed when it is complete, so no process ever reads half a file. A file is checked against its xxh3_128 when a process
first opens it (2 GB/s on a busy core); 80 M lengths take 320 MB of disk, and of memory only the pages in use.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import struct
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import NDArray

from titan_speech.storage.cache_folder import cache_folder
from titan_speech.utils.safe_path import create_without_link

logger = logging.getLogger(__name__)

MIN_ITEMS = 1 << 17
"""Arrays over fewer samples are computed by every process: that takes less than a second."""
MAGIC = b"TSDERIV1"
ARRAY_HEADER = struct.Struct("<8s8sqq16s")  # magic, dtype, rows, columns, xxh3_128 of the data
CHUNK_BYTES = 1 << 22


def derived_folder(store: Path | str) -> Path:
    """The folder for arrays computed from a store."""
    path = Path(store)
    if path.is_dir() and os.access(path.parent, os.W_OK):
        return path.with_name(f"{path.name}.derived")
    return cache_folder() / "derived" / path.name


def key_of(*content: object) -> str:
    """32 hex characters that change with any of this."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:32]


def derived_if_many(store: Path | str, num_samples: int, key: str, compute: Callable[[], NDArray]) -> NDArray:
    """An array over samples of a store: the stored one of this key, or, over few samples, computed by every process."""
    return compute() if num_samples < MIN_ITEMS else derived_array(derived_folder(store), key, compute)


def derived_array(folder: Path, key: str, compute: Callable[[], NDArray]) -> NDArray:
    """The array of this key, computed if it is not stored yet; changes to it stay in this process.

    Where the folder cannot be written, every process computes the array; where it cannot be locked, several may.
    """
    file = folder / f"{key}.array"
    if (found := _mapped(file)) is not None:
        return found
    from filelock import FileLock  # 0.04 s to import, for stores that have no such array too

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            try:
                stack.enter_context(FileLock(folder / f"{key}.lock"))
            except (OSError, NotImplementedError) as error:
                logger.warning("%s cannot be locked (%s)", file, error)
            if (found := _mapped(file)) is None:
                _write(file, compute())
                found = _mapped(file)
    except OSError as error:
        logger.warning("%s cannot be stored (%s); every process computes it", file, error)
        found = None
    return compute() if found is None else found


def _mapped(file: Path) -> NDArray | None:
    """The array if the file exists and is complete."""
    try:
        with open(file, "rb") as opened:
            header = ARRAY_HEADER.unpack(opened.read(ARRAY_HEADER.size))
            digest = xxhash.xxh3_128()
            while chunk := opened.read(CHUNK_BYTES):
                digest.update(chunk)
    except FileNotFoundError:
        return None
    except (OSError, struct.error) as error:
        logger.warning("%s is damaged (%s) and is computed again", file, error)
        return None
    magic, dtype, rows, columns, expected = header
    if magic != MAGIC or digest.digest() != expected:
        logger.warning("%s is damaged and is computed again", file)
        return None
    shape = (rows, columns) if columns else (rows,)
    if not rows:
        return np.empty(shape, dtype.rstrip(b"\0").decode())
    return np.memmap(file, dtype.rstrip(b"\0").decode(), "c", ARRAY_HEADER.size, shape).view(np.ndarray)


def _write(file: Path, array: NDArray) -> None:
    data = np.ascontiguousarray(array)
    rows, columns = data.shape if data.ndim == 2 else (len(data), 0)
    digest = xxhash.xxh3_128(data.data if data.size else b"").digest()
    temporary = file.with_name(f"{file.name}.tmp-{os.getpid()}")
    try:
        with open(create_without_link(temporary), "wb") as opened:
            opened.write(ARRAY_HEADER.pack(MAGIC, data.dtype.str.encode(), rows, columns, digest))
            data.tofile(opened)
            opened.flush()
            os.fsync(opened.fileno())
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)
