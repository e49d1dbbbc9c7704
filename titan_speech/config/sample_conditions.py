"""Conditions on samples, as `[[data.source]] where` has them: `dnsmos >= 3.2 and cps < 25`.

In: text. Out: `Condition`, which computes for arrays of numbers where it holds. The language has names of columns,
numbers, `< <= > >= == !=`, `and or not` and parentheses, and nothing else: it is parsed here and never evaluated as
Python. A comparison with a value that is missing (NaN) does not hold, `!=` included.

    condition := all { "or" all }    all := one { "and" one }
    one := "not" one | "(" condition ")" | name operator number | number operator name
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from titan_speech.errors import ConfigError

if TYPE_CHECKING:  # a configuration is checked without numpy
    import numpy as np
    from numpy.typing import NDArray

Columns: TypeAlias = "Mapping[str, NDArray[np.floating]]"
Mask: TypeAlias = "NDArray[np.bool_]"
MAX_CHARS, MAX_DEPTH = 1000, 20

_TOKEN = re.compile(
    r"\s*(?:(?P<number>-?\d+\.?\d*(?:[eE][-+]?\d+)?)|(?P<name>[A-Za-z_]\w*)|(?P<mark><=|>=|==|!=|<|>|[()]))"
)
_OPERATORS: dict[str, Callable[[NDArray, float], Mask]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "==": operator.eq, "!=": operator.ne,
}  # fmt: skip
_MIRRORED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "==": "==", "!=": "!="}


class WhereError(ConfigError):
    """A text that is no condition: what was found where, and what was expected."""

    def __init__(self, text: str, found: str, expected: str) -> None:
        super().__init__(f'where = "{text}": found {found}, expected {expected}')
        self.found, self.expected = found, expected


@dataclass(frozen=True)
class Condition:
    """A parsed condition."""

    text: str
    """In one form, whatever spaces and parentheses it was written with."""
    columns: frozenset[str]
    """That it needs."""
    holds: Callable[[Columns], Mask]
    """For columns of N numbers, N truths; missing values are NaN."""


def parse_where(text: str) -> Condition:
    """Parse a condition.

    Raises:
        WhereError: it is no condition; the message shows where.
    """
    if len(text) > MAX_CHARS:
        raise WhereError(f"{text[:20]} ...", f"{len(text):,} characters", f"at most {MAX_CHARS:,}")
    tokens, at = [], 0
    while text[at:].strip():
        match = _TOKEN.match(text, at)
        if match is None:
            raise _error(text, at, "a name, a number, a comparison, and, or, not or a parenthesis")
        tokens.append((str(match.lastgroup), match[match.lastgroup or 0], match.start(match.lastgroup or 0)))
        at = match.end()
    parser = _Parser(text, tokens)
    condition = parser.any_of(0)
    if parser.at < len(tokens):
        raise _error(text, tokens[parser.at][2], "and, or, or the end")
    return condition


def _error(text: str, at: int, expected: str) -> WhereError:
    at += len(text[at:]) - len(text[at:].lstrip())
    found = text[at : at + 20].rstrip() or "the end"
    return WhereError(text, f"{found!r} at character {at + 1}", expected)


class _Parser:
    """Reads tokens (kind, text, position) from left to right."""

    def __init__(self, text: str, tokens: list[tuple[str, str, int]]) -> None:
        self.text, self.tokens, self.at = text, tokens, 0

    def any_of(self, depth: int) -> Condition:
        return self._joined("or", depth, self._all_of, operator.or_)

    def _all_of(self, depth: int) -> Condition:
        return self._joined("and", depth, self._one, operator.and_)

    def _joined(
        self, word: str, depth: int, read: Callable[[int], Condition], join: Callable[[Mask, Mask], Mask]
    ) -> Condition:
        found = read(depth)
        while self._next() == ("name", word):
            self.at += 1
            found = _join(word, found, read(depth), join)
        return found

    def _one(self, depth: int) -> Condition:
        if depth > MAX_DEPTH:
            raise self._wrong(f"at most {MAX_DEPTH} levels of parentheses and not")
        token = self._next()
        if token == ("name", "not"):
            self.at += 1
            inner = self._one(depth + 1)
            return Condition(f"not ({inner.text})", inner.columns, lambda columns: ~inner.holds(columns))
        if token == ("mark", "("):
            self.at += 1
            inner = self.any_of(depth + 1)
            self._take("mark", ")", ")")
            return inner
        return self._comparison()

    def _comparison(self) -> Condition:
        kind, first = self._next()
        if kind not in ("name", "number") or first in ("and", "or", "not"):
            raise self._wrong("a comparison such as dnsmos >= 3.2")
        self.at += 1
        _, mark = self._next()
        if mark not in _OPERATORS:
            raise self._wrong("< <= > >= == or !=")
        self.at += 1
        wanted = "number" if kind == "name" else "name"
        second = self._take(wanted, None, f"a {wanted}: a column is compared with a number")
        name, number, mark = (first, second, mark) if kind == "name" else (second, first, _MIRRORED[mark])
        compare, value = _OPERATORS[mark], float(number)

        def holds(columns: Columns) -> Mask:
            found = columns[name]
            return compare(found, value) & (found == found)  # NaN equals nothing

        return Condition(f"{name} {mark} {value:g}", frozenset((name,)), holds)

    def _take(self, kind: str, text: str | None, expected: str) -> str:
        found = self._next()
        if found[0] != kind or (text is not None and found[1] != text) or found[1] in ("and", "or", "not"):
            raise self._wrong(expected)
        self.at += 1
        return found[1]

    def _next(self) -> tuple[str, str]:
        return self.tokens[self.at][:2] if self.at < len(self.tokens) else ("end", "")

    def _wrong(self, expected: str) -> WhereError:
        position = self.tokens[self.at][2] if self.at < len(self.tokens) else len(self.text)
        return _error(self.text, position, expected)


def _join(word: str, one: Condition, other: Condition, join: Callable[[Mask, Mask], Mask]) -> Condition:
    return Condition(
        f"({one.text} {word} {other.text})",
        one.columns | other.columns,
        lambda columns: join(one.holds(columns), other.holds(columns)),
    )
