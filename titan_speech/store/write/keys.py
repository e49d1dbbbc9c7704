"""The key that orders the samples of a part, and other hashes of many samples at once.

In: a column of sample ids, or the bytes of a file and where its samples begin. Out: one 64-bit hash a sample. xxhash
has no call for many inputs, so these are C-level maps over views of the Arrow and file buffers: 0.3 us a sample on an
idle core, where a Python loop over array slices takes 1.2.

Shapes: N samples.
"""

from __future__ import annotations

from itertools import repeat

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray


def order_keys(sample_ids: pa.ChunkedArray, seed: int) -> NDArray[np.uint64]:
    """xxh3_64(sample_id, seed): samples of a part are stored in ascending order of it."""
    keys = [_hashes(_views(chunk), len(chunk), seed) for chunk in sample_ids.chunks if len(chunk)]
    return np.concatenate([*keys, np.empty(0, np.uint64)])


def checksums(data: NDArray, offset_N1: NDArray) -> NDArray[np.uint64]:
    """xxh3_64 of the bytes of each sample data[offset[j] : offset[j + 1]]."""
    view, byte_N1 = data.data.cast("B"), (offset_N1.astype(np.int64) * data.itemsize).tolist()
    views = map(view.__getitem__, map(slice, byte_N1[:-1], byte_N1[1:]))
    return _hashes(views, len(offset_N1) - 1, 0)


def _views(ids: pa.StringArray):
    _, offsets, values = ids.buffers()
    offset_N1 = np.frombuffer(offsets, np.int32)[ids.offset : ids.offset + len(ids) + 1].tolist()
    view = memoryview(values if values is not None else b"")
    return map(view.__getitem__, map(slice, offset_N1[:-1], offset_N1[1:]))


def _hashes(views, count: int, seed: int) -> NDArray[np.uint64]:
    return np.fromiter(map(xxhash.xxh3_64_intdigest, views, repeat(seed)), np.uint64, count)
