"""The resolved configuration of a run, as TOML.

In: a `LoadedConfig`. Out: one file, saved with the run, that loads back to an equal configuration without any of the
files it came from; each value has its origin next to it (default, file and line, or command line).

What looks like a credential is removed before it is written (`problem.redact`); environment variables are never
written. Trade-off: all values, defaults too, some 100 lines, so that a run can be repeated after defaults have changed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

from titan_speech.config.fields import config_fields
from titan_speech.config.load import LoadedConfig
from titan_speech.config.problem import DEFAULT, Origin
from titan_speech.config.toml_text import toml_value
from titan_speech.utils.files import write_atomically
from titan_speech.utils.printable import redact

RESOLVED_NAME = "config.toml"
_COMMENT_COLUMN = 60


def resolved_toml(loaded: LoadedConfig) -> str:
    """The whole configuration, with origins as comments."""
    files = ", ".join(str(path) for path in loaded.files)
    lines = [f"# Resolved configuration, from {redact(files)} and the command line."]
    for key, (entry, _) in config_fields(type(loaded.config)).items():
        lines += _table_lines(getattr(loaded.config, entry.name), key, f"[{key}]", loaded.origins)
    return "\n".join(lines) + "\n"


def save_resolved(loaded: LoadedConfig, run_folder: Path) -> Path:
    """Write `config.toml` into the run folder, atomically, and return its path."""
    path = run_folder / RESOLVED_NAME
    write_atomically(path, resolved_toml(loaded))
    return path


def _table_lines(config: Any, name: str, header: str, origins: Mapping[str, Origin]) -> Iterator[str]:
    """A table's own values, then the arrays of tables in it."""
    yield f"\n{header}"
    arrays_of_tables = {}
    for key, (entry, _) in config_fields(type(config)).items():
        value = getattr(config, entry.name)
        if isinstance(value, tuple) and value and is_dataclass(value[0]):
            arrays_of_tables[key] = value
        elif value is not None or entry.default is not None:
            setting = redact(f"{key} = {toml_value(value)}")
            yield f"{setting:<{_COMMENT_COLUMN}}  # {redact(str(_origin_of(f'{name}.{key}', origins)))}"
    for key, elements in arrays_of_tables.items():
        for index, element in enumerate(elements):
            yield from _table_lines(element, f"{name}.{key}.{index}", f"[[{name}.{key}]]", origins)


def _origin_of(key: str, origins: Mapping[str, Origin]) -> Origin:
    """Where a value was written; for a list or mapping of which a flag changed a part, that flag."""
    inner = (origin for inner_key, origin in origins.items() if inner_key.startswith(f"{key}."))
    return next((origin for origin in inner if origin.command_line), origins.get(key, DEFAULT))
