"""The codec ceiling: the same clips through encode and decode, the best that a model of these codes can sound.

In: clips of recordings, and the codec of the training store. Out: the same clips resynthesized. A model is compared
with this ceiling and not with the recordings: what the codec loses no model brings back. A clip that cannot be encoded
stays without sound, and its scores say so.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from titan_speech.codec.base import Codec
from titan_speech.errors import CodecError
from titan_speech.evaluate.clip import Clip, Sound

CEILING = "codec"


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
                return Sound()
            codes_F = codec.encode(np.ascontiguousarray(sound.wav_T, np.float32))
        return Sound(np.asarray(codec.decode(codes_F), np.float32), codes_F)
    except CodecError:
        return Sound()
