"""Read the output of `text prepare` as input of `store build` (format `text-prepared`), and the name of its record.

In: its output folder. Out: one unit per shard, documents with all their fields. The version that names rules and
libraries goes into the store's manifest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from titan_speech.errors import DataError
from titan_speech.importers.base import ImportOptions, Unit
from titan_speech.importers.parquet import open_parquet
from titan_speech.importers.text_documents import TextImporter
from titan_speech.importers.text_files import ROWS_PER_BATCH
from titan_speech.utils.json_text import read_json_file

PREPARED_VERSION = 1
PREPARED_NAME = "prepared.json"
"""In the folder of prepared text, next to its documents."""


class TextPreparedImporter(TextImporter):
    """Documents of `text prepare`."""

    def __init__(self, options: ImportOptions) -> None:
        super().__init__(options)
        given = [name for name in ("dataset_source", "language", "columns", "preset") if getattr(options, name)]
        if given:
            flags = " and ".join(f"--{name.replace('_', '-')}" for name in given)
            raise DataError(f"prepared text has these fields per document: remove {flags}")
        contents = [_read_prepared(folder) for folder in options.inputs]
        versions = {str(content["normalization_version"]) for content in contents}
        if len(versions) > 1:
            raise DataError(
                f"inputs were prepared by different rules: {'; '.join(sorted(versions))}; prepare them with the same "
                "rules"
            )
        self._version = versions.pop()

    def normalization_version(self) -> str:
        return self._version

    def units(self) -> list[Unit]:
        files = [
            (folder, path) for folder in self.options.inputs for path in sorted(folder.glob("documents/*.parquet"))
        ]
        return [Unit(f"{folder.name}/{path.name}", path, path.stat().st_size) for folder, path in files]

    def rows(self, unit: Unit) -> Iterator[tuple[int, Mapping[str, object]]]:
        position = 0
        for batch in open_parquet(unit.path).iter_batches(ROWS_PER_BATCH):
            for row in batch.to_pylist():
                yield position, row
                position += 1


def _read_prepared(folder: Path) -> dict[str, object]:
    path = folder / PREPARED_NAME
    if not path.is_file():
        raise DataError(f"{folder} has no {PREPARED_NAME}: expected the output folder of `titan-speech text prepare`")
    try:
        content = read_json_file(path)
        found = content.get("format_version")
    except (ValueError, AttributeError) as error:
        raise DataError(f"{path} is damaged ({error}); prepare the text again") from error
    if found != PREPARED_VERSION:
        raise DataError(f"{path} has format version {found!r}; expected {PREPARED_VERSION}")
    return content
