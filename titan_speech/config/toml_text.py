"""TOML text in and out: files read into trees with line numbers, values written as TOML.

In: the text of a file. Out: a `TableNode` whose every node has file and line, or one problem with the line of the
syntax error. tomli reads the values and refuses invalid TOML, but gives no positions. So a second scan over text
already known to be valid finds where each key starts; it only has to distinguish keys, brackets, strings and comments.
Both passes over an 80-line file take 1.4 ms; tests compare the paths of the scan with tomli's for generated documents.

In: a value of a schema field. Out: one line of TOML that reads back equal: floats in their shortest exact form, strings
as basic strings with control characters escaped, mappings as inline tables.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Callable, Mapping
from pathlib import Path

import tomli

from titan_speech.config.problem import ConfigProblem, KeyPath, Origin
from titan_speech.config.tree import TableNode, build_tree

_BLANK = re.compile(r"(?:[ \t\n]|#[^\n]*)*")
_INLINE_BLANK = re.compile(r"[ \t]*")
_STRING = re.compile(
    r'"""(?:\\.|[^\\])*?"""(?:"{0,2})' r"|'''.*?'''(?:'{0,2})" r'|"(?:\\.|[^"\\\n])*"' r"|'[^'\n]*'", re.DOTALL
)
_BARE_KEY = re.compile(r"[^\s.=\[\]\"'#]+")
_SCALAR = re.compile(r"[^,\]}#\n]+")


class _Scan:
    """One pass over valid TOML that records the line where each path first appears."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0
        self.newlines = [match.start() for match in re.finditer("\n", text)]
        self.lines: dict[KeyPath, int] = {(): 1}
        self.counts: dict[KeyPath, int] = {}  # tables so far in each [[array.of.tables]]

    def run(self) -> dict[KeyPath, int]:
        prefix: KeyPath = ()
        while not self.at_end_after_blanks():
            if self.text.startswith("[[", self.position):
                prefix = self.array_header()
            elif self.text.startswith("[", self.position):
                prefix = self.table_header()
            else:
                self.key_value(prefix)
        return self.lines

    def at_end_after_blanks(self) -> bool:
        self.skip(_BLANK)
        return self.position >= len(self.text)

    def skip(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self.text, self.position)
        assert match is not None, f"{pattern.pattern!r} not at offset {self.position}"
        self.position = match.end()
        return match.group()

    def record(self, path: KeyPath, position: int) -> None:
        line = bisect_right(self.newlines, position) + 1
        for length in range(1, len(path) + 1):
            self.lines.setdefault(path[:length], line)

    def table_header(self) -> KeyPath:
        start = self.position
        self.position += 1
        path = self.resolved(self.key())
        self.position += 1
        self.record(path, start)
        return path

    def array_header(self) -> KeyPath:
        start = self.position
        self.position += 2
        *parents, last = self.key()
        path = (*self.resolved(tuple(parents)), last)
        self.position += 2
        index = self.counts.get(path, 0)
        self.counts[path] = index + 1
        self.record((*path, index), start)
        return (*path, index)

    def resolved(self, key: KeyPath) -> KeyPath:
        """A header's path, with the current index of each array of tables in it."""
        path: KeyPath = ()
        for part in key:
            path = (*path, part)
            if path in self.counts:
                path = (*path, self.counts[path] - 1)
        return path

    def key(self) -> KeyPath:
        """A dotted key, up to the `=` or `]` after it."""
        parts: list[str] = []
        while True:
            self.skip(_INLINE_BLANK)
            quoted = self.text[self.position] in "\"'"
            token = self.skip(_STRING if quoted else _BARE_KEY)
            parts.append(next(iter(tomli.loads(f"{token} = 0"))) if quoted else token)
            self.skip(_INLINE_BLANK)
            if self.text[self.position] != ".":
                return tuple(parts)
            self.position += 1

    def key_value(self, prefix: KeyPath) -> None:
        start = self.position
        path = (*prefix, *self.key())
        self.record(path, start)
        self.position += 1  # the equals sign
        self.skip(_INLINE_BLANK)
        self.value(path)

    def value(self, path: KeyPath) -> None:
        self.record(path, self.position)
        opening = self.text[self.position]
        if opening == "[":
            self.sequence("]", lambda index: self.value((*path, index)))
        elif opening == "{":
            self.sequence("}", lambda index: self.key_value(path))
        else:
            self.skip(_STRING if opening in "\"'" else _SCALAR)

    def sequence(self, closing: str, element: Callable[[int], None]) -> None:
        """The elements of an array or inline table, commas and comments between them."""
        self.position += 1
        index = 0
        self.skip(_BLANK)
        while self.text[self.position] != closing:
            element(index)
            index += 1
            self.skip(_BLANK)
            if self.text[self.position] == ",":
                self.position += 1
                self.skip(_BLANK)
        self.position += 1


def key_lines(text: str) -> dict[KeyPath, int]:
    """The line (from 1) where each key, table and array element of valid TOML starts."""
    return _Scan(text.replace("\r\n", "\n")).run()


def parse_toml(text: str, file: str) -> TableNode | ConfigProblem:
    """The tree of one file's text."""
    try:
        value = tomli.loads(text)
        table = build_tree(value, key_lines(text), file)
    except tomli.TOMLDecodeError as error:
        return ConfigProblem(Origin(file, error.lineno), "", f"a syntax error ({error.msg})", "valid TOML")
    except ValueError as error:  # a number of more than 4,300 digits
        return ConfigProblem(Origin(file), "", f"a value that cannot be read ({error})", "valid TOML")
    except RecursionError:
        return ConfigProblem(Origin(file), "", "values nested too deeply", "valid TOML")
    assert isinstance(table, TableNode)
    return table


def read_toml(path: Path) -> TableNode | ConfigProblem:
    """The tree of one file; messages show the path as it was given."""
    try:
        return parse_toml(path.read_bytes().decode("utf-8"), str(path))
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        return ConfigProblem(Origin(str(path), line), "", f"byte 0x{error.object[error.start]:02x}", "UTF-8 text")
    except OSError as error:
        return ConfigProblem(Origin(str(path)), "", f"{error.strerror or error}".lower(), "a readable TOML file")


_UNQUOTED_KEY = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)


def toml_string(text: str) -> str:
    """A basic string: escaped as in JSON, and the delete character too."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def toml_key(key: str) -> str:
    return key if _UNQUOTED_KEY.fullmatch(key) else toml_string(key)


def toml_value(value: object) -> str:
    """One value; None, which TOML lacks, is written as "none", which `convert.py` reads as None."""
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
    assert isinstance(value, tuple), f"{type(value).__name__} is no type of the schema"
    return "[" + ", ".join(toml_value(inner) for inner in value) + "]"
