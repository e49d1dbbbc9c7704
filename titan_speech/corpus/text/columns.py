"""Which column of an input holds which field of a document.

In: the columns found, the preset and what the command line says. Out: field -> column, or a `DataError` that names what
was found, what was expected and the nearest name. What is said on the command line goes before the preset, and fields
that neither names are looked up by their own name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches

from titan_speech.corpus.text.presets import FIELDS, Preset
from titan_speech.errors import DataError


def resolve_columns(found: Iterable[str], said: Mapping[str, str], preset: Preset | None, where: str) -> dict[str, str]:
    """Columns of all fields that the input has."""
    names = list(found)
    unknown = [field for field in said if field not in FIELDS]
    if unknown:
        raise DataError(f"column for unknown field {unknown[0]!r}; fields of text are {', '.join(FIELDS)}")
    asked = {**(preset.columns if preset else {}), **said}
    columns = asked | {name: name for name in FIELDS if name in names and name not in asked}
    missing = [(field, column) for field, column in asked.items() if column not in names and _is_needed(field, preset)]
    if missing:
        raise DataError(f"{where}: {_said_missing(missing, names)}; found {', '.join(names) or 'no columns'}")
    columns = {field: column for field, column in columns.items() if column in names}
    if not {"text", "dialogue"} & set(columns):
        raise DataError(f"{where} has no column `text`; found {', '.join(names)}: name it with --columns text=NAME")
    return columns


def _is_needed(field: str, preset: Preset | None) -> bool:
    """`meta` only helps to find the language; all else that is asked for must be there."""
    return field != "meta"


def _said_missing(missing: list[tuple[str, str]], names: list[str]) -> str:
    said = [f"no column {column!r} for {field}{_nearest(column, names)}" for field, column in missing]
    return "; ".join(said)


def _nearest(column: str, names: list[str]) -> str:
    matches = get_close_matches(column, names, n=1, cutoff=0.5)
    return f" (nearest is {matches[0]!r})" if matches else ""
