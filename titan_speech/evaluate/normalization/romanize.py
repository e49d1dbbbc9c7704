"""A rough form in Latin letters, to compare texts of two scripts.

In: text of any script. Out: lower-case Latin letters by uroman (of the `eval` extra), doubled letters as one. Whisper
writes much of Odia, Malayalam and Telugu in Latin letters: compared in this form it can be seen whether it heard
right. It is for the trust table's explanations and never an error rate of a model: it merges what scripts distinguish.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.util import find_spec
from typing import Any

_OTHER = re.compile("[^a-z ]")
_DOUBLED = re.compile(r"([a-z])\1+")


def can_romanize() -> bool:
    """Whether uroman is installed."""
    return find_spec("uroman") is not None


def romanized(text: str) -> str:
    """The text in Latin letters, roughly as it sounds."""
    return " ".join(_DOUBLED.sub(r"\1", _OTHER.sub("", _uroman().romanize_string(text).lower())).split())


@cache
def _uroman() -> Any:
    from uroman import Uroman  # pyright: ignore[reportMissingImports]

    return Uroman()
