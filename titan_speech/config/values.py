"""One scalar of the tree as the type its field asks for.

In: a leaf, which for the command line is still text. Out: a str, bool, int, float or one of a `Literal`'s
choices, or a `Mismatch` that says what was expected.

Rules: only true/false is a bool, a bool is no int, an int may stand for a float, and a whole float (`1e9`)
for an int, since budgets are written that way. NaN and infinities are never a setting.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import cast

from titan_speech.config.problem import nearest_name, one_of
from titan_speech.config.tree import Leaf, Node, Typed

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
