"""Speech codecs: audio <-> one stream of codes.

    wav_T (16 kHz) -> encode -> codes_F (50 Hz, 0..65,535) -> decode -> wav_T

Training never imports this room: it reads codes from a store whose manifest names the codec by
`codec_hash`. Codes of two codecs are never mixed, so whatever implements `Codec` states a hash of
everything its codes depend on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from titan_speech.errors import CodecError


@runtime_checkable
class Codec(Protocol):
    """One waveform in, one stream of codes out, and back."""

    name: str
    codec_hash: str
    sample_rate: int
    frame_rate_hz: int
    codebook_size: int

    def encode(self, wav_T: np.ndarray) -> np.ndarray:
        """codes_F uint16 of float32 samples in [-1, 1]; F = ceil(T * frame_rate_hz / sample_rate)."""
        ...

    def decode(self, codes_F: np.ndarray) -> np.ndarray:
        """wav_T float32 of codes; T = F * sample_rate / frame_rate_hz."""
        ...


def load_codec(name_or_path: str | Path = "embedded") -> Codec:
    """The codec of this name, or the embedded codec with the weights of a .safetensors file."""
    from titan_speech.codec.embedded import EmbeddedCodec

    if str(name_or_path) == EmbeddedCodec.name:
        return EmbeddedCodec()
    if str(name_or_path).endswith(".safetensors"):
        return EmbeddedCodec(Path(name_or_path))
    raise CodecError(
        f"unknown codec {str(name_or_path)!r}: expected 'embedded', or the path of a .safetensors file that "
        "scripts/fit_codec.py wrote"
    )
