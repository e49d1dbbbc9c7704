"""The configuration a run really used, as TOML.

In: a `LoadedConfig`. Out: one file, saved with the run, that loads back to an equal configuration without any
of the files it came from; each value has its origin beside it (default, file and line, or command line).

What looks like a credential is replaced before it is written (`redact.py`); environment variables are never
written. Trade-off: all values, defaults too, some 100 lines, so that a run can be repeated after defaults
have changed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

from titan_speech.config.fields import config_fields
from titan_speech.config.load import LoadedConfig
from titan_speech.config.overrides import toml_value
from titan_speech.config.problem import DEFAULT, Origin, redact

RESOLVED_NAME = "config.toml"
_COMMENT_COLUMN = 60


def resolved_toml(loaded: LoadedConfig) -> str:
    """The whole configuration with origins as comments."""
    files = ", ".join(str(path) for path in loaded.files)
    lines = [f"# Resolved configuration, from {redact(files)} and the command line."]
    for key, (entry, _) in config_fields(type(loaded.config)).items():
        table = getattr(loaded.config, entry.name)
        if table is not None:
            lines += _table(table, key, f"[{key}]", loaded.origins)
    return "\n".join(lines) + "\n"


def save_resolved(loaded: LoadedConfig, run_folder: Path) -> Path:
    """Write `config.toml` into the run folder, whole or not at all."""
    run_folder.mkdir(parents=True, exist_ok=True)
    path = run_folder / RESOLVED_NAME
    partial = path.with_suffix(".toml.partial")
    partial.write_text(resolved_toml(loaded), encoding="utf-8")
    partial.replace(path)
    return path


def _is_array_of_tables(value: object) -> bool:
    return isinstance(value, tuple) and bool(value) and is_dataclass(value[0])


def _table(table: Any, name: str, header: str, origins: Mapping[str, Origin]) -> Iterator[str]:
    """A table's own values, then the arrays of tables in it."""
    yield f"\n{header}"
    values = {key: getattr(table, entry.name) for key, (entry, _) in config_fields(type(table)).items()}
    for key, value in values.items():
        absent = value is None and config_fields(type(table))[key][0].default is None
        if not _is_array_of_tables(value) and not absent:
            yield _line(key, value, f"{name}.{key}", origins)
    for key, value in values.items():
        if _is_array_of_tables(value):
            for index, element in enumerate(value):
                yield from _table(element, f"{name}.{key}.{index}", f"[[{name}.{key}]]", origins)


def _line(key: str, value: object, path: str, origins: Mapping[str, Origin]) -> str:
    setting = redact(f"{key} = {toml_value(value)}")
    return f"{setting:<{_COMMENT_COLUMN}}  # {redact(str(_origin(path, origins)))}"


def _origin(path: str, origins: Mapping[str, Origin]) -> Origin:
    """The value's own place; for a list or mapping changed by a flag inside it, that flag."""
    own = origins.get(path, DEFAULT)
    inner = (origin for key, origin in origins.items() if key.startswith(f"{path}."))
    return next((origin for origin in inner if origin.command_line), own)
