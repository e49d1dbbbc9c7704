"""What an importer yields: one sample with all that is known about it, not yet checked or tokenized.

In: a unit of some format. Out: `SpeechSample` or `TextSample`, in the order of the unit. Codes are integers of any
width, as the format has them; the store's writer checks their range. A row of which no sample can be made is told as
`BadSample`; `DataError` is for a unit that cannot be read on.

Shapes: T codes of a sample.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from numpy.typing import NDArray

from titan_speech.store.problems import Problem
from titan_speech.store.samples import SampleInfo


@dataclass(frozen=True)
class SpeechSample:
    """Codes, and transcripts by variant (`native`, `romanized`, ..., `description`) where there are any."""

    info: SampleInfo
    codes_T: NDArray
    transcripts: Mapping[str, str] = field(default_factory=dict)
    row: int | None = None
    """Of the unit's file, from 0, where the format has rows."""


@dataclass(frozen=True)
class TextSample:
    """A document; with `user` an instruction whose answer is `text`."""

    info: SampleInfo
    text: str
    user: str | None = None
    row: int | None = None


@dataclass(frozen=True)
class BadSample:
    """In place of a sample that cannot be made: `name` says which, `problem` why. The build counts it by kind."""

    name: str
    problem: Problem
    row: int | None = None


Sample = SpeechSample | TextSample | BadSample
