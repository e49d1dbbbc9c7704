"""A configuration before its types are known: a tree in which every value has the place where it was written.

In: values of one TOML file, or of one flag. Out: nodes that are merged (`extends`, overrides) without losing their
origin, so that a problem found at the very end still names file and line.

Trade-off: three node types of our own in place of tomli's dicts, some 60 lines, against a second structure of origins
that would have to follow each merge.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, time
from typing import TypeAlias

from titan_speech.config.problem import COMMAND_LINE, KeyPath, Origin

TomlValue: TypeAlias = "str | int | float | bool | date | time | list[TomlValue] | dict[str, TomlValue]"


@dataclass(frozen=True)
class FlagText:
    """Text from the command line, parsed once the field's type is known; None for a flag without a value."""

    text: str | None


@dataclass(frozen=True)
class LeafNode:
    """A scalar."""

    value: str | int | float | bool | date | time | FlagText
    origin: Origin

    @property
    def plain(self) -> str | int | float | bool | date | time | None:
        """The value, text from the command line as a string; None for a flag without a value."""
        return self.value.text if isinstance(self.value, FlagText) else self.value


@dataclass(frozen=True)
class ArrayNode:
    """A list of values, or an array of tables."""

    items: tuple[Node, ...]
    origin: Origin


@dataclass(frozen=True)
class TableNode:
    """A table; its origin is its header, or the first key that implies it."""

    entries: Mapping[str, Node]
    origin: Origin


Node: TypeAlias = "LeafNode | ArrayNode | TableNode"


def build_tree(value: TomlValue, lines: Mapping[KeyPath, int], file: str | None, path: KeyPath = ()) -> Node:
    """A value that tomli read as a tree.

    Args:
        value: the value at `path`.
        lines: the line of every path in the file.
        file: the file's name; None for the command line.
    """
    origin = Origin(file, lines.get(path)) if file else COMMAND_LINE
    if isinstance(value, dict):
        return TableNode({k: build_tree(v, lines, file, (*path, k)) for k, v in value.items()}, origin)
    if isinstance(value, list):
        return ArrayNode(tuple(build_tree(v, lines, file, (*path, i)) for i, v in enumerate(value)), origin)
    return LeafNode(value, origin)


def merge(base: TableNode, top: TableNode) -> TableNode:
    """`top` merged into `base`: tables key by key; anything else, arrays of tables too, is replaced."""
    merged = dict(base.entries)
    for key, node in top.entries.items():
        below = merged.get(key)
        merged[key] = merge(below, node) if isinstance(below, TableNode) and isinstance(node, TableNode) else node
    return TableNode(merged, top.origin)


def without_key(table: TableNode, section: str, key: str) -> TableNode:
    """`table` without `section.key`; a section that has no other key stays, empty."""
    inner = table.entries.get(section)
    if not isinstance(inner, TableNode) or key not in inner.entries:
        return table
    kept = {k: v for k, v in inner.entries.items() if k != key}
    return TableNode({**table.entries, section: TableNode(kept, inner.origin)}, table.origin)


def describe_node(node: Node) -> str:
    """What was found, short enough for one line of a message."""
    if isinstance(node, TableNode):
        return "a table"
    if isinstance(node, ArrayNode):
        if any(isinstance(item, TableNode) for item in node.items):
            return "an array of tables"
        return "[" + ", ".join(map(describe_node, node.items[:6])) + (", ...]" if node.items[6:] else "]")
    value = node.plain
    if value is None:
        return "no value"
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)
