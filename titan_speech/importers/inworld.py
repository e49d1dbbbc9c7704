"""Output of the open Inworld vectorizer (github.com/inworld-ai/tts, tools/data).

In: folders with, for each split,

    {split}_codes.npy          codes of all samples back to back: raw little-endian int32, in spite of its name without
                               a npy header (a file with one is read too)
    {split}_codes_index.npy    a real npy, one int64 per sample: where it begins; the last one ends with the codes
    {split}_samples.jsonl      line i for entry i: id, speaker_id, language, transcript, voice_description, sample_rate,
                               dataset_name, ... ; empty values are left out

or the same before `data_merger.py` ran, with _{rank} at the end of each name. If both exist, the merged files are
read. Out: samples of speech; a transcript is `native`, a voice description `description`. A store has no fields for
emotion, style, sound effect, DNSMOS and wav path. `--dataset-source` takes precedence over `dataset_name`, which is
only the name of the audio's folder; `--language` is for samples whose language is absent or "unknown".

A unit is a range of rows with 256 MB of codes; most of the time to read a unit is spent on JSON.

Shapes: N samples, T codes of a sample.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from titan_speech.errors import DataError
from titan_speech.importers.base import ImportOptions, Sample, Unit
from titan_speech.importers.columns import CODES, speech_columns
from titan_speech.importers.files import chosen_split, format_hint, warn_absent_parts
from titan_speech.importers.jsonl import LineIndex, index_lines, parse_lines
from titan_speech.importers.npy import mapped_npy
from titan_speech.importers.records import Record, narrow_codes, speech_samples
from titan_speech.store.files import mapped_array
from titan_speech.store.problems import Problem

_DEFAULT_COLUMNS = {
    "sample_id": "id",
    "dataset_source": "dataset_name",
    "transcript_native": "transcript",
    "transcript_description": "voice_description",
}
UNKNOWN_LANGUAGE = "unknown"
CODE_BYTES = 4
ROWS_AT_ONCE = 256
_INDEX = re.compile(r"(?P<split>.+)_codes_index(?P<rank>_\d+)?\.npy")
_NUM_CHECKED, _MIN_CODES = 1 << 16, 8
_NPY_MAGIC = b"\x93NUMPY"


@dataclass(frozen=True)
class _Files:
    """The three files of a split, or of the part of it that one rank wrote."""

    folder: Path
    split: str
    rank: str

    @property
    def codes(self) -> Path:
        return self.folder / f"{self.split}_codes{self.rank}.npy"

    @property
    def index(self) -> Path:
        return self.folder / f"{self.split}_codes_index{self.rank}.npy"

    @property
    def samples(self) -> Path:
        return self.folder / f"{self.split}_samples{self.rank}.jsonl"


class InworldImporter:
    """`--from inworld`."""

    def __init__(self, options: ImportOptions) -> None:
        self._options = options
        self._columns = speech_columns(options, _DEFAULT_COLUMNS)
        self._files = {str(files.samples): files for root in options.inputs for files in _split_files(root, options)}
        self._line_offsets: dict[str, int] = {}

    def units(self) -> list[Unit]:
        return [unit for files in self._files.values() for unit in self._units(files)]

    def _units(self, files: _Files) -> Iterator[Unit]:
        starts_N, num_codes = _starts(files), len(_codes(files.codes))
        _check_starts(files, starts_N, num_codes)
        wanted = np.arange(0, num_codes, max(1, self._options.unit_bytes // CODE_BYTES))
        firsts = np.unique(np.searchsorted(starts_N, wanted, side="left"))
        firsts = firsts[firsts < len(starts_N)].tolist() or [0]
        lines = index_lines(files.samples, firsts)
        _check_lines(files, lines, len(starts_N))
        for first, stop in zip(firsts, [*firsts[1:], len(starts_N)], strict=True):
            name = f"{files.folder.name}/{files.samples.stem}:{first}"
            self._line_offsets[name] = lines.offsets.get(first, 0)
            end = starts_N[stop] if stop < len(starts_N) else num_codes
            num_bytes = int(end - starts_N[first]) * CODE_BYTES
            yield Unit(name, files.samples, num_bytes, first, stop, (files.codes, files.index))

    def samples(self, unit: Unit) -> Iterator[Sample]:
        return speech_samples(self._records(unit), self._columns, self._options, unit)

    def _records(self, unit: Unit) -> Iterator[tuple[str, Record | Problem]]:
        files = self._files[str(unit.path)]
        stop = unit.stop if unit.stop is not None else 0
        codes, starts_N = _codes(files.codes), _starts(files)
        borders = [*starts_N[unit.start : stop].tolist(), int(starts_N[stop]) if stop < len(starts_N) else len(codes)]
        limits = self._options.limits
        lines = parse_lines(unit.path, self._line_offsets[unit.name], unit.start, stop, limits)
        for (name, record), codes_T in zip(lines, _split_codes(codes, borders, limits.max_codes), strict=True):
            yield name, record if isinstance(record, Problem) else self._record(record, codes_T)

    def _record(self, record: dict[str, object], codes_T: NDArray) -> Record:
        """Fields by their usual names, without the values the vectorizer writes for "not known"."""
        if self._options.dataset_source:
            record.pop("dataset_name", None)
        if record.get("language") == UNKNOWN_LANGUAGE:
            del record["language"]
        if record.get("sample_rate") == -1:
            del record["sample_rate"]
        original = record.pop("original_data", None)
        if isinstance(original, dict):
            record.update({f"original_data.{key}": value for key, value in original.items()})
        record[CODES] = codes_T
        return record


def _split_files(root: Path, options: ImportOptions) -> list[_Files]:
    """The files of the chosen split; merged files replace those of the single ranks."""
    if not root.exists():
        raise DataError(f"input {root} does not exist")
    matches = [match for path in sorted(root.glob("*.npy")) if (match := _INDEX.fullmatch(path.name))]
    if not matches:
        raise DataError(
            f"{root} has no SPLIT_codes_index.npy, SPLIT_codes.npy and SPLIT_samples.jsonl, expected for --from inworld"
            f"{format_hint([root], 'inworld')}"
        )
    split = chosen_split(root, sorted({match["split"] for match in matches}), options.split)
    ranks = sorted((match["rank"] or "" for match in matches if match["split"] == split), key=_rank_order)
    if ranks[0]:
        numbers = [_rank_order(rank) for rank in ranks]
        warn_absent_parts(str(root), f"files of ranks of {split}", numbers, max(numbers) + 1)
    found = [_Files(root, split, rank) for rank in (ranks[:1] if ranks[0] == "" else ranks)]
    for files in found:
        for path in (files.codes, files.samples):
            if not path.is_file():
                raise DataError(f"{path} is missing next to {files.index.name}: copy it there, or vectorize again")
    return found


def _rank_order(rank: str) -> int:
    return int(rank.removeprefix("_") or -1)


def _codes(path: Path) -> NDArray[np.int32]:
    with open(path, "rb") as file:
        has_header = file.read(len(_NPY_MAGIC)) == _NPY_MAGIC
    if has_header:
        return _load_array(path)
    if path.stat().st_size % CODE_BYTES:
        raise DataError(
            f"{path} has {path.stat().st_size} bytes, not a multiple of 4: expected int32 codes; copy it again"
        )
    codes = mapped_array(path, np.dtype("<i4"))
    _refuse_int64(path, codes[:_NUM_CHECKED])
    return codes


def _refuse_int64(path: Path, first_codes: NDArray[np.int32]) -> None:
    """The file does not state its width; int64 read as int32 has a zero after each code, which speech never has."""
    if len(first_codes) >= 2 * _MIN_CODES and not first_codes[1::2].any() and first_codes[::2].any():
        raise DataError(
            f"{path} looks like int64: every second of its first {len(first_codes)} int32 values is 0; expected raw "
            "int32 codes, as the vectorizer writes them: numpy.fromfile(FILE, 'i8').astype('i4').tofile(NEW)"
        )


def _split_codes(codes: NDArray[np.int32], borders: list[int], max_codes: int) -> Iterator[NDArray]:
    """The codes between borders, converted to uint16 for many samples at a time; not of those that are refused."""
    for first in range(0, len(borders) - 1, ROWS_AT_ONCE):
        some = borders[first : first + ROWS_AT_ONCE + 1]
        if max(stop - start for start, stop in pairwise(some)) > max_codes:
            yield from (codes[start:stop] for start, stop in pairwise(some))
            continue
        block = narrow_codes(codes[some[0] : some[-1]])
        for start, stop in pairwise(some):
            yield block[start - some[0] : stop - some[0]]


def _starts(files: _Files) -> NDArray[np.int64]:
    return _load_array(files.index).astype(np.int64, copy=False)  # differences of unsigned numbers are never negative


def _load_array(path: Path) -> NDArray:
    try:
        array = mapped_npy(path)
    except (ValueError, OSError) as error:
        raise DataError(f"{path} is not a .npy array ({error}); copy it again, or vectorize again") from error
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        raise DataError(f"{path} is {array.dtype} of shape {array.shape}: expected one row of integers")
    return np.asarray(array, array.dtype.newbyteorder("="))


def _check_starts(files: _Files, starts_N: NDArray[np.int64], num_codes: int) -> None:
    if len(starts_N) > files.samples.stat().st_size + 1:  # before all of it is read: a line has at least one byte
        raise DataError(f"{files.index} has {len(starts_N)} entries, more than {files.samples} can have lines")
    if len(starts_N) == 0 or starts_N[0] != 0:
        found = "is empty" if len(starts_N) == 0 else f"begins with {starts_N[0]}"
        raise DataError(f"{files.index} {found}: expected the start of each sample, the first at 0")
    bad = np.flatnonzero(np.diff(starts_N) < 0)
    if len(bad):
        raise DataError(
            f"{files.index} goes back from {starts_N[bad[0]]} to {starts_N[bad[0] + 1]} at entry {bad[0] + 1}: "
            "expected the start of each sample in order; it does not belong to these codes"
        )
    if starts_N[-1] > num_codes:
        raise DataError(
            f"{files.index} says a sample begins at code {starts_N[-1]}, but {files.codes} holds {num_codes}: the "
            "codes are truncated or of another index; copy both again"
        )


def _check_lines(files: _Files, lines: LineIndex, num_starts: int) -> None:
    if lines.num_lines != num_starts:
        raise DataError(
            f"{files.samples} has {lines.num_lines} lines, {files.index.name} has {num_starts} entries: line i must be "
            "the sample of entry i; copy them again from one vectorization"
        )
