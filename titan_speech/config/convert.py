"""The tree as a `SpeechConfig`: names, types and choices checked against the schema.

In: a tree, in which values from the command line are still text. Out: `Converted`: the configuration, where each value
came from, and every unknown key and wrong type. After a problem the field keeps its default, so that everything else
can be checked too; its path is marked as suspect, and checks that read it are not reported.

Rules for scalars: only true and false are booleans, a boolean is not an integer, an integer may stand for a float, and
a whole float (`1e9`) for an integer, since budgets are written that way. NaN and infinities are refused. "none" is None
where a field may be None.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, field, is_dataclass
from typing import Any, Literal, cast, get_args, get_origin

from titan_speech.config.fields import config_fields, is_optional, without_none
from titan_speech.config.overrides import parse_flag_list, parse_flag_value
from titan_speech.config.problem import DEFAULT, ConfigProblem, KeyPath, Origin, dotted, nearest_name, one_of
from titan_speech.config.schema import SpeechConfig
from titan_speech.config.tree import ArrayNode, FlagText, LeafNode, Node, TableNode, describe_node

_LARGEST_INT = 2**63 - 1
_KEYS_OF_FILES: dict[KeyPath, tuple[str, ...]] = {("job",): ("extends",)}
"""Keys of a file that the schema does not have, since `load.py` has used them already."""


class Mismatch(Exception):  # noqa: N818 - control flow inside this file, never seen by a caller
    """A value does not fit its field: what was expected, and the nearest valid choice."""

    def __init__(self, expected: str, nearest: str | None = None) -> None:
        super().__init__(expected)
        self.expected = expected
        self.nearest = nearest


@dataclass
class TreeConversion:
    """What converting a tree found, collected on the way."""

    problems: list[ConfigProblem] = field(default_factory=list)
    suspects: set[str] = field(default_factory=set)
    """Keys with a problem, whose value is a default that nobody asked for."""
    origins: dict[str, Origin] = field(default_factory=dict)

    def report(self, node: Node, path: KeyPath, found: str, expected: str, nearest: str | None = None) -> None:
        self.problems.append(ConfigProblem(node.origin, dotted(path), found, expected, nearest))
        self.suspects.add(dotted(path))


def convert(tree: TableNode) -> tuple[SpeechConfig, TreeConversion]:
    """The whole tree as a configuration, which is complete only if there are no problems."""
    conversion = TreeConversion()
    return _to_table(tree, SpeechConfig, (), conversion), conversion


def _to_table(node: Node, cls: type, path: KeyPath, conversion: TreeConversion) -> Any:
    """A table as its dataclass."""
    node = _as_table(node, "a table")
    conversion.origins[dotted(path)] = node.origin
    known = config_fields(cls)
    _report_unknown_keys(node, known, path, conversion)
    values = {}
    for key, (entry, hint) in known.items():
        inner = (*path, key)
        value = node.entries.get(key, TableNode({}, DEFAULT) if is_dataclass(hint) else None)
        if value is not None:
            values[entry.name] = _convert_or_report(value, hint, inner, conversion, _default(entry, hint))
            continue
        conversion.origins[dotted(inner)] = DEFAULT
        if entry.default is MISSING and entry.default_factory is MISSING:
            conversion.report(node, inner, "nothing", "a value, it has no default")
        values[entry.name] = _default(entry, hint)
    return cls(**values)


def _convert_or_report(node: Node, hint: Any, path: KeyPath, conversion: TreeConversion, fallback: Any) -> Any:
    """The value as its type; if it does not fit, the fallback, and a problem under the value's own line."""
    conversion.origins[dotted(path)] = node.origin
    try:
        return _to_type(node, hint, path, conversion)
    except Mismatch as mismatch:
        conversion.report(node, path, describe_node(node), mismatch.expected, mismatch.nearest)
        return fallback


def _report_unknown_keys(node: TableNode, known: Mapping[str, Any], path: KeyPath, conversion: TreeConversion) -> None:
    for key, value in node.entries.items():
        if key in known:
            continue
        near = nearest_name(key, [*known, *_KEYS_OF_FILES.get(path, ())])
        hint = dotted((*path, near)) if near else _same_key_elsewhere(key)
        kind = "an unknown table" if isinstance(value, TableNode) else "an unknown key"
        conversion.report(value, (*path, key), kind, one_of(known), hint)
        if hint and near not in node.entries:  # the person meant to set it, so its default must not be blamed
            conversion.suspects.add(hint)


def _same_key_elsewhere(key: str) -> str | None:
    """`optimizer.lr` for an `lr` written under the wrong table, `optimizer` for a table inside another."""
    if key in config_fields(SpeechConfig):
        return key
    for section, (_, hint) in config_fields(SpeechConfig).items():
        if is_dataclass(hint) and key in config_fields(cast(type, hint)):
            return f"{section}.{key}"
    return None


def _default(entry: Field[Any], hint: Any) -> Any:
    """The field's default, or for a required field a placeholder."""
    if entry.default is not MISSING:
        return entry.default
    return entry.default_factory() if entry.default_factory is not MISSING else _placeholder(hint)


def _placeholder(hint: Any) -> Any:
    """A value of the type; never returned to a caller, since a problem was reported for it."""
    if is_dataclass(hint):
        return _to_table(TableNode({}, DEFAULT), cast(type, hint), (), TreeConversion())
    if get_origin(hint) is Literal:
        return get_args(hint)[0]
    return without_none(hint)()


def _to_type(node: Node, hint: Any, path: KeyPath, conversion: TreeConversion) -> Any:
    if is_optional(hint):
        return None if _text_of(node) == "none" else _to_type(node, without_none(hint), path, conversion)
    if is_dataclass(hint):
        return _to_table(node, cast(type, hint), path, conversion)
    kind, args = get_origin(hint), get_args(hint)
    if kind is Literal:
        return _to_choice(node, args)
    if kind is tuple:
        return _to_tuple(node, args, path, conversion)
    if kind is dict:
        return _to_mapping(node, args[1], path, conversion)
    return _SCALARS[hint](node)


def _to_tuple(node: Node, args: tuple[Any, ...], path: KeyPath, conversion: TreeConversion) -> tuple[Any, ...]:
    has_any_length = args[-1] is Ellipsis
    expected = "a list" if has_any_length else f"a list of {len(args)} values"
    if has_any_length and is_dataclass(args[0]):
        expected = f"an array of tables ([[{dotted(path)}]])"
    text = _text_of(node)
    if text is not None and _is_flag_text(node):
        node = parse_flag_list(text)
    if not isinstance(node, ArrayNode) or not (has_any_length or len(node.items) == len(args)):
        raise Mismatch(expected)
    hints = args[:1] * len(node.items) if has_any_length else args
    return tuple(
        _convert_or_report(item, hint, (*path, index), conversion, _placeholder(hint))
        for index, (item, hint) in enumerate(zip(node.items, hints, strict=True))
    )


def _to_mapping(node: Node, hint: Any, path: KeyPath, conversion: TreeConversion) -> dict[str, Any]:
    return {
        key: _convert_or_report(value, hint, (*path, key), conversion, _placeholder(hint))
        for key, value in _as_table(node, "a table, such as {hi = 0.1}").entries.items()
    }


def _as_table(node: Node, expected: str) -> TableNode:
    """A table of a file, or one that a flag has as TOML."""
    if _is_flag_text(node):
        node = parse_flag_value(_text_of(node) or "") or node
    if not isinstance(node, TableNode):
        raise Mismatch(expected)
    return node


def _is_flag_text(node: Node) -> bool:
    return isinstance(node, LeafNode) and isinstance(node.value, FlagText)


def _text_of(node: Node) -> str | None:
    """The node's string, from a file or from the command line."""
    value = node.plain if isinstance(node, LeafNode) else None
    return value if isinstance(value, str) else None


def _to_choice(node: Node, choices: tuple[str, ...]) -> str:
    text = _text_of(node)
    if text in choices:
        return cast(str, text)
    raise Mismatch(one_of(f'"{choice}"' for choice in choices), nearest_name(text, choices) if text else None)


def _to_text(node: Node) -> str:
    text = _text_of(node)
    if text is None:
        raise Mismatch("a string")
    if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
        raise Mismatch("a string in UTF-8")
    return text


def _to_bool(node: Node) -> bool:
    value = node.plain if isinstance(node, LeafNode) else None
    if _is_flag_text(node):  # a flag without a value is true
        value = True if value is None else {"true": True, "false": False}.get(str(value).lower())
    if not isinstance(value, bool):
        raise Mismatch("true or false")
    return value


def _to_number(node: Node) -> int | float | None:
    value = node.plain if isinstance(node, LeafNode) else None
    if _is_flag_text(node):
        value = _parse_number(str(value or ""))
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _parse_number(text: str) -> int | float | None:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return None


def _to_int(node: Node) -> int:
    value = _to_number(node)
    if value is None or not abs(value) <= _LARGEST_INT or value != int(value):
        raise Mismatch("a whole number")
    return int(value)


def _to_float(node: Node) -> float:
    value = _to_number(node)
    if value is None or not abs(value) <= sys.float_info.max:  # NaN is refused too
        raise Mismatch("a number")
    return float(value)


_SCALARS: Mapping[type, Callable[[Node], str | bool | int | float]] = {
    str: _to_text,
    bool: _to_bool,
    int: _to_int,
    float: _to_float,
}
