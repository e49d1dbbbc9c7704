"""`text-plain`: text files (.txt, with .gz or .zst).

In: files. Out: one document a file; with the preset `paragraphs` (or one of a source that is laid out so, as
indiccorp-v2) one a run of lines between blank lines; with `lines` one a line. Many small files share a unit; otherwise
a file is one. A single document above 64 MB is an error: then blank lines were expected where there are none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from titan_speech.corpus.format import ImportOptions, Unit
from titan_speech.corpus.text.inputs import input_files, lines_of
from titan_speech.corpus.text.presets import LAYOUTS
from titan_speech.corpus.text.source import TextFormat
from titan_speech.errors import DataError

FILES_PER_UNIT = 1000
MAX_DOCUMENT_CHARS = 64 << 20


class TextPlain(TextFormat):
    def __init__(self, options: ImportOptions) -> None:
        super().__init__(options)
        if options.columns:
            raise DataError(f"text-plain has no columns; found --columns for {', '.join(options.columns)}")
        in_paragraphs = self.preset is not None and self.preset.paragraphs
        self.layout = options.preset if options.preset in LAYOUTS else "paragraphs" if in_paragraphs else "file"
        self._files = input_files(options.inputs, (".txt",), "text-plain")

    def units(self) -> list[Unit]:
        if self.layout != "file":
            return [Unit(name, path, path.stat().st_size) for name, path in self._files]
        return [self._unit_of_files(first) for first in range(0, len(self._files), FILES_PER_UNIT)]

    def _unit_of_files(self, first: int) -> Unit:
        some = self._files[first : first + FILES_PER_UNIT]
        num_bytes = sum(path.stat().st_size for _, path in some)
        return Unit(f"files {first}-{first + len(some)}", some[0][1].parent, num_bytes, first, first + len(some))

    def rows(self, unit: Unit) -> Iterator[tuple[int, Mapping[str, object]]]:
        if self.layout == "file":
            for number in range(unit.start, unit.stop or 0):
                name, path = self._files[number]
                text = _checked("\n".join(line for _, line in lines_of(path)), path)
                yield number, {"text": text, "sample_id": f"{self._source_name(path)}/{name}"}
        elif self.layout == "lines":
            yield from ((number, {"text": line}) for number, line in lines_of(unit.path) if line.strip())
        else:
            yield from ((number, {"text": text}) for number, text in _paragraphs(lines_of(unit.path), unit.path))

    def where(self, unit: Unit, position: int) -> str:
        return str(self._files[position][1]) if self.layout == "file" else f"{unit.path}, line {position}"

    def row_of(self, position: int) -> int | None:
        return None if self.layout == "file" else position - 1

    def _source_name(self, path: Path) -> str:
        if self.options.dataset_source:
            return self.options.dataset_source
        return self.preset.source if self.preset else path.parent.name


def _paragraphs(lines: Iterable[tuple[int, str]], path: Path) -> Iterator[tuple[int, str]]:
    """Line number of the first line, and the lines up to the next blank one."""
    first, held, num_chars = 0, [], 0
    for number, line in lines:
        if line.strip():
            first = first if held else number
            num_chars += len(line)
            held.append(line)
            if num_chars > MAX_DOCUMENT_CHARS:
                _checked("\n".join(held), path)
        elif held:
            yield first, "\n".join(held)
            held, num_chars = [], 0
    if held:
        yield first, "\n".join(held)


def _checked(text: str, path: Path) -> str:
    if len(text) > MAX_DOCUMENT_CHARS:
        raise DataError(
            f"{path} has a document of more than {MAX_DOCUMENT_CHARS >> 20} M characters; if blank lines or lines end "
            "its documents, say --preset paragraphs or --preset lines"
        )
    return text
