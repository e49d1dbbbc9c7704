"""`--help`: every table and field, generated from the dataclasses.

In: `SpeechConfig`. Out: text with, for each field, its flag, type or choices, default and the sentence under
it in `tables/`. Texts are read from the source of the class, since Python keeps no docstring of a field.

Trade-off: some 100 lines of our own. tyro prints the plain tables as well, but leaves `[[data.source]]` and
`[[data.language_rule]]` out altogether (an empty tuple of tables has no flags to it), writes
`--training.seq-len` where the file has `seq_len`, and takes 0.7 s against 0.05 s.
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
from titan_speech.config.overrides import toml_value
from titan_speech.config.schema import SpeechConfig

_WIDTH = 100
_HEAD = """\
usage: --job.config_file FILE [--TABLE.KEY VALUE ...]

A run is one TOML file. `[job] extends = "other.toml"` in it inherits from another file (relative to it):
tables merge key by key, arrays of tables are replaced whole. Flags come on top, each `--table.key value`
or `--table.key=value`; a list is `a,b` or a TOML array, a bare flag is true, and an element of an array of
tables goes by its index or its name.

example: --job.config_file train_configs/demo.toml --training.seq_len 1024 --data.source.0.max_epochs 2

  --job.config_file PATH (required, on the command line only)
        The TOML file to start from.
  extends = STRING or [STRING, ...] (optional, under [job] in a file only)
        The TOML file to inherit from, or several, each laid over those before it.
"""


@cache
def _texts_of_module(module: str) -> dict[str, dict[str, str]]:
    """Class name -> field name -> the string under it; one parse for all classes of a file."""
    source = ast.parse(inspect.getsource(sys.modules[module]))
    return {node.name: _texts_of_class(node) for node in source.body if isinstance(node, ast.ClassDef)}


def _texts_of_class(cls: ast.ClassDef) -> dict[str, str]:
    texts: dict[str, str] = {}
    for statement, after in pairwise(cls.body):
        if not (isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)):
            continue
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            texts[statement.target.id] = " ".join(str(after.value.value).split())
    return texts


def field_texts(cls: type) -> dict[str, str]:
    """Field name -> the string under it in the class's source."""
    return _texts_of_module(cls.__module__)[cls.__name__]


def type_text(hint: Any) -> str:
    """A field's type as a person would fill it in."""
    if is_optional(hint):
        return f"{type_text(without_none(hint))} or none"
    kind, args = get_origin(hint), get_args(hint)
    if kind is Literal:
        return "|".join(args)
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
    """A table's heading and fields; the arrays of tables in it follow as tables of their own."""
    yield f"\n{title}"
    yield _wrapped(inspect.getdoc(cls) or "", "  ")
    later: list[tuple[type, str]] = []
    for key, (entry, hint) in config_fields(cls).items():
        element = get_args(hint)[0] if get_origin(hint) is tuple else None
        if is_dataclass(element):
            later.append((cast(type, element), f"{name}.{key}"))
            continue
        yield f"  --{name}.{key} {type_text(hint)} ({default_text(entry)})"
        yield _wrapped(field_texts(cls).get(entry.name, ""), " " * 8)
    for element, inner in later:
        label = "NAME" if "name" in config_fields(element) else "INDEX"
        yield from _table_help(element, f"{inner}.{label}", f"[[{inner}]]")


def help_text() -> str:
    """The whole help, table by table in the order of `SpeechConfig`."""
    lines = [_HEAD.rstrip("\n")]
    for key, (_, hint) in config_fields(SpeechConfig).items():
        lines += _table_help(without_none(hint), key, f"[{key}]")
    return "\n".join(lines) + "\n"
