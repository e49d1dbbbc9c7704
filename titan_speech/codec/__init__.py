"""Speech codecs: audio <-> one stream of codes.

    wav_T (16 kHz) -> encode -> codes_F (50 Hz, 0..65,535) -> decode -> wav_T

Training never imports this room: it reads codes from a store whose manifest names the codec by
`codec_hash`. Codes of two codecs are never mixed, so whatever implements `Codec` states a hash of
everything its codes depend on.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from titan_speech.errors import CodecError


@runtime_checkable
class Codec(Protocol):
    """One waveform in, one stream of codes out, and back."""

    name: str
    sample_rate: int
    frame_rate_hz: int
    codebook_size: int

    @property
    def codec_hash(self) -> str: ...

    def encode(self, wav_T: np.ndarray) -> np.ndarray:
        """codes_F uint16 of float32 samples in [-1, 1]; F = ceil(T * frame_rate_hz / sample_rate)."""
        ...

    def encode_batch(self, wavs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The codes of each clip, the same as each gets alone."""
        ...

    def decode(self, codes_F: np.ndarray) -> np.ndarray:
        """wav_T float32 of codes; T = F * sample_rate / frame_rate_hz."""
        ...


def load_codec(name_or_path: str | Path = "embedded", device: str | None = None) -> Codec:
    """`embedded`, a .safetensors file of its weights, or XCodec2 from a folder or by its name on the Hub.

    `device` is for XCodec2: `cpu`, `cuda`, `cuda:1`; by default CUDA where there is one.
    """
    from titan_speech.codec.embedded import EmbeddedCodec

    name = str(name_or_path)
    if name == EmbeddedCodec.name:
        return EmbeddedCodec()
    if name.endswith(".safetensors"):
        return EmbeddedCodec(Path(name_or_path))
    if Path(name).is_dir() or "/" in name:
        from titan_speech.codec.xcodec2 import XCodec2

        return XCodec2(name_or_path, device)
    raise CodecError(
        f"unknown codec {name!r}: expected 'embedded', a .safetensors file that scripts/fit_codec.py wrote, or "
        "XCodec2 as a folder or a name on the Hugging Face Hub (HKUSTAudio/xcodec2-hf)"
    )
