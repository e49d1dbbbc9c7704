"""Which split of an input that has several."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from titan_speech.errors import DataError


def chosen_split(root: Path, splits: Sequence[str], asked: str | None) -> str:
    """The only one, or the one asked for; training and validation never go into one store unasked."""
    if asked is None and len(splits) == 1:
        return splits[0]
    if asked is None or asked not in splits:
        found = f"not {asked}" if asked is not None else "more than one"
        raise DataError(f"{root} has the splits {', '.join(splits)}, {found}: choose one with --split")
    return asked
