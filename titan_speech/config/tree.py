"""The raw configuration as a tree in which every value knows where it was written.

In: what one TOML file or one override says. Out: nodes that can be merged (`extends`, overrides) without
losing their origin, so that a problem found at the very end still names file and line.

Trade-off: three node types of our own in place of tomli's dicts, some 60 lines, against a second structure of
origins that would have to follow each merge.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, time
from typing import TypeAlias

from titan_speech.config.problem import KeyPath, Origin

TomlValue: TypeAlias = "str | int | float | bool | date | time | list[TomlValue] | dict[str, TomlValue]"


@dataclass(frozen=True)
class Typed:
    """Text from the command line, read once the field's type is known; None is a bare `--flag`."""

    text: str | None


@dataclass(frozen=True)
class Leaf:
    """A scalar."""

    value: str | int | float | bool | date | time | Typed
    origin: Origin


@dataclass(frozen=True)
class Array:
    """A list of values, or an array of tables."""

    items: tuple[Node, ...]
    origin: Origin


@dataclass(frozen=True)
class Table:
    """A table; `origin` is its header, or the first key that implies it."""

    entries: Mapping[str, Node]
    origin: Origin


Node: TypeAlias = "Leaf | Array | Table"


def build(value: TomlValue, lines: Mapping[KeyPath, int], file: str | None, path: KeyPath = ()) -> Node:
    """tomli's value as a tree; `lines` has the line of every path, no file means the command line."""
    origin = Origin(file, lines.get(path)) if file else Origin(command_line=True)
    if isinstance(value, dict):
        return Table({k: build(v, lines, file, (*path, k)) for k, v in value.items()}, origin)
    if isinstance(value, list):
        return Array(tuple(build(v, lines, file, (*path, i)) for i, v in enumerate(value)), origin)
    return Leaf(value, origin)


def merge(base: Node, top: Node) -> Node:
    """`top` over `base`: tables merge key by key; all else, arrays of tables too, is replaced whole."""
    if not (isinstance(base, Table) and isinstance(top, Table)):
        return top
    merged = dict(base.entries)
    for key, node in top.entries.items():
        merged[key] = merge(merged[key], node) if key in merged else node
    return Table(merged, top.origin)


def without(table: Table, section: str, key: str) -> Table:
    """`table` less `section.key`; a section that only held the key stays, empty."""
    inner = table.entries.get(section)
    if not isinstance(inner, Table) or key not in inner.entries:
        return table
    kept = {k: v for k, v in inner.entries.items() if k != key}
    return Table({**table.entries, section: Table(kept, inner.origin)}, table.origin)


def describe(node: Node) -> str:
    """What was found, short enough for one line of an error."""
    if isinstance(node, Table):
        return "a table"
    if isinstance(node, Array):
        if any(isinstance(item, Table) for item in node.items):
            return "an array of tables"
        return "[" + ", ".join(describe(item) for item in node.items[:6]) + (", ...]" if node.items[6:] else "]")
    value = node.value.text if isinstance(node.value, Typed) else node.value
    if value is None:
        return "no value"
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)
