"""Making samples audible: the codec that belongs to a store, and wav files inside a page.

In: the codec asked for and the one the manifest names. Out: `Sound`, which decodes codes to a data URI, or says why
not. Codes are decoded only by the codec whose hash the manifest has: any other would make noise that passes for a
finding. Wavs are 8-bit mu-law at the codec's rate, half the size of 16-bit: 10 s at 16 kHz are 213 kB of page, and
the hiss lies some 38 dB under the voice. Every browser plays them.

Shapes: T samples of audio.
"""

from __future__ import annotations

import base64
import struct
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from titan_speech.audit.sample import AuditSample
from titan_speech.errors import DataError
from titan_speech.store.manifest import CodecInfo
from titan_speech.store.reader import Store

if TYPE_CHECKING:
    from titan_speech.codec.base import Codec


AUTO, NONE = "auto", "none"
MAX_KEPT = 64
_WAVE_FORMAT_MULAW = 7


class Sound:
    """Without a codec nothing is audible, and `why_silent` says why."""

    def __init__(self, codec: Codec | None = None, why_silent: str = "") -> None:
        self.codec, self.why_silent = codec, why_silent
        self._recent: dict[tuple[str, int], str] = {}

    def data_uri(self, sample: AuditSample) -> str:
        """The last samples are kept: what one check finds others often find too."""
        if self.codec is None:
            raise AssertionError(f"asked for sound: {self.why_silent}")
        key = (sample.part, sample.number)
        if key not in self._recent:
            wav = mulaw_wav(self.codec.decode(sample.tokens_T), self.codec.sample_rate)
            self._recent[key] = "data:audio/wav;base64," + base64.b64encode(wav).decode()
            if len(self._recent) > MAX_KEPT:
                del self._recent[next(iter(self._recent))]
        return self._recent[key]


def open_sound(asked: str, store: Store) -> Sound:
    """`asked`: auto (the embedded codec if the store is its), none, or what `load_codec` takes."""
    info = store.manifest.codec
    if info is None:
        return Sound(why_silent="not audible: the store has no speech")
    if asked == NONE:
        return Sound(why_silent="not audible: --codec none")
    from titan_speech.codec.load import load_codec

    codec = load_codec("embedded" if asked == AUTO else asked)
    if codec.codec_hash == info.hash:
        return Sound(codec)
    if asked == AUTO:
        return Sound(why_silent=f"not audible: codec {_named(info)} is not at hand")
    raise DataError(
        f"--codec {asked} has hash {codec.codec_hash}, but {store.path} was made by {_named(info)}: it would decode to "
        "noise; give that codec, or --codec none"
    )


def _named(info: CodecInfo) -> str:
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
    """Sign, three bits of segment, four of mantissa, all inverted, of 14-bit samples."""
    magnitude_T = np.minimum(np.abs(np.clip(wav_T, -1.0, 1.0)) * 32635.0, 32635.0).astype(np.int32) + 132
    segment_T = np.floor(np.log2(magnitude_T)).astype(np.int32) - 7
    mantissa_T = (magnitude_T >> (segment_T + 3)) & 0x0F
    sign_T = np.where(wav_T < 0, 0x80, 0)
    return (~(sign_T | (segment_T << 4) | mantissa_T) & 0xFF).astype(np.uint8)
