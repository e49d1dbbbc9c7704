"""Samples that a build leaves out because the user asked for it: too long, or without a spoken transcript.

In: a sample of speech, as its importer read it. Out: why it is left out, or None. What is left out is counted by
reason; it is not bad, so it neither ends a build nor needs `--skip-bad`.

A transcript without a letter or digit (`...!`) over speech is unaligned supervision: the model learns to generate what
the text does not say. The filters are off by default, since a store may hold raw speech on purpose.
"""

from __future__ import annotations

from dataclasses import dataclass

from titan_speech.errors import DataError
from titan_speech.importers.base import SpeechSample
from titan_speech.store.problems import Problem

DESCRIPTION = "description"
"""The variant that is not spoken."""


@dataclass(frozen=True)
class SampleFilter:
    """What to leave out."""

    max_duration_sec: float | None = None
    drop_empty_transcripts: bool = False

    def __post_init__(self) -> None:
        if self.max_duration_sec is not None and not 0 < self.max_duration_sec < float("inf"):
            raise DataError(f"--max-duration-sec is {self.max_duration_sec}: expected seconds above 0")

    def reason(self, sample: SpeechSample, codes_per_sec: float) -> Problem | None:
        """Why a sample is left out; the kind of the problem is the reason it is counted under."""
        if self.max_duration_sec is not None:
            duration_sec = sample.codes_T.size / codes_per_sec
            if duration_sec > self.max_duration_sec:
                found = f"{duration_sec:.2f} s, above --max-duration-sec {self.max_duration_sec:g}"
                return Problem("longer than --max-duration-sec", found)
        if self.drop_empty_transcripts:
            spoken = {name: text for name, text in sample.transcripts.items() if name != DESCRIPTION}
            if not spoken:
                return Problem("no transcript", "no transcript, dropped by --drop-empty-transcripts")
            for name, text in spoken.items():
                if not any(map(str.isalnum, text)):
                    found = f"{name} transcript {text[:40]!r} has no letter or digit"
                    return Problem("transcript without a letter or digit", f"{found}: --drop-empty-transcripts")
        return None


NO_FILTER = SampleFilter()
