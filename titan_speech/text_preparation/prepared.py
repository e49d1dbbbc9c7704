"""`text-prepared`: what `text prepare` wrote, for a build.

In: its output folder. Out: a unit a shard, documents with all they were given. The version that names rules and
libraries is taken along into the store's manifest.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from titan_speech.errors import DataError
from titan_speech.importers.base import ImportOptions, Unit
from titan_speech.importers.parquet import open_parquet
from titan_speech.importers.text_documents import TextImporter
from titan_speech.importers.text_files import ROWS_PER_BATCH
from titan_speech.text_preparation.pipeline import PREPARED_NAME, PREPARED_VERSION


class TextPreparedImporter(TextImporter):
    def __init__(self, options: ImportOptions) -> None:
        super().__init__(options)
        said = [name for name in ("dataset_source", "language", "columns", "preset") if getattr(options, name)]
        if said:
            flags = " and ".join(f"--{name.replace('_', '-')}" for name in said)
            raise DataError(f"prepared text says it itself, sample by sample: leave {flags} away")
        contents = [_read_prepared(folder) for folder in options.inputs]
        versions = {str(content["normalization_version"]) for content in contents}
        if len(versions) > 1:
            raise DataError(
                f"inputs were prepared by different rules: {'; '.join(sorted(versions))}; prepare them alike"
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
    content = json.loads(path.read_text(encoding="utf-8"))
    if content.get("format_version") != PREPARED_VERSION:
        raise DataError(f"{path} is of version {content.get('format_version')}; this reader takes {PREPARED_VERSION}")
    return content
