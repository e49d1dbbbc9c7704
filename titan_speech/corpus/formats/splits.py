"""Which split of an input that has several, and whether numbered parts of it are absent."""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence
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


def tell_absent(where: str, what: str, found: Collection[int], expected: int) -> None:
    """Of parts numbered from 0: a download that stopped looks like a smaller corpus, and some want only a few parts."""
    absent = [number for number in range(expected) if number not in found]
    if absent:
        print(
            f"warning: {where} has {len(found)} of {expected} {what}: the first that is absent is {absent[0]}; only "
            "what is there is imported",
            file=sys.stderr,
        )
