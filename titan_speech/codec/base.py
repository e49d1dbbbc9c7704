"""The protocol of a speech codec, and the input checks that all codecs share.

    wav_T (16 kHz) -> encode -> codes_F (50 Hz, 0..65,535) -> decode -> wav_T

In: audio or codes that a caller passes to a codec. Out: nothing, or a `CodecError` that says what to do. Codes of two
codecs are never mixed, so every `Codec` has a hash of everything its codes depend on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from titan_speech.errors import CodecError
from titan_speech.utils.text_table import counted


@runtime_checkable
class Codec(Protocol):
    """Encodes a waveform as one stream of codes, and decodes codes to a waveform."""

    name: str
    sample_rate: int
    frame_rate_hz: int
    codebook_size: int

    @property
    def codec_hash(self) -> str:
        """Changes with everything that codes depend on, weights above all."""
        ...

    def encode(self, wav_T: np.ndarray) -> np.ndarray:
        """Encode one clip.

        Args:
            wav_T: float32 samples in [-1, 1] at `sample_rate`, one channel, at least one frame.

        Returns:
            F = ceil(T * frame_rate_hz / sample_rate) codes, uint16.

        Raises:
            CodecError: the samples have another shape or type, or are not finite.
        """
        ...

    def encode_batch(self, wavs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Encode several clips.

        Args:
            wavs: clips as `encode` takes them, of any lengths.

        Returns:
            The codes of each clip, equal to those of the clip alone.
        """
        ...

    def decode(self, codes_F: np.ndarray) -> np.ndarray:
        """Decode one stream of codes.

        Args:
            codes_F: integers below `codebook_size`, at least one.

        Returns:
            T = F * sample_rate / frame_rate_hz samples, float32.

        Raises:
            CodecError: a value is not a code.
        """
        ...


FRAME_SAMPLES = 320


def check_wav(wav_T: np.ndarray) -> None:
    """Raise a CodecError unless audio is one channel, float32, finite, and at least one frame long."""
    if wav_T.dtype != np.float32:
        raise CodecError(
            f"audio has dtype {wav_T.dtype}, expected float32 in [-1, 1]. "
            "For int16 samples: x.astype('float32') / 32768"
        )
    if wav_T.ndim != 1:
        raise CodecError(f"audio has shape {wav_T.shape}, expected one channel of shape (T,): average or pick one")
    if len(wav_T) < FRAME_SAMPLES:
        raise CodecError(
            f"audio has {counted(len(wav_T), 'sample')}, expected at least {FRAME_SAMPLES} (one frame, 20 ms at 16 kHz)"
        )
    if not np.isfinite(wav_T).all():
        first = int(np.flatnonzero(~np.isfinite(wav_T))[0])
        raise CodecError(f"audio has a value that is not finite, first at sample {first}: check the recording")


def check_codes(codes_F: np.ndarray, codebook_size: int) -> None:
    """Raise a CodecError unless codes are a one-dimensional, non-empty array of integers of the codebook."""
    if codes_F.ndim != 1 or not np.issubdtype(codes_F.dtype, np.integer):
        raise CodecError(f"codes have dtype {codes_F.dtype} and shape {codes_F.shape}, expected integers of shape (F,)")
    if len(codes_F) == 0:
        raise CodecError("no codes to decode: expected at least one frame")
    wrong = np.flatnonzero((codes_F.astype(np.int64) < 0) | (codes_F.astype(np.int64) >= codebook_size))
    if len(wrong):
        raise CodecError(
            f"{len(wrong)} of {len(codes_F)} codes are outside 0..{codebook_size - 1}, first {codes_F[wrong[0]]} "
            f"at frame {wrong[0]}. Token ids must be turned into codes first (titan_speech.tokenization.vocabulary)."
        )
