"""What is scored, and what a score is.

In: audio or codes that were generated, recorded or resynthesized for a prompt. Out: `Clip`, which every scorer takes,
and `Score`, which every scorer gives: a value, or the reason why it is missing. A missing score is never a zero: it
is left out of means, and its reason is counted.

A model is compared with the codec's ceiling (`through_codec`) and not with the recordings: what the codec loses no
model brings back. A clip that cannot be encoded stays without sound, and its scores say so.

Shapes: T samples, F codes (frames).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from titan_speech.codec.base import Codec
from titan_speech.errors import CodecError
from titan_speech.utils.printable import one_line

SAMPLE_RATE = 16_000
"""That scorers work at, in Hz; so does the codec."""
CEILING = "codec"
"""Who made a clip that went through encode and decode."""


@dataclass(frozen=True, eq=False)
class Sound:
    """A waveform, the codes it was decoded from, or both."""

    wav_T: NDArray[np.float32] | None = None
    """At `SAMPLE_RATE`, in [-1, 1]."""
    codes_F: NDArray[np.uint16] | None = None
    problem: str = ""
    """Why there is neither, where a file could not be read or a codec failed."""

    @property
    def duration_sec(self) -> float | None:
        """None without a waveform."""
        return None if self.wav_T is None else len(self.wav_T) / SAMPLE_RATE


@dataclass(frozen=True, eq=False, kw_only=True)
class Clip:
    """One utterance made for a prompt."""

    prompt_id: str
    language: str
    """BCP 47 tag."""
    text: str
    """What ought to be heard; empty where nobody knows."""
    sound: Sound
    subset: str = ""
    """Of the pack: long_form, numbers, code_mixed, ..."""
    seed: int = 0
    """Of decoding: clips of two models are paired by prompt and seed."""
    voice: Sound | None = None
    """Reference speech of the speaker who ought to be heard."""
    recording: Sound | None = None
    """The prompt's text as its speaker recorded it."""
    stopped: bool | None = None
    """Whether the model produced its stop token; None where no model made the clip."""
    made_by: str = ""
    """recording, codec, a checkpoint, ...: for people who read results."""


@dataclass(frozen=True)
class Score:
    """One metric of one clip: a value with its weight, or a reason."""

    value: float | None
    weight: float = 1.0
    """What a mean over clips weighs the value by: words for a word error rate, else 1."""
    reason: str = ""
    """Why there is no value."""
    detail: str = ""
    """What a person wants to see next to the value, such as the transcript."""
    failed: bool = False
    """Something went wrong with this clip; without it the metric does not apply, or is not measured in its language."""

    @classmethod
    def missing(cls, reason: str) -> Score:
        """No value because the metric does not apply, and why."""
        return cls(None, 0.0, reason or "no reason was given")

    @classmethod
    def failure(cls, reason: str) -> Score:
        """No value because something went wrong, and what."""
        return cls(None, 0.0, reason or "no reason was given", failed=True)


Scores = Mapping[str, Score]
"""Scores of one clip, by metric."""


def mean(scores: Sequence[Score]) -> float | None:
    """The weighted mean of the scores that have a value; None if none has."""
    measured = [(score.value, score.weight) for score in scores if score.value is not None]
    weight = sum(weight for _, weight in measured)
    return sum(value * weight for value, weight in measured) / weight if weight else None


def through_codec(clips: Iterable[Clip], codec: Codec) -> list[Clip]:
    """Each clip encoded and decoded; codes that it has already are only decoded.

    Args:
        clips: with a waveform or codes.
        codec: that the codes are, or are to be, of.
    """
    return [replace(clip, sound=resynthesized(clip.sound, codec), made_by=CEILING) for clip in clips]


def resynthesized(sound: Sound, codec: Codec) -> Sound:
    """A sound as its codes give it; an empty one if it cannot be encoded or decoded."""
    try:
        codes_F = sound.codes_F
        if codes_F is None:
            if sound.wav_T is None:
                return sound
            codes_F = codec.encode(np.ascontiguousarray(sound.wav_T, np.float32))
        return Sound(np.asarray(codec.decode(codes_F), np.float32), codes_F)
    except CodecError as error:
        return Sound(problem=one_line(str(error)))
