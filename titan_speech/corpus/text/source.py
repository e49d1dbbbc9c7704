"""What all text formats share: rows become documents, documents become samples.

In: a format's `units` and `rows`. Out: `documents` for `text prepare`, `samples` for a build. A source that needs its
quality signals is not built from directly, since nothing would hold rules against them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import replace

from titan_speech.corpus.format import ImportOptions, Unit
from titan_speech.corpus.samples import Sample
from titan_speech.corpus.text.document import Document
from titan_speech.corpus.text.presets import find_preset
from titan_speech.corpus.text.rows import RowReader
from titan_speech.errors import DataError


class TextFormat(ABC):
    """A format whose samples are documents; picklable."""

    def __init__(self, options: ImportOptions) -> None:
        self.options = options
        self.preset = find_preset(options.preset)

    @abstractmethod
    def units(self) -> list[Unit]:
        """All units, in an order that depends on the inputs alone."""

    @abstractmethod
    def rows(self, unit: Unit) -> Iterator[tuple[int, Mapping[str, object]]]:
        """Position in the file and the fields of each row."""

    def documents(self, unit: Unit) -> Iterator[Document]:
        reader = RowReader(self.options, self.preset)
        for position, row in self.rows(unit):
            yield reader.document(row, unit, position, self.where(unit, position))

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
        for document in self.documents(unit):
            yield replace(document.sample(), row=self.row_of(document.position))
