"""NumPy arrays of others: the header is compared with the bytes that are there before anything is allocated.

In: the bytes of a `.npy`, or a file. Out: a view of them, or a `ValueError`. `numpy.load` allocates what the header
states, so 128 bytes that announce 6 TB end in a MemoryError; and it multiplies dimensions without noticing overflow.
Arrays of Python objects are pickles, and are refused.
"""

from __future__ import annotations

import io
from math import prod
from pathlib import Path
from tokenize import TokenError
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

_VERSION = (1, 0)
"""Version 2.0 is written only for headers above 64 kB, and would have 4 GB of header read first."""


class _Header(NamedTuple):
    """What a `.npy` states, and where its values begin."""

    shape: tuple[int, ...]
    is_fortran: bool
    dtype: np.dtype
    offset: int


def array_of_bytes(data: bytes) -> NDArray:
    """The array of a `.npy` in memory, as a view.

    Raises:
        ValueError: it is no `.npy`, holds Python objects, or has fewer bytes than its header states.
    """
    header = _read_header(io.BytesIO(data), len(data))
    flat = np.frombuffer(data, header.dtype, prod(header.shape), header.offset)
    return flat.reshape(header.shape, order="F" if header.is_fortran else "C")


def mapped_npy(path: Path) -> NDArray:
    """The array of a `.npy` file, mapped; nothing is read but its header.

    Raises:
        OSError: the file cannot be read.
        ValueError: as `array_of_bytes`.
    """
    with open(path, "rb") as file:
        header = _read_header(file, path.stat().st_size)
    if not prod(header.shape):  # an empty range cannot be mapped
        return np.empty(header.shape, header.dtype)
    order = "F" if header.is_fortran else "C"
    return np.asarray(np.memmap(path, header.dtype, "r", header.offset, header.shape, order))


def _read_header(file: BinaryIO, num_bytes: int) -> _Header:
    try:
        version = npy_format.read_magic(file)
        if version != _VERSION:
            raise ValueError(f"format {version}, expected {_VERSION}")
        shape, is_fortran, dtype = npy_format.read_array_header_1_0(file)
    except (EOFError, TypeError, SyntaxError, TokenError, RecursionError, MemoryError, OverflowError) as error:
        raise ValueError(f"its header cannot be read: {error}") from error
    header = _Header(shape, is_fortran, dtype, file.tell())
    if dtype.hasobject:
        raise ValueError("Object arrays cannot be read, they are pickles")
    if dtype.itemsize == 0 or any(size < 0 for size in shape):
        raise ValueError(f"shape {shape} of {dtype}, expected numbers")
    stated = header.offset + prod(shape) * dtype.itemsize
    if stated > num_bytes:
        raise ValueError(f"shape {shape} of {dtype} takes {stated:,} bytes, there are {num_bytes:,}")
    return header
