"""What an importer yields: one sample with all that is known about it, not yet checked or tokenized.

In: a unit of some format. Out: `SpeechSample` or `TextSample`, in the order of the unit. Codes are integers of any
width, as the format has them; the store's writer checks their range. A row of which no sample can be made is told as
`BadSample`; `DataError` is for a unit that cannot be read on.

Shapes: T codes of a sample.

The seam between the formats teams have and the build of a store.

In: what the command line says of the inputs (`ImportOptions`). Out: a `Format`, which names its units without reading
their samples, and reads the samples of one unit. A unit is what one process imports in one go and what a restarted
build skips when it is finished: a shard file, or a range of rows of a large one (64 to 512 MB of codes is right).

A format is a class in a module of its own, listed in `registry.IMPORTERS` by the name `--from` takes. Modules are
imported when their format is asked for, so no format costs another its dependencies.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Protocol, runtime_checkable

from numpy.typing import NDArray

from titan_speech.errors import DataError
from titan_speech.importers.registry import IMPORTERS
from titan_speech.store.manifest import CodecInfo
from titan_speech.store.sample import Problem, SampleInfo


@dataclass(frozen=True)
class SpeechSample:
    """Codes, and transcripts by variant (`native`, `romanized`, ..., `description`) where there are any."""

    info: SampleInfo
    codes_T: NDArray
    transcripts: Mapping[str, str] = field(default_factory=dict)
    row: int | None = None
    """Of the unit's file, from 0, where the format has rows."""


@dataclass(frozen=True)
class TextSample:
    """A document; with `user` an instruction whose answer is `text`."""

    info: SampleInfo
    text: str
    user: str | None = None
    row: int | None = None


@dataclass(frozen=True)
class BadSample:
    """In place of a sample that cannot be made: `name` says which, `problem` why. The build counts it by kind."""

    name: str
    problem: Problem
    row: int | None = None


Sample = SpeechSample | TextSample | BadSample


@dataclass(frozen=True)
class ImportOptions:
    """What is said about inputs that do not say it themselves."""

    inputs: tuple[Path, ...]
    """Files or folders."""
    dataset_source: str | None = None
    """For samples without a source of their own."""
    language: str | None = None
    """For samples without a language of their own."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Field of a sample (`sample_id`, `language`, `codes`, `transcript_native`, `text`, `user`, ...) to the column,
    key or member of the input that holds it; fields not named are looked up by their own name."""
    preset: str | None = None
    """Named set of columns of a well-known source."""
    split: str | None = None
    """Which split of an input that has several."""
    codec: str | None = None
    """Codec that encodes audio, for formats that hold audio."""
    codes_dtype: str | None = None
    """What codes are that the input keeps as bytes: uint16, int32, uint32 or int64, little-endian."""
    long_audio: str = "error"
    """What becomes of audio longer than 40 s: `error` or `split` (into equal pieces, which lose their transcripts)."""
    unit_bytes: int = 256 << 20
    """Bytes of codes of a unit, where a large file is imported by ranges of rows."""
    files_from: tuple[Path, ...] = ()
    """Folders that listings may name files in, besides the folder of the listing itself."""
    llasa_tokenizer: Path | None = None
    """The tokenizer that made the ids of Llasa memmaps."""


@dataclass(frozen=True)
class Unit:
    """Part of the input that is imported in one go."""

    name: str
    """Unique in the input and equal in every run over it; names the unit in errors and progress."""
    path: Path
    num_bytes: int
    """Bytes to read, for progress; need not be exact."""
    start: int = 0
    stop: int | None = None
    """Rows [start, stop) of the file; None is its end."""
    other_paths: tuple[Path, ...] = ()
    """Further files it is read from: when one of them changes, the unit is imported again."""

    @property
    def place(self) -> str:
        """What of the input it is, for messages."""
        if self.path.is_dir():
            return self.name
        return str(self.path) if self.stop is None else f"{self.path}, rows {self.start} to {self.stop - 1}"


class Importer(Protocol):
    """One format; constructed from `ImportOptions`, picklable.

    The constructor raises `DataError` on inputs that are not of the format, naming what was found, what was expected
    and which format it looks like instead where that can be said; `samples` raises it on a damaged unit.
    """

    def __init__(self, options: ImportOptions) -> None: ...

    def units(self) -> list[Unit]:
        """All units, in an order that depends on the inputs alone."""
        ...

    def samples(self, unit: Unit) -> Iterator[Sample]: ...


@runtime_checkable
class KnowsCodec(Protocol):
    """A format whose inputs say, or whose encoder is, the codec of their codes."""

    def codec_info(self) -> CodecInfo | None: ...


@runtime_checkable
class KnowsNormalization(Protocol):
    """A format whose texts are normalized already, by the rules named here."""

    def normalization_version(self) -> str | None: ...


def speech_importers() -> list[str]:
    """Those whose samples have codes; the others hold text."""
    return [name for name in IMPORTERS if not name.startswith("text-")]


def open_importer(name: str, options: ImportOptions) -> Importer:
    if name not in IMPORTERS:
        raise DataError(f"unknown format {name!r}; expected one of {', '.join(sorted(IMPORTERS))}")
    module, cls = IMPORTERS[name]
    return getattr(import_module(f"titan_speech.{module}"), cls)(options)
