"""MosaicML MDS shards: a folder with index.json, or a folder of such folders (splits).

In: `index.json` of version 2 and its shards, raw or compressed with zstd. Out: samples of speech. Columns are the
dataset's; columns that hold pickles or images are never read. Unit: one shard (64 MB by default), which is read and
decompressed at once, so one above `--max-member-mb` is refused. It is read without MosaicML's library, which pins numpy
below 2.2; benchmarks/results/build.json compares the two rates. All numbers of a shard are little-endian:

    u32 number of samples N | u32 offset of each sample, and of the end: N + 1 | JSON of the columns | samples
    sample = u32 size of each column without a fixed size | the columns' bytes, in the order of the columns
    ndarray = [u8 dtype, if not in the encoding] [u8 ndim * 4 + log2 width of a dimension, the dimensions] values
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from titan_speech.errors import DataError
from titan_speech.importers.base import ImportOptions, Sample, Unit
from titan_speech.importers.columns import required_fields, speech_columns
from titan_speech.importers.files import format_hint
from titan_speech.importers.records import Record, check_codes_dtype, speech_samples
from titan_speech.utils.json_text import parse_json, read_json_file
from titan_speech.utils.safe_path import UnsafePathError, byte_count, relative_path

_INDEX_NAME = "index.json"
_ARRAY_DTYPES = {
    8: "uint8",
    9: "int8",
    16: "uint16",
    17: "int16",
    18: "float16",
    32: "uint32",
    33: "int32",
    34: "float32",
    64: "uint64",
    65: "int64",
    66: "float64",
}
_SCALARS = {f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)} | {"float16", "float32", "float64"}
_TEXTS: dict[str, Callable[[bytes], object]] = {
    "bytes": bytes,
    "str": lambda data: data.decode(),
    "json": parse_json,
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
    """One entry of index.json; `packed` is the file of a compressed shard."""

    columns: Mapping[str, str]
    """Name to encoding, in the order of the columns."""
    sizes: tuple[int | None, ...]
    """Bytes of each column; None for a column without a fixed size."""
    num_samples: int
    raw: ShardFile
    packed: ShardFile | None
    compression: str | None


def _can_decode(encoding: str) -> bool:
    name, *rest = encoding.split(":")
    if name != "ndarray":
        return name in _TEXTS or name in _SCALARS
    is_shape = len(rest) < 2 or all(size.isdecimal() for size in rest[1].split(","))
    return len(rest) <= 2 and is_shape and (not rest or rest[0] in _ARRAY_DTYPES.values())


def _decoder(encoding: str) -> Decoder:
    """For encodings that `_can_decode` accepts."""
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


def _read_samples(folder: Path, shard: Shard, wanted: set[str], max_bytes: int) -> Iterator[dict[str, object]]:
    """The wanted columns of each sample, in order; bytes that do not fit the layout mean a damaged shard."""
    data, path = _shard_bytes(folder, shard, max_bytes), folder / shard.raw.basename
    offsets = _offsets(data, shard, path)
    decoders = [_decoder(encoding) if name in wanted else None for name, encoding in shard.columns.items()]
    for number in range(shard.num_samples):
        sample = data[offsets[number] : offsets[number + 1]]
        try:
            yield _decode(sample, shard, decoders)
        except (ValueError, KeyError, IndexError, TypeError, OverflowError, StopIteration) as error:
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


def _shard_bytes(folder: Path, shard: Shard, max_bytes: int) -> bytes:
    """The uncompressed shard, from whichever of its two files exists; checksums of the index are verified."""
    raw = folder / shard.raw.basename
    largest = max(file.num_bytes for file in (shard.raw, shard.packed) if file is not None)
    if largest > max_bytes:
        raise DataError(
            f"{raw} has {largest:,} bytes by index.json, more than {max_bytes:,}: write smaller shards, or allow it "
            "with --max-member-mb"
        )
    if raw.is_file() or shard.packed is None:
        return _read(raw, shard.raw)
    packed = folder / shard.packed.basename
    data = _read(packed, shard.packed)
    try:
        unpacked = pa.decompress(data, shard.raw.num_bytes, codec="zstd", asbytes=True)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{packed} is damaged: {error}. Fetch or write it again") from error
    _verify(packed, unpacked, shard.raw)
    return unpacked


def _read(path: Path, file: ShardFile) -> bytes:
    try:
        with open(path, "rb") as opened:
            data = opened.read(file.num_bytes + 1)
    except OSError as error:
        raise DataError(f"{path}, named in index.json, cannot be read: {error.strerror}") from error
    _verify(path, data, file)
    return data


def _verify(path: Path, data: bytes, file: ShardFile) -> None:
    if len(data) != file.num_bytes:
        found = f"more than {file.num_bytes}" if len(data) > file.num_bytes else len(data)
        raise DataError(f"{path} holds {found} bytes, index.json says {file.num_bytes}. Fetch or write it again")
    for name, expected in file.hashes.items():
        found = _digest(name, data)
        if found is not None and found != expected:
            raise DataError(
                f"{path} is damaged: {name} is {found}, index.json says {expected}. Fetch or write it again"
            )


def _digest(name: str, data: bytes) -> str | None:
    """None for a hash function that is not available here."""
    if name in _XXHASHES:
        return getattr(xxhash, name)(data).hexdigest()
    return hashlib.new(name, data).hexdigest() if name in _HASHES else None


@dataclass(frozen=True)
class _Location:
    """A shard and its folder; `name` is unique among all inputs."""

    name: str
    folder: Path
    shard: Shard


class MDSImporter:
    """`--from mds`."""

    def __init__(self, options: ImportOptions) -> None:
        check_codes_dtype(options)
        self._options = options
        self._columns = speech_columns(options)
        self._locations = {location.name: location for location in _locations(options)}
        for location in self._locations.values():
            self._check(location)

    def units(self) -> list[Unit]:
        units = []
        for name, location in self._locations.items():
            file = location.shard.packed or location.shard.raw
            units.append(Unit(name, location.folder / file.basename, file.num_bytes))
        return units

    def samples(self, unit: Unit) -> Iterator[Sample]:
        return speech_samples(self._records(self._locations[unit.name]), self._columns, self._options, unit)

    def _records(self, location: _Location) -> Iterator[tuple[str, Record]]:
        names = location.shard.columns
        wanted = self._columns.used(names)
        if not self._columns.decides_transcripts(names):
            wanted.update(_texts(names))
        max_bytes = self._options.limits.max_member_bytes
        for number, record in enumerate(_read_samples(location.folder, location.shard, wanted, max_bytes)):
            yield f"{location.shard.raw.basename} sample {number}", record

    def _check(self, location: _Location) -> None:
        shard = location.shard
        names = shard.columns
        where = f"{location.folder / _INDEX_NAME}: shard {shard.raw.basename}"
        self._columns.check_all(names, required_fields(self._options), where)
        self._columns.check_transcripts(_texts(names), where, lambda _: ())  # values are looked at as they are read
        for name in sorted(self._columns.used(names)):
            if not _can_decode(names[name]):
                raise DataError(f"{where}: column {name!r} is {names[name]!r}, which is not read: write it as ndarray")
        if shard.packed is not None and (shard.compression or "").split(":")[0] != "zstd":
            raise DataError(f"{where} is compressed with {shard.compression!r}: expected none or zstd")


def _texts(columns: Mapping[str, str]) -> list[str]:
    return [name for name, kind in columns.items() if kind == "str"]


def _locations(options: ImportOptions) -> list[_Location]:
    locations = []
    for root in options.inputs:
        folder = _dataset_folder(root, options.split)
        prefix = "" if len(options.inputs) == 1 else f"{root.name}/"
        locations += [_Location(prefix + shard.raw.basename, folder, shard) for shard in _read_index(folder)]
    names = {location.name for location in locations}
    if len(names) < len(locations):
        raise DataError(
            f"two of the inputs have the same folder name: import {options.inputs[0]} and the others one by one"
        )
    return locations


def _dataset_folder(root: Path, split: str | None) -> Path:
    """The folder of index.json: the input itself, or the subfolder that --split names."""
    if not root.exists():
        raise DataError(f"input {root} does not exist")
    folder = root.parent if root.name == _INDEX_NAME else root
    if split is not None:
        folder /= split
    if (folder / _INDEX_NAME).is_file():
        return folder
    splits = ", ".join(sorted(path.parent.name for path in root.glob(f"*/{_INDEX_NAME}"))) if root.is_dir() else ""
    if splits:
        raise DataError(f"{folder} has no {_INDEX_NAME}; {root} has the splits {splits}: choose one with --split")
    raise DataError(f"{folder} has no {_INDEX_NAME}, expected for --from mds{format_hint([root], 'mds')}")


def _read_index(folder: Path) -> list[Shard]:
    path = folder / _INDEX_NAME
    try:
        content = read_json_file(path)
        version = content["version"]
        if version != 2:
            raise DataError(f"{path} is of version {version!r}: expected 2")
        shards = [_shard(entry, path) for entry in content["shards"]]
    except UnsafePathError as error:
        raise DataError(f"{path}: {error}; find out who made these shards before you use them") from error
    except DataError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise DataError(f"{path} is not an index of MDS shards ({error!r}){format_hint([folder], 'mds')}") from error
    if not shards:
        raise DataError(f"{path} lists no shards")
    return shards


def _shard(entry: dict, path: Path) -> Shard:
    if entry["format"] != "mds":
        raise DataError(f"{path} lists shards of format {entry['format']!r}: expected 'mds'. Write it with MDSWriter")
    return Shard(
        columns=_columns(entry),
        sizes=tuple(None if size is None else byte_count(size) for size in entry["column_sizes"]),
        num_samples=byte_count(entry["samples"]),
        raw=_file(entry["raw_data"]),
        packed=_file(entry["zip_data"]) if entry["zip_data"] else None,
        compression=entry["compression"],
    )


def _columns(entry: dict) -> dict[str, str]:
    columns = dict(zip(entry["column_names"], entry["column_encodings"], strict=True))
    if len(columns) != len(entry["column_sizes"]) or not all(
        isinstance(text, str) for pair in columns.items() for text in pair
    ):
        raise ValueError("column_names, column_encodings and column_sizes do not fit each other")
    return columns


def _file(entry: dict) -> ShardFile:
    return ShardFile(relative_path(entry["basename"]), byte_count(entry["bytes"]), dict(entry["hashes"]))
