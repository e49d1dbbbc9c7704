"""What a field of the schema accepts: its key in TOML, its type, and the bounds of its number.

In: the dataclasses of `schema.py`. A field with bounds is annotated with them:

    seq_len: Annotated[int, Bounds(at_least=2)] = 2048

Out: for `convert.py`, `help.py` and `resolved.py` the keys and types of a class; for `preflight/` a finding for each
number out of its bounds, in arrays of tables and mappings too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import Field, dataclass, fields, is_dataclass
from functools import cache, partial
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from titan_speech.config.problem import Finding


@dataclass(frozen=True)
class Bounds:
    """Bounds of a number; `above` and `below` exclude their own value."""

    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    or_equal: float | None = None
    """A value outside the bounds with a meaning of its own, such as -1 for all ranks that are left."""
    expected: str = ""
    """What a message says in place of the bounds, where they need explaining."""

    def allow(self, value: float) -> bool:
        return value == self.or_equal or (
            (self.at_least is None or value >= self.at_least)
            and (self.above is None or value > self.above)
            and (self.at_most is None or value <= self.at_most)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        bounds = {"at least": self.at_least, "above": self.above, "at most": self.at_most, "below": self.below}
        stated = " and ".join(f"{word} {limit:g}" for word, limit in bounds.items() if limit is not None)
        return self.expected or f"a value {stated}"


@cache
def config_fields(cls: type) -> dict[str, tuple[Field[Any], Any]]:
    """TOML key -> the field and its type, without bounds. The key of `from_` is `from`."""
    hints = get_type_hints(cls)
    return {entry.name.rstrip("_"): (entry, hints[entry.name]) for entry in fields(cls)}


def is_optional(hint: Any) -> bool:
    return get_origin(hint) in (Union, UnionType) and NoneType in get_args(hint)


def without_none(hint: Any) -> Any:
    """`float` of `float | None`; other types as they are."""
    return next(arg for arg in get_args(hint) if arg is not NoneType) if is_optional(hint) else hint


def check_bounds(config: Any) -> Iterator[Finding]:
    """A finding for each number of a configuration, or of one of its tables, that is out of its bounds."""
    yield from _out_of_bounds(config, type(config), "")


def _out_of_bounds(value: Any, hint: Any, key: str) -> Iterator[Finding]:
    if get_origin(hint) is Annotated:
        hint, bounds = get_args(hint)
        if value is not None and not bounds.allow(value):
            yield Finding((key,), f"{value:g}" if isinstance(value, float) else str(value), str(bounds))
    for inner_key, inner_value, inner_hint in _elements(value, without_none(hint)):
        yield from _out_of_bounds(inner_value, inner_hint, f"{key}.{inner_key}" if key else inner_key)


_hints_with_bounds = cache(partial(get_type_hints, include_extras=True))


def _elements(value: Any, hint: Any) -> Iterator[tuple[str, Any, Any]]:
    """Key, value and type, with bounds, of what a table, list or mapping holds."""
    if is_dataclass(value):
        hints = _hints_with_bounds(type(value))
        for key, (entry, _) in config_fields(type(value)).items():
            yield key, getattr(value, entry.name), hints[entry.name]
    elif isinstance(value, tuple):
        args = get_args(hint)
        hints = args[:1] * len(value) if args[-1] is Ellipsis else args
        for index, (item, item_hint) in enumerate(zip(value, hints, strict=True)):
            yield str(index), item, item_hint
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key, item, get_args(hint)[1]
