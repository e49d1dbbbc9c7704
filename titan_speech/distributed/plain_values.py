"""Values that processes of a run send each other, as JSON: reading one makes numbers, texts and known classes only.

In: None, numbers, texts, paths, tuples and lists of them, dataclasses, and errors of `titan_speech.errors`. Out: text,
and from it an equal value. A pickle in its place would let whoever reaches a rank's port run code on every rank.

Trade-off: every class that is sent has to be named where it is received.
"""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from titan_speech import errors
from titan_speech.errors import TitanSpeechError

_KIND, _VALUE = "kind", "value"


def to_text(value: object) -> str:
    """The value as JSON.

    Raises:
        TypeError: it holds something else than the module's docstring lists.
    """
    return json.dumps(_plain(value))


def from_text(text: str | bytes, *classes: type) -> Any:
    """The value that `to_text` was given.

    Args:
        classes: the dataclasses that may be in it.

    Raises:
        ValueError: it names another class, or is not such a text.
    """
    try:
        return _value(json.loads(text), {one.__name__: one for one in classes})
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"another rank sent what this one cannot read ({error!r}): are both of one version?"
        ) from error


def _plain(value: object) -> object:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, tuple):
        return {_KIND: "tuple", _VALUE: [_plain(item) for item in value]}
    if isinstance(value, Path):
        return {_KIND: "Path", _VALUE: str(value)}
    if isinstance(value, TitanSpeechError):
        kind = next(one.__name__ for one in type(value).__mro__ if one.__module__ == errors.__name__)
        return {_KIND: kind, _VALUE: str(value)}
    if is_dataclass(value):
        content = {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
        return {_KIND: type(value).__name__, _VALUE: content}
    raise TypeError(f"{type(value).__name__} is not sent between ranks")


def _value(plain: Any, classes: dict[str, type]) -> Any:
    if isinstance(plain, list):
        return [_value(item, classes) for item in plain]
    if not isinstance(plain, dict):
        return plain
    kind, value = plain[_KIND], plain[_VALUE]
    if kind == "tuple":
        return tuple(_value(item, classes) for item in value)
    if kind == "Path":
        return Path(value)
    if kind in classes:
        return classes[kind](**{name: _value(item, classes) for name, item in value.items()})
    error = getattr(errors, kind)
    if not issubclass(error, TitanSpeechError):
        raise TypeError(f"{kind} is not sent between ranks")
    return error(value)
