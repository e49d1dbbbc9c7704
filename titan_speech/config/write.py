"""Values as TOML text.

In: what a field of `tables/` can hold. Out: one line of TOML that reads back equal: floats by their
shortest exact form, strings as basic strings with control characters escaped, mappings as inline tables.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

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
