"""`--config-help`: every table and key, generated from the schema.

In: `SpeechConfig`. Out: text with, for each key, its flag, type or choices, default, and the docstring under the field.
Docstrings are read from the source of the class, since Python keeps none for a field.

Trade-off: some 100 lines of our own. tyro prints the plain tables as well, but omits `[[data.source]]` and
`[[data.language_rule]]` (an empty tuple of tables has no flags), writes `--training.seq-len` where the file has
`seq_len`, and takes 0.7 s against 0.05 s.
"""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import MISSING, Field, is_dataclass
from functools import cache
from itertools import pairwise
from types import NoneType
from typing import Any, Literal, cast, get_args, get_origin

from titan_speech.config.fields import config_fields, is_optional, without_none
from titan_speech.config.schema import SpeechConfig
from titan_speech.config.toml_text import toml_value

_WIDTH = 100
_HEAD = """\
usage: --job.config_file FILE [--TABLE.KEY VALUE ...]

A run is one TOML file. `[job] extends = "other.toml"` in it inherits from another file (relative to it):
tables merge key by key, arrays of tables are replaced whole. Flags override files, each `--table.key value`
or `--table.key=value`; a list is `a,b` or a TOML array, a flag without a value is true, and an element of
an array of tables is named by its index or its name.

example: --job.config_file train_configs/demo.toml --training.seq_len 1024 --data.source.0.max_epochs 2

  --job.config_file PATH (required, on the command line only)
        The TOML file to start from.
  extends = STRING or [STRING, ...] (optional, under [job] in a file only)
        The TOML file to inherit from, or several, each overriding those before it.
"""


def field_docstrings(cls: type) -> dict[str, str]:
    """Field name -> the docstring under it in the source of the class."""
    return _docstrings_of_module(cls.__module__)[cls.__name__]


@cache
def _docstrings_of_module(module: str) -> dict[str, dict[str, str]]:
    """Class name -> field name -> docstring; one parse for all classes of a file."""
    source = ast.parse(inspect.getsource(sys.modules[module]))
    return {node.name: _docstrings_of_class(node) for node in source.body if isinstance(node, ast.ClassDef)}


def _docstrings_of_class(cls: ast.ClassDef) -> dict[str, str]:
    docstrings: dict[str, str] = {}
    for statement, following in pairwise(cls.body):
        if not (isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)):
            continue
        if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
            docstrings[statement.target.id] = " ".join(str(following.value.value).split())
    return docstrings


def type_text(hint: Any) -> str:
    """A field's type, as its value is written."""
    if is_optional(hint):
        return f"{type_text(without_none(hint))} or none"
    kind, args = get_origin(hint), get_args(hint)
    if kind is Literal:
        return "|".join(arg or '""' for arg in args)
    if kind is dict:
        return f"{{NAME = {type_text(args[1])}, ...}}"
    if kind is tuple and args[-1] is Ellipsis:
        return f"[{type_text(args[0])}, ...]"
    if kind is tuple:
        return "[" + ", ".join(type_text(arg) for arg in args) + "]"
    return {str: "STRING", int: "INT", float: "NUMBER", bool: "true|false", NoneType: "none"}[hint]


def default_text(entry: Field[Any]) -> str:
    if entry.default is not MISSING:
        return "default: none" if entry.default is None else f"default: {toml_value(entry.default)}"
    if entry.default_factory is not MISSING:
        return f"default: {toml_value(entry.default_factory())}"
    return "required"


def _wrapped(text: str, indent: str) -> str:
    return textwrap.fill(text, _WIDTH, initial_indent=indent, subsequent_indent=indent)


def _table_help(cls: type, name: str, title: str) -> Iterator[str]:
    """Heading and keys of a table, then those of the arrays of tables in it."""
    yield f"\n{title}"
    yield _wrapped(inspect.getdoc(cls) or "", "  ")
    arrays_of_tables: list[tuple[type, str]] = []
    for key, (entry, hint) in config_fields(cls).items():
        element = get_args(hint)[0] if get_origin(hint) is tuple else None
        if is_dataclass(element):
            arrays_of_tables.append((cast(type, element), f"{name}.{key}"))
            continue
        yield f"  --{name}.{key} {type_text(hint)} ({default_text(entry)})"
        yield _wrapped(field_docstrings(cls).get(entry.name, ""), " " * 8)
    for element, inner in arrays_of_tables:
        label = "NAME" if "name" in config_fields(element) else "INDEX"
        yield from _table_help(element, f"{inner}.{label}", f"[[{inner}]]")


def help_text() -> str:
    """The whole help, table by table in the order of `SpeechConfig`."""
    lines = [_HEAD.rstrip("\n")]
    for key, (_, hint) in config_fields(SpeechConfig).items():
        lines += _table_help(without_none(hint), key, f"[{key}]")
    return "\n".join(lines) + "\n"
