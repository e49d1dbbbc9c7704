"""The sound of a generation check: decoded on rank 0, measured, and kept as wav files of the run.

In: the codec of the run's stores and the codes that were sampled. Out: RUN/generation/step-N/K.wav and the measures of
sound_measures.py. Decoding 16 samples of 256 codes with the embedded codec takes 5 s of one core, in which the
other ranks wait. A sample that cannot be decoded or written stays without sound; the first one costs a warning.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from titan_speech.codec.base import Codec
from titan_speech.codec.load import load_codec
from titan_speech.codec.wav import wav_bytes
from titan_speech.config.schema import SpeechConfig
from titan_speech.errors import CodecError, ConfigError
from titan_speech.generate.sound_measures import SoundMeasures, measure_sound
from titan_speech.store.reader import open_store
from titan_speech.utils.files import write_atomically

logger = logging.getLogger(__name__)


class CheckSound:
    """Decodes the samples of one check after the other."""

    def __init__(self, codec: Codec, folder: Path, max_sec: float) -> None:
        """Args:
        codec: that of the run's stores.
        folder: RUN/generation.
        max_sec: seconds of decoding per check; samples that are left then stay without sound.
        """
        self.codec, self.folder, self.max_sec = codec, folder, max_sec
        self._has_warned = False

    def path(self, step: int, number: int) -> Path:
        """The file of a sample's sound."""
        return self.folder / f"step-{step}" / f"{number}.wav"

    def decode(self, step: int, codes: Sequence[NDArray[np.uint16]]) -> list[SoundMeasures | None]:
        """Write and measure the sound of each sample; None where there is none."""
        began, found = time.monotonic(), list[SoundMeasures | None]()
        for number, codes_F in enumerate(codes):
            is_late = time.monotonic() - began > self.max_sec
            found.append(None if is_late or not len(codes_F) else self._decode(step, number, codes_F))
        return found

    def _decode(self, step: int, number: int, codes_F: NDArray[np.uint16]) -> SoundMeasures | None:
        try:
            wav_T = self.codec.decode(codes_F)
            write_atomically(self.path(step, number), wav_bytes(wav_T, self.codec.sample_rate))
            return measure_sound(wav_T, self.codec.sample_rate)
        except (OSError, CodecError) as error:
            if not self._has_warned:
                logger.warning(
                    f"The sound of sample {number} of the generation check at step {step} is missing: {error}. "
                    "Training continues; further samples without sound are not reported."
                )
            self._has_warned = True
            return None


def open_check_sound(config: SpeechConfig, run_folder: Path) -> CheckSound | None:
    """The codec of `generation_check.codec`; None without one.

    Raises:
        ConfigError: a store of the run was made with another codec.
        CodecError: it cannot be loaded.
    """
    wanted = config.generation_check
    if not wanted.codec:
        return None
    codec = load_codec(wanted.codec)
    for place in sorted({source.store for source in config.data.source}):
        info = open_store(place, config.storage).manifest.codec
        if info is not None and info.hash != codec.codec_hash:
            raise ConfigError(
                f"generation_check.codec = {wanted.codec!r} has hash {codec.codec_hash}, but {place} was made by "
                f"{info.name} ({info.hash}): it would decode to noise; give that codec, or none"
            )
    return CheckSound(codec, run_folder / "generation", wanted.max_sound_sec)


def as_record(sound: SoundMeasures | None) -> dict[str, float | None]:
    """The measures for JSON, which has no NaN."""
    values = asdict(sound) if sound is not None else {}
    return {name: value if value == value else None for name, value in values.items()}
