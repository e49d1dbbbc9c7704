"""One shard of MosaicML's MDS format, version 2, read without its library (which pins numpy below 2.2).

In: the shard's entry in index.json. Out: one mapping of column to value a sample. All numbers are little-endian:

    u32 number of samples N | u32 offset of each sample, and of the end: N + 1 | JSON of the columns | samples
    sample = u32 size of each column without a fixed size | the columns' bytes, in the order of the columns
    ndarray = [u8 dtype, if not in the encoding] [u8 ndim * 4 + log2 width of a dimension, the dimensions] values

Whole shards (64 MB by default) are read and decompressed at once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from titan_speech.errors import DataError

_ARRAY_DTYPES = {
    **{8: "uint8", 9: "int8", 16: "uint16", 17: "int16", 18: "float16", 32: "uint32", 33: "int32"},
    **{34: "float32", 64: "uint64", 65: "int64", 66: "float64"},
}
_SCALARS = {f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)} | {"float16", "float32", "float64"}
_TEXTS: dict[str, Callable[[bytes], object]] = {
    "bytes": bytes,
    "str": lambda data: data.decode(),
    "json": json.loads,
    "str_int": lambda data: int(data.decode()),
    "str_float": lambda data: float(data.decode()),
    "int": lambda data: int(np.frombuffer(data, "<i8")[0]),
}
_HASHES = {name for name in hashlib.algorithms_guaranteed if not name.startswith("shake")}
_XXHASHES = set(xxhash.algorithms_available)
Decoder = Callable[[bytes], object]


@dataclass(frozen=True)
class ShardFile:
    """A file as index.json lists it."""

    basename: str
    num_bytes: int
    hashes: Mapping[str, str]


@dataclass(frozen=True)
class Shard:
    """One entry of index.json; `packed` is what lies on disk of a compressed shard."""

    columns: Mapping[str, str]
    """Name to encoding."""
    sizes: tuple[int | None, ...]
    num_samples: int
    raw: ShardFile
    packed: ShardFile | None
    compression: str | None


def can_decode(encoding: str) -> bool:
    name = encoding.split(":", 1)[0]
    return name in _TEXTS or name in _SCALARS or name == "ndarray"


def decoder(encoding: str) -> Decoder:
    """For encodings that `can_decode`."""
    name, *rest = encoding.split(":")
    if name in _TEXTS:
        return _TEXTS[name]
    if name in _SCALARS:
        return lambda data: np.frombuffer(data, name)[0].item()
    dtype = np.dtype(rest[0]) if rest else None
    shape = tuple(int(size) for size in rest[1].split(",")) if len(rest) > 1 else None
    return lambda data: _array(data, dtype, shape)


def _array(data: bytes, dtype: np.dtype | None, shape: tuple[int, ...] | None) -> NDArray:
    start = 0
    if dtype is None:
        dtype = np.dtype(_ARRAY_DTYPES[data[0]])
        start = 1
    if shape is None:
        num_dims, width = data[start] >> 2, 1 << (data[start] & 3)
        dims = np.frombuffer(data, f"<u{width}", num_dims, start + 1)
        shape, start = tuple(dims.tolist()), start + 1 + num_dims * width
    return np.frombuffer(data, dtype, offset=start).reshape(shape)


def read_samples(folder: Path, shard: Shard, wanted: set[str]) -> Iterator[dict[str, object]]:
    """Wanted columns of each sample, in order; anything that does not fit the layout is a damaged shard."""
    data, path = _shard_bytes(folder, shard), folder / shard.raw.basename
    offsets = _offsets(data, shard, path)
    decoders = [decoder(encoding) if name in wanted else None for name, encoding in shard.columns.items()]
    for number in range(shard.num_samples):
        sample = data[offsets[number] : offsets[number + 1]]
        try:
            yield _decode(sample, shard, decoders)
        except (ValueError, KeyError, IndexError) as error:
            raise DataError(f"{path} is damaged at sample {number}: {error}. Fetch or write it again") from error


def _decode(sample: bytes, shard: Shard, decoders: list[Decoder | None]) -> dict[str, object]:
    num_sizes = sum(not size for size in shard.sizes)
    varying = iter(np.frombuffer(sample, "<u4", num_sizes).tolist())
    start, values = 4 * num_sizes, {}
    for name, size, decode in zip(shard.columns, shard.sizes, decoders, strict=True):
        stop = start + (size or next(varying))
        if decode is not None:
            values[name] = decode(sample[start:stop])
        start = stop
    if start != len(sample):
        raise ValueError(f"its columns take {start} bytes of {len(sample)}")
    return values


def _offsets(data: bytes, shard: Shard, path: Path) -> list[int]:
    count = int(np.frombuffer(data, "<u4", 1)[0]) if len(data) >= 4 else -1
    if count != shard.num_samples or len(data) < 4 * (count + 2):
        raise DataError(f"{path} states {count} samples, index.json {shard.num_samples}: one of them is of another set")
    offsets_N = np.frombuffer(data, "<u4", count + 1, 4)
    if offsets_N[-1] != len(data) or np.any(np.diff(offsets_N.astype(np.int64)) < 0):
        raise DataError(f"{path} is damaged: its offsets do not fit its {len(data)} bytes. Fetch or write it again")
    return offsets_N.tolist()


def _shard_bytes(folder: Path, shard: Shard) -> bytes:
    """The uncompressed shard, whichever of the two files is there; sums are checked where the index has them."""
    raw = folder / shard.raw.basename
    if raw.is_file() or shard.packed is None:
        return _read(raw, shard.raw)
    packed = folder / shard.packed.basename
    data = _read(packed, shard.packed)
    try:
        unpacked = pa.decompress(data, shard.raw.num_bytes, codec="zstd", asbytes=True)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{packed} is damaged: {error}. Fetch or write it again") from error
    _check_sums(packed, unpacked, shard.raw)
    return unpacked


def _read(path: Path, file: ShardFile) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}, named in index.json, cannot be read: {error.strerror}") from error
    _check_sums(path, data, file)
    return data


def _check_sums(path: Path, data: bytes, file: ShardFile) -> None:
    if len(data) != file.num_bytes:
        raise DataError(f"{path} holds {len(data)} bytes, index.json says {file.num_bytes}. Fetch or write it again")
    for name, expected in file.hashes.items():
        found = _digest(name, data)
        if found is not None and found != expected:
            raise DataError(
                f"{path} is damaged: {name} is {found}, index.json says {expected}. Fetch or write it again"
            )


def _digest(name: str, data: bytes) -> str | None:
    """None for sums that cannot be computed here."""
    if name in _XXHASHES:
        return getattr(xxhash, name)(data).hexdigest()
    return hashlib.new(name, data).hexdigest() if name in _HASHES else None
