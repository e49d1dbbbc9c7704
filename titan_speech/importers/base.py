"""The interface between the formats teams have and the build of a store: samples, units, importers.

In: what the command line says about the inputs (`ImportOptions`). Out: an `Importer`, which lists its units without
reading their samples, and reads the samples of one unit in the order of the unit. A unit is what one process imports
in one go and what a restarted build skips when it is finished: a shard file, or a range of rows of a large file (64 to
512 MB of codes is a good size).

Samples are neither checked nor tokenized here: codes are integers of any width, as the input has them, and the store's
writer checks their range. A row that does not make a sample becomes a `BadSample`; `DataError` is raised for a unit
that cannot be read any further.

An importer is a class in a module of its own, listed in registry.py under the name that `--from` takes. Its module is
imported when it is asked for, so no format needs the dependencies of another.

Shapes: T codes of a sample.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Protocol, runtime_checkable

from numpy.typing import NDArray

from titan_speech.errors import DataError, TitanSpeechError
from titan_speech.importers.limits import ImportLimits
from titan_speech.importers.registry import IMPORTERS
from titan_speech.store.manifest import CodecInfo
from titan_speech.store.problems import Problem
from titan_speech.store.sample import SampleInfo


@dataclass(frozen=True)
class SpeechSample:
    """Codes, and transcripts by variant (`native`, `romanized`, ..., `description`), which may be empty."""

    info: SampleInfo
    codes_T: NDArray
    transcripts: Mapping[str, str] = field(default_factory=dict)
    row: int | None = None
    """Row in the unit's file, from 0, for formats that have rows."""
    doubt: Problem | None = None
    """Why the sample may be of no use: the build warns of it, and leaves it out with `--skip-bad`."""


@dataclass(frozen=True)
class TextSample:
    """A document; with `user` an instruction whose answer is `text`."""

    info: SampleInfo
    text: str
    user: str | None = None
    row: int | None = None


@dataclass(frozen=True)
class BadSample:
    """Stands for a record that does not make a sample; the build counts these by kind of problem."""

    name: str
    problem: Problem
    row: int | None = None


Sample = SpeechSample | TextSample | BadSample


class BadRecordError(Exception):
    """One record does not make a sample; importers turn this into a `BadSample`.

    Args:
        kind: groups equal problems of many samples.
        detail: what was found and what was expected.
    """

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.problem = Problem(kind, detail)


@dataclass(frozen=True)
class ImportOptions:
    """What the command line says about the inputs, for what the inputs do not state themselves."""

    inputs: tuple[Path, ...]
    """Files or folders."""
    dataset_source: str | None = None
    """For samples that name no source."""
    language: str | None = None
    """For samples that name no language."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Field of a sample (`sample_id`, `language`, `codes`, `transcript_native`, `text`, `user`, ...) to the column,
    key or member of the input that holds it; a field without an entry is looked up by its own name."""
    preset: str | None = None
    """Named set of columns of a well-known source."""
    split: str | None = None
    """Which split to import, for inputs with several."""
    codec: str | None = None
    """Codec that encodes audio, for formats that hold audio."""
    codes_dtype: str | None = None
    """Type of codes that the input stores as bytes: uint16, int32, uint32 or int64, little-endian."""
    long_audio: str = "error"
    """Treatment of audio longer than 40 s: `error`, or `split` (into equal pieces, which lose their transcripts)."""
    unit_bytes: int = 256 << 20
    """Bytes of codes per unit, for large files that are imported by ranges of rows."""
    files_from: tuple[Path, ...] = ()
    """Folders in which listings may name files, in addition to the folder of the listing itself."""
    llasa_tokenizer: Path | None = None
    """The tokenizer that made the ids of Llasa memmaps."""
    limits: ImportLimits = field(default_factory=ImportLimits)
    """How much one sample may take."""


@dataclass(frozen=True)
class Unit:
    """The part of the input that is imported in one go."""

    name: str
    """Unique in the input and the same in every run over it; names the unit in errors and progress."""
    path: Path
    num_bytes: int
    """Bytes to read, for progress; need not be exact."""
    start: int = 0
    stop: int | None = None
    """Rows [start, stop) of the file; None means up to its end."""
    other_paths: tuple[Path, ...] = ()
    """Further files the unit is read from: when one of them changes, the unit is imported again."""

    @property
    def place(self) -> str:
        """Where the unit is in the input, for messages."""
        if self.path.is_dir():
            return self.name
        return str(self.path) if self.stop is None else f"{self.path}, rows {self.start} to {self.stop - 1}"


class Importer(Protocol):
    """Reads one format; constructed from `ImportOptions`, picklable.

    The constructor raises `DataError` for inputs that are not of the format: what was found, what was expected and,
    where it can be recognized, which format the input looks like instead. `samples` raises it for a damaged unit.
    """

    def __init__(self, options: ImportOptions) -> None: ...

    def units(self) -> list[Unit]:
        """All units, in an order that depends on the inputs alone."""
        ...

    def samples(self, unit: Unit) -> Iterator[Sample]: ...


@runtime_checkable
class KnowsCodec(Protocol):
    """An importer that knows the codec of its codes: from its inputs, or because it encodes with it."""

    def codec_info(self) -> CodecInfo | None: ...


@runtime_checkable
class KnowsNormalization(Protocol):
    """An importer whose texts are normalized already, by the rules it names."""

    def normalization_version(self) -> str | None: ...


def open_importer(name: str, options: ImportOptions) -> Importer:
    """The importer of a format, for these inputs.

    Raises:
        DataError: there is no such format, or the inputs are not of it.
    """
    if name not in IMPORTERS:
        raise DataError(f"unknown format {name!r}; expected one of {', '.join(sorted(IMPORTERS))}")
    module, cls = IMPORTERS[name]
    with refuse_damaged(", ".join(map(str, options.inputs))):
        return getattr(import_module(f"titan_speech.{module}"), cls)(options)


@contextmanager
def refuse_damaged(place: str) -> Iterator[None]:
    """Turn whatever reading an input raises into a `DataError` that names the place.

    Importers name the damage they foresee. Bytes that somebody else wrote can make a library raise anything else: the
    fuzz runs met seven types, from a tokenizer's error about an array's header to a MemoryError.
    `OSError` passes: the disk of the build may be meant.
    """
    try:
        yield
    except (TitanSpeechError, OSError):
        raise
    except Exception as error:
        raise DataError(
            f"{place} cannot be read ({type(error).__name__}: {str(error)[:200]}); it is damaged or not of this format"
        ) from error


def checked_samples(importer: Importer, unit: Unit) -> Iterator[Sample]:
    """The samples of a unit; damage of any kind is a `DataError`."""
    with refuse_damaged(unit.place):
        yield from importer.samples(unit)
