"""One scalar of the tree as the type its field asks for.

In: a leaf, which for the command line is still text. Out: a str, bool, int, float or one of a `Literal`'s
choices, or a `Mismatch` that says what was expected.

Rules: only true/false is a bool, a bool is no int, an int may stand for a float, and a whole float (`1e9`)
for an int, since budgets are written that way. NaN and infinities are never a setting.

The raw tree as the dataclasses of `tables/`.

In: a tree, in which values from the command line are still text. Out: `Converted`: the configuration, where
each value came from, and every unknown key and wrong type. After a problem the field keeps its default, so
that the rest can be looked at too; its path is marked as suspect and checks that would read it stay silent.

Scalars follow `values.py`; "none" stands for absent in a field that may be. A field whose TOML name is a
Python keyword ends in an underscore here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, field, is_dataclass
from typing import Any, Literal, cast, get_args, get_origin

from titan_speech.config.fields import config_fields, is_optional, without_none
from titan_speech.config.overrides import as_list, as_toml
from titan_speech.config.problem import DEFAULT, KeyPath, Origin, Problem, dotted, nearest_name, one_of
from titan_speech.config.schema import SpeechConfig
from titan_speech.config.toml_source import Array, Leaf, Node, Table, Typed, describe

_TRUTH = {"true": True, "false": False}
_LARGEST_INT = 2**63 - 1


class Mismatch(Exception):  # noqa: N818 - control flow inside config, never seen by a caller
    """A value does not fit its field: what was expected, and perhaps what was meant."""

    def __init__(self, expected: str, nearest: str | None = None) -> None:
        super().__init__(expected)
        self.expected = expected
        self.nearest = nearest


def text_of(node: Node) -> str | None:
    """The node's string, wherever it was written."""
    value = node.value if isinstance(node, Leaf) else None
    value = value.text if isinstance(value, Typed) else value
    return value if isinstance(value, str) else None


def is_typed(node: Node) -> bool:
    """Whether the node is still text from the command line."""
    return isinstance(node, Leaf) and isinstance(node.value, Typed)


def to_choice(node: Node, choices: tuple[str, ...]) -> str:
    text = text_of(node)
    if text in choices:
        return cast(str, text)
    raise Mismatch(one_of(f'"{choice}"' for choice in choices), nearest_name(text, choices) if text else None)


def _to_text(node: Node) -> str:
    text = text_of(node)
    if text is None:
        raise Mismatch("a string")
    if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
        raise Mismatch("a string in UTF-8")
    return text


def _to_bool(node: Node) -> bool:
    value = node.value if isinstance(node, Leaf) else None
    if isinstance(value, Typed):
        value = True if value.text is None else _TRUTH.get(value.text.lower())
    if not isinstance(value, bool):
        raise Mismatch("true or false")
    return value


def _number(node: Node) -> int | float | None:
    value = node.value if isinstance(node, Leaf) else None
    if isinstance(value, Typed):
        value = _typed_number(value.text or "")
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _typed_number(text: str) -> int | float | None:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return None


def _to_int(node: Node) -> int:
    value = _number(node)
    if value is None or not abs(value) <= _LARGEST_INT or value != int(value):
        raise Mismatch("a whole number")
    return int(value)


def _to_float(node: Node) -> float:
    value = _number(node)
    if value is None or not abs(value) <= sys.float_info.max:  # also refuses NaN
        raise Mismatch("a number")
    return float(value)


SCALARS: Mapping[type, Callable[[Node], str | bool | int | float]] = {
    str: _to_text,
    bool: _to_bool,
    int: _to_int,
    float: _to_float,
}

_FILE_KEYS: dict[KeyPath, tuple[str, ...]] = {("job",): ("extends",)}
"""Keys of a file that no dataclass has, since they are used up before."""


@dataclass
class Findings:
    """Collected on the way through the tree."""

    problems: list[Problem] = field(default_factory=list)
    suspects: set[str] = field(default_factory=set)
    origins: dict[str, Origin] = field(default_factory=dict)

    def report(self, node: Node, path: KeyPath, found: str, expected: str, nearest: str | None = None) -> None:
        self.problems.append(Problem(node.origin, dotted(path), found, expected, nearest))
        self.suspects.add(dotted(path))


@dataclass(frozen=True)
class Converted:
    """`config` is complete only if there are no problems."""

    config: SpeechConfig
    findings: Findings


def convert(tree: Table) -> Converted:
    """The whole tree as a `SpeechConfig`."""
    findings = Findings()
    return Converted(_to_table(tree, SpeechConfig, (), findings), findings)


def _to_table(node: Node, cls: type, path: KeyPath, findings: Findings) -> Any:
    if not isinstance(node, Table):
        raise Mismatch("a table")
    findings.origins[dotted(path)] = node.origin
    known = config_fields(cls)
    _report_unknown(node, known, path, findings)
    values = {}
    for key, (entry, hint) in known.items():
        inner = (*path, key)
        value = node.entries.get(key, Table({}, DEFAULT) if is_dataclass(hint) else None)
        if value is not None:
            values[entry.name] = _converted(value, hint, entry, inner, findings)
        else:
            findings.origins[dotted(inner)] = DEFAULT
            if _is_required(entry):
                findings.report(node, inner, "nothing", "a value, it has no default")
            values[entry.name] = _fallback(entry, hint)
    return cls(**values)


def _converted(node: Node, hint: Any, entry: Field[Any], path: KeyPath, findings: Findings) -> Any:
    """The value of one field; its default, and a problem, if it does not fit."""
    findings.origins[dotted(path)] = node.origin
    try:
        return _to_type(node, hint, path, findings)
    except Mismatch as mismatch:
        findings.report(node, path, describe(node), mismatch.expected, mismatch.nearest)
        return _fallback(entry, hint)


def _report_unknown(node: Table, known: dict[str, Any], path: KeyPath, findings: Findings) -> None:
    for key, value in node.entries.items():
        if key in known:
            continue
        near = nearest_name(key, [*known, *_FILE_KEYS.get(path, ())])
        hint = dotted((*path, near)) if near else _same_key_elsewhere(key)
        kind = "an unknown table" if isinstance(value, Table) else "an unknown key"
        findings.report(value, (*path, key), kind, one_of(known), hint)
        if hint and near not in node.entries:  # the person meant to set it, so its default says nothing
            findings.suspects.add(hint)


def _same_key_elsewhere(key: str) -> str | None:
    """`optimizer.lr` for an `lr` written under the wrong table, `optimizer` for a table inside another."""
    if key in config_fields(SpeechConfig):
        return key
    for section, (_, hint) in config_fields(SpeechConfig).items():
        if is_dataclass(hint) and key in config_fields(cast(type, hint)):
            return f"{section}.{key}"
    return None


def _is_required(entry: Field[Any]) -> bool:
    return entry.default is MISSING and entry.default_factory is MISSING


def _fallback(entry: Field[Any], hint: Any) -> Any:
    """The default, or for a required field a placeholder."""
    if entry.default is not MISSING:
        return entry.default
    return entry.default_factory() if entry.default_factory is not MISSING else _placeholder(hint)


def _placeholder(hint: Any) -> Any:
    """A value of the type, never seen outside since a problem was reported for it."""
    if is_dataclass(hint):
        return _to_table(Table({}, DEFAULT), cast(type, hint), (), Findings())
    if get_origin(hint) is Literal:
        return get_args(hint)[0]
    return without_none(hint)()


def _to_type(node: Node, hint: Any, path: KeyPath, findings: Findings) -> Any:
    if is_optional(hint):
        return None if text_of(node) == "none" else _to_type(node, without_none(hint), path, findings)
    if is_dataclass(hint):
        return _to_table(_read_typed(node, "a table"), cast(type, hint), path, findings)
    kind = get_origin(hint)
    if kind is Literal:
        return to_choice(node, get_args(hint))
    if kind is tuple:
        return _to_tuple(node, get_args(hint), path, findings)
    if kind is dict:
        return _to_mapping(node, get_args(hint)[1], path, findings)
    return SCALARS[hint](node)


def _read_typed(node: Node, expected: str) -> Node:
    """Command line text for a table, as the TOML it must be."""
    if not is_typed(node):
        return node
    parsed = as_toml(text_of(node) or "")
    if not isinstance(parsed, Table):
        raise Mismatch(expected)
    return parsed


def _to_tuple(node: Node, args: tuple[Any, ...], path: KeyPath, findings: Findings) -> tuple[Any, ...]:
    variable = args[-1] is Ellipsis
    of_tables = variable and is_dataclass(args[0])
    expected = "an array of tables" if of_tables else "a list" if variable else f"a list of {len(args)} values"
    text = text_of(node)
    if text is not None and is_typed(node):
        node = as_list(text)
    if not isinstance(node, Array) or not (variable or len(node.items) == len(args)):
        raise Mismatch(f"{expected} ([[{dotted(path)}]])" if of_tables else expected)
    hints = args[:1] * len(node.items) if variable else args
    pairs = zip(node.items, hints, strict=True)
    return tuple(_element(item, hint, (*path, i), findings) for i, (item, hint) in enumerate(pairs))


def _to_mapping(node: Node, hint: Any, path: KeyPath, findings: Findings) -> dict[str, Any]:
    node = _read_typed(node, "a table, such as {hi = 0.1}")
    if not isinstance(node, Table):
        raise Mismatch("a table, such as {hi = 0.1}")
    return {key: _element(value, hint, (*path, key), findings) for key, value in node.entries.items()}


def _element(node: Node, hint: Any, path: KeyPath, findings: Findings) -> Any:
    """One element of an array or mapping; a mismatch is reported under the element's own line."""
    findings.origins[dotted(path)] = node.origin
    try:
        return _to_type(node, hint, path, findings)
    except Mismatch as mismatch:
        findings.report(node, path, describe(node), mismatch.expected, mismatch.nearest)
        return _placeholder(hint)
