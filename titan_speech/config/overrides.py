"""`--table.key value` flags, applied to what the files say.

In: the words of a command line. Out: one `Override` per flag, and the tree with them applied. A flag is written as
`--training.seq_len 4096`, as `--training.seq_len=4096`, or bare for true (`--compile.enable`); an element of an array
of tables is named by its index or its name (`--data.source.0.share 0.5`, `--data.source.tts.share 0.5`).

Trade-off: values are kept as text until `convert.py` knows the field's type, so `--model.flavor 1` is a string and
`--job.description 1e9` too. tyro would parse them as well, but it stops at the first problem, has no names for array
elements, and knows neither the file's lines nor which value came from where.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import tomli

from titan_speech.config.problem import COMMAND_LINE, ConfigProblem, KeyPath, dotted, nearest_name
from titan_speech.config.tree import ArrayNode, FlagText, LeafNode, Node, TableNode, build_tree

_FLAG = re.compile(r"--([^\s=]+)(?:=(.*))?", re.DOTALL)


@dataclass(frozen=True)
class Override:
    """One flag: its path, and its text (None for a flag without a value)."""

    path: tuple[str, ...]
    text: str | None


def parse_flags(words: Sequence[str]) -> tuple[list[Override], list[ConfigProblem]]:
    """The flags of a command line in their order, and a problem for each word that is not one."""
    overrides: list[Override] = []
    problems: list[ConfigProblem] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        match = _FLAG.fullmatch(word)
        if match is None or not all(match.group(1).split(".")):
            problems.append(ConfigProblem(COMMAND_LINE, "", f'"{word}"', "--table.key value"))
            continue
        text = match.group(2)
        if text is None and rest and not rest[0].startswith("--"):
            text = rest.pop(0)
        overrides.append(Override(tuple(match.group(1).split(".")), text))
    return overrides, problems


def apply_override(tree: TableNode, override: Override) -> TableNode | ConfigProblem:
    """`tree` with one value replaced or added."""
    result = _with_leaf(tree, override.path, 0, LeafNode(FlagText(override.text), COMMAND_LINE))
    assert isinstance(result, TableNode | ConfigProblem)
    return result


def _with_leaf(node: Node | None, path: KeyPath, depth: int, leaf: LeafNode) -> Node | ConfigProblem:
    """`node`, found at the first `depth` parts of the path, with the leaf at the whole path."""
    if depth == len(path):
        return leaf
    key = str(path[depth])
    if isinstance(node, ArrayNode):
        index = _element_index(node, key)
        if index is None:
            return _no_such_element(node, path, depth)
        inner = _with_leaf(node.items[index], path, depth + 1, leaf)
        if isinstance(inner, ConfigProblem):
            return inner
        return ArrayNode((*node.items[:index], inner, *node.items[index + 1 :]), node.origin)
    entries = dict(node.entries) if isinstance(node, TableNode) else {}
    inner = _with_leaf(entries.get(key), path, depth + 1, leaf)
    if isinstance(inner, ConfigProblem):
        return inner
    return TableNode({**entries, key: inner}, node.origin if isinstance(node, TableNode) else COMMAND_LINE)


def _element_names(array: ArrayNode) -> list[str | None]:
    """The `name` of each element; None for an element without one."""
    names: list[str | None] = []
    for item in array.items:
        leaf = item.entries.get("name") if isinstance(item, TableNode) else None
        name = leaf.plain if isinstance(leaf, LeafNode) else None
        names.append(name if isinstance(name, str) else None)
    return names


def _element_index(array: ArrayNode, part: str) -> int | None:
    if part.isdecimal() and int(part) < len(array.items):
        return int(part)
    names = _element_names(array)
    return names.index(part) if part in names else None


def _no_such_element(array: ArrayNode, path: KeyPath, depth: int) -> ConfigProblem:
    names = [name for name in _element_names(array) if name]
    count = len(array.items)
    expected = f"an index from 0 to {count - 1}" if count else "an array that is not empty"
    if names:
        expected += f" or a name ({', '.join(names)})"
    near = nearest_name(str(path[depth]), names)
    hint = dotted((*path[:depth], near, *path[depth + 1 :])) if near else None
    return ConfigProblem(COMMAND_LINE, dotted(path), f'"{path[depth]}"', expected, hint)


def parse_flag_value(text: str) -> Node | None:
    """A flag's text read as a TOML value (`[1, 2]`, `{hi = 0.15}`); None if it is not one."""
    try:
        return build_tree(tomli.loads(f"value = {text}")["value"], {}, file=None)
    except (ValueError, RecursionError):  # also a number of 5,000 digits, and a thousand brackets
        return None


def parse_flag_list(text: str) -> Node:
    """A flag's text read as a list: a TOML array, or words separated by commas (`hi,ta`)."""
    node = parse_flag_value(text)
    if isinstance(node, ArrayNode):
        return node
    items = tuple(LeafNode(FlagText(part.strip()), COMMAND_LINE) for part in text.split(",") if part.strip())
    return ArrayNode(items, COMMAND_LINE)
