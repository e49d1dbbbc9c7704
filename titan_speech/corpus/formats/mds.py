"""MosaicML MDS shards: a folder with index.json, or a folder of such folders.

In: `index.json` of version 2 and its shards, raw or compressed with zstd. Out: samples of speech. Columns are the
dataset's. Unit: one shard. Columns that hold pickles or images are never read. benchmarks/results/build.json has the
rate beside that of the library's own reader.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from titan_speech.corpus.format import ImportOptions, Unit
from titan_speech.corpus.formats.columns import SPEECH_FIELDS, Columns, required_fields, speech_columns
from titan_speech.corpus.formats.files import instead
from titan_speech.corpus.formats.mds_shard import Shard, ShardFile, can_decode, read_samples
from titan_speech.corpus.formats.records import Record, check_codes_dtype, speech_samples
from titan_speech.corpus.samples import Sample
from titan_speech.errors import DataError
from titan_speech.utils.safe_path import UnsafePathError, byte_count, relative_path

INDEX = "index.json"


@dataclass(frozen=True)
class _Place:
    """Where a shard lies; `name` is unique among all inputs."""

    name: str
    folder: Path
    shard: Shard


class MDS:
    """`--from mds`."""

    def __init__(self, options: ImportOptions) -> None:
        check_codes_dtype(options)
        self._options = options
        self._columns = speech_columns(options)
        self._places = {place.name: place for place in _places(options)}
        for place in self._places.values():
            self._check(place)

    def units(self) -> list[Unit]:
        return [_unit(place) for place in self._places.values()]

    def samples(self, unit: Unit) -> Iterator[Sample]:
        place = self._places[unit.name]
        return speech_samples(_records(place, self._columns), self._columns, self._options, unit)

    def _check(self, place: _Place) -> None:
        names = place.shard.columns
        where = f"{place.folder / INDEX}: shard {place.shard.raw.basename}"
        self._columns.check_all(names, required_fields(self._options), where)
        for name in sorted(_wanted(self._columns, names)):
            if not can_decode(names[name]):
                raise DataError(f"{where}: column {name!r} is {names[name]!r}, which is not read: write it as ndarray")
        if place.shard.packed is not None and (place.shard.compression or "").split(":")[0] != "zstd":
            raise DataError(f"{where} is compressed with {place.shard.compression!r}: expected none or zstd")


def _unit(place: _Place) -> Unit:
    file = place.shard.packed or place.shard.raw
    return Unit(place.name, place.folder / file.basename, file.num_bytes)


def _records(place: _Place, columns: Columns) -> Iterator[tuple[str, Record]]:
    wanted = _wanted(columns, place.shard.columns)
    for number, record in enumerate(read_samples(place.folder, place.shard, wanted)):
        yield f"{place.shard.raw.basename} sample {number}", record


def _wanted(columns: Columns, names: object) -> set[str]:
    return {column for field in SPEECH_FIELDS if (column := columns.of(field, names)) is not None}  # type: ignore[arg-type]


def _places(options: ImportOptions) -> list[_Place]:
    places = []
    for root in options.inputs:
        folder = _dataset_folder(root, options.split)
        prefix = "" if len(options.inputs) == 1 else f"{root.name}/"
        places += [_Place(prefix + shard.raw.basename, folder, shard) for shard in _index(folder)]
    names = {place.name for place in places}
    if len(names) < len(places):
        raise DataError(
            f"two of the inputs have the same folder name: import {options.inputs[0]} and the others one by one"
        )
    return places


def _dataset_folder(root: Path, split: str | None) -> Path:
    """The folder of index.json: the input itself, or its subfolder named by --split."""
    if not root.exists():
        raise DataError(f"input {root} does not exist")
    folder = root.parent if root.name == INDEX else root
    if split is not None:
        folder /= split
    if (folder / INDEX).is_file():
        return folder
    splits = ", ".join(sorted(path.parent.name for path in root.glob(f"*/{INDEX}"))) if root.is_dir() else ""
    if splits:
        raise DataError(f"{folder} has no {INDEX}; {root} has the splits {splits}: choose one with --split")
    raise DataError(f"{folder} has no {INDEX}, expected for --from mds{instead([root], 'mds')}")


def _index(folder: Path) -> list[Shard]:
    path = folder / INDEX
    try:
        content = json.loads(path.read_bytes())
        version = content["version"]
        if version != 2:
            raise DataError(f"{path} is of version {version!r}: expected 2")
        shards = [_shard(entry, path) for entry in content["shards"]]
    except UnsafePathError as error:
        raise DataError(f"{path}: {error}; find out who made these shards before you use them") from error
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} is not an index of MDS shards ({error!r}){instead([folder], 'mds')}") from error
    if not shards:
        raise DataError(f"{path} lists no shards")
    return shards


def _shard(entry: dict, path: Path) -> Shard:
    if entry["format"] != "mds":
        raise DataError(f"{path} lists shards of format {entry['format']!r}: expected 'mds'. Write it with MDSWriter")
    return Shard(
        columns=dict(zip(entry["column_names"], entry["column_encodings"], strict=True)),
        sizes=tuple(entry["column_sizes"]),
        num_samples=entry["samples"],
        raw=_file(entry["raw_data"]),
        packed=_file(entry["zip_data"]) if entry["zip_data"] else None,
        compression=entry["compression"],
    )


def _file(entry: dict) -> ShardFile:
    return ShardFile(relative_path(entry["basename"]), byte_count(entry["bytes"]), dict(entry["hashes"]))
