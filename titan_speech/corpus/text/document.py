"""A document as its source has it, before anything is decided about it.

In: one row of an input. Out: `Document`, or the `TextSample` a store's build takes. A document without text has an
empty string: whether that is an error (a build) or a count in a report (`text prepare`) is not decided here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from titan_speech.corpus.samples import TextSample
from titan_speech.store.samples import SampleInfo

UNKNOWN_LICENCE = "not stated"


@dataclass(frozen=True, kw_only=True)
class Document:
    """Text with its origin; with `user` an instruction whose answer is `text`."""

    id: str
    text: str
    language: str
    source: str
    licence: str = UNKNOWN_LICENCE
    user: str | None = None
    signals: Mapping[str, float] | None = None
    """Quality measures the source computed itself, of the whole document."""
    position: int = 0
    """In its unit's file, as its format counts: rows from 0, lines from 1."""

    @property
    def all_text(self) -> str:
        return self.text if self.user is None else f"{self.user}\n{self.text}"

    def sample(self) -> TextSample:
        info = SampleInfo(sample_id=self.id, dataset_source=self.source, language=self.language)
        return TextSample(info, self.text, self.user)
