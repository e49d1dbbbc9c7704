"""What all text formats share: rows become documents, documents become samples.

In: a format's `units` and `rows`. Out: `documents` for `text prepare`, which ends a unit at its first bad row, and
`samples` for a build, which counts bad rows. A source that needs its quality signals is not built from directly, since
nothing would hold rules against them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from titan_speech.corpus.format import ImportOptions, Unit
from titan_speech.corpus.formats.records import UnfitError
from titan_speech.corpus.samples import BadSample, Sample
from titan_speech.corpus.text.document import Document
from titan_speech.corpus.text.presets import find_preset
from titan_speech.corpus.text.rows import RowReader
from titan_speech.errors import DataError
from titan_speech.store.problems import Problem


@dataclass(frozen=True)
class _Unfit:
    """A row of which no document can be made."""

    name: str
    position: int
    problem: Problem


class TextFormat(ABC):
    """A format whose samples are documents; picklable."""

    def __init__(self, options: ImportOptions) -> None:
        self.options = options
        self.preset = find_preset(options.preset)

    @abstractmethod
    def units(self) -> list[Unit]:
        """All units, in an order that depends on the inputs alone."""

    @abstractmethod
    def rows(self, unit: Unit) -> Iterator[tuple[int, Mapping[str, object] | Problem]]:
        """Position in the file and the fields of each row, or why it has none."""

    def documents(self, unit: Unit) -> Iterator[Document]:
        for document in self._read(unit):
            if isinstance(document, _Unfit):
                raise DataError(f"{self.where(unit, document.position)}: {document.problem.detail}")
            yield document

    def where(self, unit: Unit, position: int) -> str:
        """A document's place, for messages."""
        return f"{unit.path}, row {position}"

    def row_of(self, position: int) -> int | None:
        """Of its file, from 0."""
        return position

    def samples(self, unit: Unit) -> Iterator[Sample]:
        if self.preset is not None and self.preset.needs_signals:
            raise DataError(
                f"{self.preset.source} is unfiltered: run `titan-speech text prepare` on it, which holds rules against "
                "its quality signals, and build --from text-prepared"
            )
        for document in self._read(unit):
            row = self.row_of(document.position)
            if isinstance(document, _Unfit):
                yield BadSample(document.name, document.problem, row)
            else:
                yield replace(document.sample(), row=row)

    def _read(self, unit: Unit) -> Iterator[Document | _Unfit]:
        reader = RowReader(self.options, self.preset)
        for position, row in self.rows(unit):
            if isinstance(row, Problem):
                yield _Unfit(f"{unit.name}:{position}", position, row)
                continue
            try:
                yield reader.document(row, unit, position)
            except UnfitError as error:
                yield _Unfit(str(row.get("sample_id") or f"{unit.name}:{position}"), position, error.problem)
