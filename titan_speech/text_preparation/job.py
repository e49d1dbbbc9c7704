"""What `text prepare` has to do, and the folder it works in.

In: the command line, and a TOML file that may hold rules and several `[[source]]` tables, as duplicates and the share
of instructions are decided over all sources together. Out: `Job`, whose content as plain values shows whether a resumed
preparation is the same one; and `WorkFolder`, OUTPUT.work, which one process locks until the output is complete. A
folder of another job is refused if it holds a finished unit; a folder without one is deleted, so rejected input leaves
no files.

    max_instruction_share = 0.1
    [[source]]
    format = "text-parquet"
    preset = "fineweb"
    input = ["fineweb/"]
    [[source]]
    format = "text-jsonl"
    preset = "oig"
    input = ["oig/unified_chip2.jsonl"]
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any

import tomli

from titan_speech.errors import DataError
from titan_speech.importers.base import ImportOptions, open_importer
from titan_speech.importers.limits import ImportLimits
from titan_speech.importers.registry import IMPORTERS
from titan_speech.importers.text_documents import TextImporter
from titan_speech.text_preparation.rules import DocumentRules, parse_rules, rules_content
from titan_speech.tokenization.normalize import normalization_version
from titan_speech.tokenization.text_tokenizer import TextTokenizer
from titan_speech.utils.files import write_atomically
from titan_speech.utils.locks import lock_or_refuse
from titan_speech.utils.progress import print_to_stderr

CLEANING = 1
"""Version of cleaning: raised when markup removal, rules or deduplication change the output."""

LIBRARIES = ("py3langid", "selectolax", "rensa")


@dataclass(frozen=True)
class Source:
    """Inputs of one format with their options."""

    format: str
    options: ImportOptions
    licence: str | None = None
    """Licence of documents whose source and columns name none."""

    def open(self) -> TextImporter:
        if self.format not in IMPORTERS or not self.format.startswith("text-"):
            names = ", ".join(name for name in sorted(IMPORTERS) if name.startswith("text-"))
            raise DataError(f"{self.format!r} is not a text format; expected one of {names}")
        opened = open_importer(self.format, self.options)
        assert isinstance(opened, TextImporter)
        return opened

    def with_limits(self, limits: ImportLimits) -> Source:
        return replace(self, options=replace(self.options, limits=limits))

    def content(self) -> dict[str, object]:
        options = {name: value for name, value in vars(self.options).items() if value}
        options["inputs"] = [str(path) for path in self.options.inputs]
        return {"format": self.format, "licence": self.licence} | {k: _plain(v) for k, v in options.items()}


@dataclass(frozen=True)
class Job:
    """Sources, tokenizer and rules of one preparation."""

    sources: tuple[Source, ...]
    tokenizer: Path
    rules: DocumentRules = field(default_factory=DocumentRules)

    def content(self) -> dict[str, object]:
        """All that determines the output, except the bytes of the inputs."""
        return {
            "sources": [source.content() for source in self.sources],
            "rules": rules_content(self.rules),
            "tokenizer": TextTokenizer.load(self.tokenizer).fingerprint,
            "normalization_version": prepared_version(self.rules),
        }


def prepared_version(rules: DocumentRules) -> str:
    """The normalization version of prepared text in a store's manifest; changes with any rule or library."""
    digest = hashlib.sha256(json.dumps(rules_content(rules), sort_keys=True).encode()).hexdigest()[:8]
    libraries = ".".join(f"{name}-{version(name)}" for name in LIBRARIES)
    return f"{normalization_version()}+clean-{CLEANING}.rules-{digest}.{libraries}"


def read_job_file(path: Path) -> tuple[DocumentRules, tuple[Source, ...]]:
    """Read rules, and the sources if the file names any.

    Raises:
        DataError: the file cannot be read, or has an unknown key or a wrong value.
    """
    try:
        content = tomli.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomli.TOMLDecodeError) as error:
        raise DataError(f"cannot read rules from {path}: {error}") from error
    tables = content.pop("source", [])
    if not isinstance(tables, list):
        raise DataError(f"{path}: source is a {type(tables).__name__}; write [[source]] tables")
    sources = tuple(_source(table, f"{path}, source {i}") for i, table in enumerate(tables, 1))
    return parse_rules(content, str(path)), sources


_KEYS = ("format", "input", "preset", "language", "dataset_source", "licence", "columns")


def _source(table: Mapping[str, object], where: str) -> Source:
    unknown = [key for key in table if key not in _KEYS]
    if unknown or not {"format", "input"} <= set(table):
        problem = f"unknown key {unknown[0]!r}" if unknown else "needs `format` and `input`"
        raise DataError(f"{where}: {problem}; keys are {', '.join(_KEYS)}")
    value = table["input"]
    inputs: list[object] = list(value) if isinstance(value, list) else [value]
    columns = table.get("columns", {})
    others: dict[str, Any] = {key: text for key, text in table.items() if key not in ("input", "columns")}
    texts = [*inputs, *others.values()]
    if not isinstance(columns, Mapping) or not all(isinstance(text, str) for text in [*texts, *columns.values()]):
        raise DataError(f"{where}: expected strings; `input` may be a list of strings, `columns` is a table of strings")
    options = ImportOptions(
        inputs=tuple(Path(str(path)) for path in inputs),
        dataset_source=others.get("dataset_source"),
        language=others.get("language"),
        columns={str(name): str(column) for name, column in columns.items()},
        preset=others.get("preset"),
    )
    return Source(others["format"], options, others.get("licence"))


def _plain(value: object) -> object:
    if isinstance(value, ImportLimits):
        return asdict(value)
    return dict(value) if isinstance(value, Mapping) else value


class WorkFolder:
    """Context manager for OUTPUT.work: locked while in use, deleted at the end unless it holds finished units."""

    def __init__(self, output: Path, content: Mapping[str, object]) -> None:
        self.output, self.path = output, output.with_name(f"{output.name}.work")
        self._content = json.loads(json.dumps(content))

    def __enter__(self) -> WorkFolder:
        if self.output.exists():
            raise DataError(f"{self.output} exists already; choose another --output or delete it")
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = lock_or_refuse(self.path / "lock", f"preparing {self.output}")
        try:
            self._claim()
        except DataError:
            os.close(self._lock)
            raise
        return self

    def _claim(self) -> None:
        """Record the job; a folder of another job is refused if it holds finished units."""
        file = self.path / "job.json"
        before = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        differing = [name for name in self._content if before.get(name) != self._content[name]]
        if differing and self._has_finished_units():
            raise DataError(
                f"{self.path} holds an unfinished preparation with other {', '.join(differing)}; repeat the command "
                "that started it, or delete that folder"
            )
        for unfinished in self.path.glob("*.tmp-*"):
            unfinished.unlink()
        write_atomically(file, json.dumps(self._content, ensure_ascii=False))

    def _has_finished_units(self) -> bool:
        return any(path.name != "job.json" and ".tmp-" not in path.name for path in self.path.glob("*.json"))

    def publish(self, folder: Path) -> None:
        """Rename a folder inside this one to the output, and delete the rest."""
        try:
            os.rename(folder, self.output)
        except OSError as error:
            raise DataError(f"{self.output} was created by another process ({error}); it was not changed") from error
        shutil.rmtree(self.path)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._has_finished_units():
            shutil.rmtree(self.path, ignore_errors=True)
        elif error is not None:
            print_to_stderr(f"{self.path} keeps the finished units; repeat the same command to resume")
        os.close(self._lock)
