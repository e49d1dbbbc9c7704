"""Decode samples to wav files inside the page.

In: the requested codec and the one in the manifest. Out: `AuditSound`, which decodes codes to a data URI, or gives
the reason why it cannot. Codes are decoded only by the codec whose hash is in the manifest: any other codec would make
noise that looks like a finding. Wavs are 8-bit mu-law at the codec's rate, half the size of 16-bit: 10 s at 16 kHz are
213 kB of page, and the hiss is some 38 dB below the voice. Every browser plays them.

Shapes: T samples of audio.
"""

from __future__ import annotations

import base64
import struct
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from titan_speech.audit.choose_samples import AuditSample
from titan_speech.errors import DataError
from titan_speech.store.manifest import CodecInfo
from titan_speech.store.reader import Store

if TYPE_CHECKING:
    from titan_speech.codec.base import Codec


AUTO_CODEC, NO_CODEC = "auto", "none"
MAX_CACHED = 64
_WAVE_FORMAT_MULAW = 7


class AuditSound:
    """Players for the page; without a codec no sample is audible, and `why_silent` gives the reason."""

    def __init__(self, codec: Codec | None = None, why_silent: str = "") -> None:
        self.codec, self.why_silent = codec, why_silent
        self._cache: dict[tuple[str, int], str] = {}

    def data_uri(self, sample: AuditSample) -> str:
        """A wav file as a data URI; the last 64 are cached, as several checks often find the same sample."""
        if self.codec is None:
            raise AssertionError(f"no codec to decode with: {self.why_silent}")
        key = (sample.part, sample.number)
        if key not in self._cache:
            wav = mulaw_wav(self.codec.decode(sample.tokens_T), self.codec.sample_rate)
            self._cache[key] = "data:audio/wav;base64," + base64.b64encode(wav).decode()
            if len(self._cache) > MAX_CACHED:
                del self._cache[next(iter(self._cache))]
        return self._cache[key]


def open_sound(requested: str, store: Store) -> AuditSound:
    """Load the codec for the page.

    Args:
        requested: auto (the embedded codec if the store was made with it), none, or an argument of `load_codec`.
        store: the store under audit.

    Raises:
        DataError: the requested codec is not the one the store was made with.
    """
    info = store.manifest.codec
    if info is None:
        return AuditSound(why_silent="not audible: the store has no speech")
    if requested == NO_CODEC:
        return AuditSound(why_silent="not audible: --codec none")
    from titan_speech.codec.load import load_codec

    codec = load_codec("embedded" if requested == AUTO_CODEC else requested)
    if codec.codec_hash == info.hash:
        return AuditSound(codec)
    if requested == AUTO_CODEC:
        return AuditSound(why_silent=f"not audible: codec {_describe_codec(info)} is not available")
    raise DataError(
        f"--codec {requested} has hash {codec.codec_hash}, but {store.path} was made by {_describe_codec(info)}: it "
        "would decode to noise; give that codec, or --codec none"
    )


def _describe_codec(info: CodecInfo) -> str:
    return f"{info.name} (hash {info.hash[:16]})"


def mulaw_wav(wav_T: NDArray[np.float32], sample_rate: int) -> bytes:
    """A wav file of 8-bit mu-law (ITU-T G.711) samples."""
    codes = mulaw(wav_T).tobytes()
    padded = codes + b"\x00" * (len(codes) % 2)
    header = struct.pack("<HHIIHHH", _WAVE_FORMAT_MULAW, 1, sample_rate, sample_rate, 1, 8, 0)
    chunks = b"fmt " + struct.pack("<I", len(header)) + header
    chunks += b"fact" + struct.pack("<II", 4, len(codes))
    chunks += b"data" + struct.pack("<I", len(codes)) + padded
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks


def mulaw(wav_T: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Encode as mu-law: sign, three bits of segment and four of mantissa of 14-bit samples, all inverted."""
    magnitude_T = np.minimum(np.abs(np.clip(wav_T, -1.0, 1.0)) * 32635.0, 32635.0).astype(np.int32) + 132
    segment_T = np.floor(np.log2(magnitude_T)).astype(np.int32) - 7
    mantissa_T = (magnitude_T >> (segment_T + 3)) & 0x0F
    sign_T = np.where(wav_T < 0, 0x80, 0)
    return (~(sign_T | (segment_T << 4) | mantissa_T) & 0xFF).astype(np.uint8)
