"""Values as TOML text.

In: what a field of `tables/` can hold. Out: one line of TOML that reads back equal: floats by their
shortest exact form, strings as basic strings with control characters escaped, mappings as inline tables.

`--table.key value` on top of what the files say.

In: the words of the command line. Out: an `Override` per flag, and the tree with them applied. Written as
`--training.seq_len 4096`, `--training.seq_len=4096`, a bare `--compile.enable` for true, and into arrays of
tables by index or by name: `--data.source.0.share 0.5`, `--data.source.tts.share 0.5`.

Trade-off: the words are kept as text until `convert.py` knows the field's type, so `--model.flavor 1` is a
string and `--job.description 1e9` too. tyro would parse them as well, but it stops at the first problem, has
no names for array elements, and knows neither the file's lines nor which value came from where.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import tomli

from titan_speech.config.problem import COMMAND_LINE, KeyPath, Problem, dotted, nearest_name
from titan_speech.config.toml_source import Array, Leaf, Node, Table, Typed, build

_BARE = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
_ESCAPES = {"\\": "\\\\", '"': '\\"', "\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r"}


def toml_string(text: str) -> str:
    def escaped(letter: str) -> str:
        if letter in _ESCAPES:
            return _ESCAPES[letter]
        return f"\\u{ord(letter):04x}" if letter < " " or letter == "\x7f" else letter

    return '"' + "".join(escaped(letter) for letter in text) + '"'


def toml_key(key: str) -> str:
    return key if _BARE.fullmatch(key) else toml_string(key)


def toml_value(value: object) -> str:
    """One value; None, which TOML lacks, is the string that `convert.py` reads as absent."""
    if value is None:
        return '"none"'
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return toml_string(value)
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, Mapping):
        pairs = (f"{toml_key(str(key))} = {toml_value(inner)}" for key, inner in value.items())
        return "{" + ", ".join(pairs) + "}"
    assert isinstance(value, tuple), f"{type(value).__name__} is no type of the tables"
    return "[" + ", ".join(toml_value(inner) for inner in value) + "]"


_FLAG = re.compile(r"--([^\s=]+)(?:=(.*))?", re.DOTALL)


@dataclass(frozen=True)
class Override:
    """One flag: its path, and its text (None when it had no value)."""

    path: tuple[str, ...]
    text: str | None


def parse_words(words: Sequence[str]) -> tuple[list[Override], list[Problem]]:
    """Flags of the command line in order, and the words that are no flag."""
    overrides: list[Override] = []
    problems: list[Problem] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        match = _FLAG.fullmatch(word)
        if match is None or not all(match.group(1).split(".")):
            problems.append(Problem(COMMAND_LINE, "", f'"{word}"', "--table.key value"))
            continue
        text = match.group(2)
        if text is None and rest and not rest[0].startswith("--"):
            text = rest.pop(0)
        overrides.append(Override(tuple(match.group(1).split(".")), text))
    return overrides, problems


def apply(tree: Table, override: Override) -> Table | Problem:
    """`tree` with one value replaced or added."""
    result = _replaced(tree, override.path, 0, Leaf(Typed(override.text), COMMAND_LINE))
    assert isinstance(result, Table | Problem)
    return result


def _replaced(node: Node | None, path: KeyPath, depth: int, leaf: Leaf) -> Node | Problem:
    if depth == len(path):
        return leaf
    if isinstance(node, Array):
        return _replaced_in_array(node, path, depth, leaf)
    entries = dict(node.entries) if isinstance(node, Table) else {}
    key = str(path[depth])
    inner = _replaced(entries.get(key), path, depth + 1, leaf)
    if isinstance(inner, Problem):
        return inner
    return Table({**entries, key: inner}, node.origin if isinstance(node, Table) else COMMAND_LINE)


def _replaced_in_array(array: Array, path: KeyPath, depth: int, leaf: Leaf) -> Node | Problem:
    index = _element(array, str(path[depth]))
    if index is None:
        return _no_such_element(array, path, depth)
    inner = _replaced(array.items[index], path, depth + 1, leaf)
    if isinstance(inner, Problem):
        return inner
    return Array((*array.items[:index], inner, *array.items[index + 1 :]), array.origin)


def _names(array: Array) -> list[str | None]:
    """What each element calls itself; None for those without a name."""
    names: list[str | None] = []
    for item in array.items:
        leaf = item.entries.get("name") if isinstance(item, Table) else None
        value = leaf.value if isinstance(leaf, Leaf) else None
        value = value.text if isinstance(value, Typed) else value
        names.append(value if isinstance(value, str) else None)
    return names


def _element(array: Array, part: str) -> int | None:
    if part.isdecimal() and int(part) < len(array.items):
        return int(part)
    names = _names(array)
    return names.index(part) if part in names else None


def _no_such_element(array: Array, path: KeyPath, depth: int) -> Problem:
    names = [name for name in _names(array) if name]
    count = len(array.items)
    expected = f"an index from 0 to {count - 1}" if count else "an array that is not empty"
    if names:
        expected += f" or a name ({', '.join(names)})"
    near = nearest_name(str(path[depth]), names)
    hint = dotted((*path[:depth], near, *path[depth + 1 :])) if near else None
    return Problem(COMMAND_LINE, dotted(path), f'"{path[depth]}"', expected, hint)


def as_toml(text: str) -> Node | None:
    """A word read as a TOML value (`[1, 2]`, `{hi = 0.15}`); None if it is not one."""
    try:
        return build(tomli.loads(f"value = {text}")["value"], {}, file=None)
    except tomli.TOMLDecodeError:
        return None


def as_list(text: str) -> Node:
    """A list as a TOML array, or as words between commas (`hi,ta`)."""
    node = as_toml(text)
    if isinstance(node, Array):
        return node
    items = tuple(Leaf(Typed(part.strip()), COMMAND_LINE) for part in text.split(",") if part.strip())
    return Array(items, COMMAND_LINE)
