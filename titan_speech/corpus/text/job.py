"""What `text prepare` is to do: sources, rules, tokenizer.

In: the command line, and a TOML that may hold rules and several `[[source]]` tables, since copies are to be found, and
the share of instructions is to be capped, over all sources together. Out: `Job`, which says itself in plain values, so
that a continued preparation can tell whether it is the same one.

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
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import tomli

from titan_speech.corpus.format import FORMATS, ImportOptions, open_format
from titan_speech.corpus.text.normalize import normalization_version
from titan_speech.corpus.text.rules import Rules, parse_rules, rules_content
from titan_speech.corpus.text.source import TextFormat
from titan_speech.errors import DataError
from titan_speech.text_tokenizer import TextTokenizer

CLEANING = 1
"""Raised whenever stripping, rules or de-duplication change what comes out."""

LIBRARIES = ("py3langid", "selectolax", "rensa")


@dataclass(frozen=True)
class Source:
    """One input with its format."""

    format: str
    options: ImportOptions
    licence: str | None = None
    """For documents whose source and columns name none."""

    def open(self) -> TextFormat:
        if self.format not in FORMATS or not self.format.startswith("text-"):
            names = ", ".join(name for name in sorted(FORMATS) if name.startswith("text-"))
            raise DataError(f"{self.format!r} is no format of text; expected one of {names}")
        opened = open_format(self.format, self.options)
        assert isinstance(opened, TextFormat)
        return opened

    def content(self) -> dict[str, object]:
        options = {name: value for name, value in vars(self.options).items() if value}
        options["inputs"] = [str(path) for path in self.options.inputs]
        return {"format": self.format, "licence": self.licence} | {k: _plain(v) for k, v in options.items()}


@dataclass(frozen=True)
class Job:
    sources: tuple[Source, ...]
    tokenizer: Path
    rules: Rules = field(default_factory=Rules)

    def content(self) -> dict[str, object]:
        """Everything that decides what comes out, except the inputs' bytes."""
        return {
            "sources": [source.content() for source in self.sources],
            "rules": rules_content(self.rules),
            "tokenizer": TextTokenizer.load(self.tokenizer).fingerprint,
            "normalization_version": prepared_version(self.rules),
        }


def prepared_version(rules: Rules) -> str:
    """What goes into the manifest of a store built from prepared text: changes with any rule or library."""
    digest = hashlib.sha256(json.dumps(rules_content(rules), sort_keys=True).encode()).hexdigest()[:8]
    libraries = ".".join(f"{name}-{version(name)}" for name in LIBRARIES)
    return f"{normalization_version()}+clean-{CLEANING}.rules-{digest}.{libraries}"


def read_job_file(path: Path) -> tuple[Rules, tuple[Source, ...]]:
    """Rules, and the sources if the file names any."""
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
    said = table["input"]
    inputs: list[object] = list(said) if isinstance(said, list) else [said]
    columns = table.get("columns", {})
    texts = [*inputs, *(table[key] for key in _KEYS if key in table and key not in ("input", "columns"))]
    if not isinstance(columns, Mapping) or not all(isinstance(text, str) for text in [*texts, *columns.values()]):
        raise DataError(f"{where}: values are texts, `input` also a list of texts, `columns` a table of texts")
    options = ImportOptions(
        inputs=tuple(Path(str(path)) for path in inputs),
        dataset_source=_optional(table, "dataset_source"),
        language=_optional(table, "language"),
        columns={str(name): str(column) for name, column in columns.items()},
        preset=_optional(table, "preset"),
    )
    return Source(str(table["format"]), options, _optional(table, "licence"))


def _optional(table: Mapping[str, object], key: str) -> str | None:
    return str(table[key]) if key in table else None


def _plain(value: object) -> object:
    return dict(value) if isinstance(value, Mapping) else value
