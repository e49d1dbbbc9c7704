"""The sound of a generation check: decoded on rank 0, measured, and kept as wav files of the run.

In: the codec of the run's stores, the codes that were sampled, and those of the voice that ought to be heard; something
that compares voices, which is above this package and is handed in. Out: RUN/generation/step-N/K.wav and the measures of
sound_measures.py. Decoding 16 samples of 256 codes with the embedded codec takes 5 s of one core, in which the
other ranks wait. A sample that cannot be decoded or written stays without sound; the first one costs a warning. A check
in which no voice can be compared costs a warning each time: bounds of the similarity do not hold then.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from titan_speech.codec.base import Codec
from titan_speech.codec.load import load_codec
from titan_speech.codec.wav import wav_bytes
from titan_speech.config.schema import SpeechConfig
from titan_speech.data.generation_prompts import GenerationPrompt
from titan_speech.errors import CodecError, ConfigError
from titan_speech.generate.sound_measures import HeardMeasures, measure_sound
from titan_speech.store.reader import open_store
from titan_speech.utils.files import write_atomically

GENERATION_FOLDER = "generation"
"""Of the run folder."""

logger = logging.getLogger(__name__)


class VoiceComparison(Protocol):
    """Compares voices, as evaluate/scorers/voice.py does."""

    def compare(self, wav_T: NDArray[np.float32], voice_T: NDArray[np.float32]) -> tuple[float, str]:
        """The cosine of two waveforms of 16 kHz; NaN, and why, where one of them has no voice to compare."""
        ...

    def close(self) -> None:
        """End its process."""
        ...


class CheckSound:
    """Decodes the samples of one check after the other."""

    def __init__(self, codec: Codec, folder: Path, max_sec: float, voices: VoiceComparison | None = None) -> None:
        """Args:
        codec: that of the run's stores.
        folder: RUN/generation.
        max_sec: seconds of decoding per check; samples that are left then stay without sound.
        voices: compares each sample with its voice; None: there is no similarity.
        """
        self.codec, self.folder, self.max_sec, self.voices = codec, folder, max_sec, voices
        self._has_warned = False
        self._voice_T_of: dict[int, NDArray[np.float32]] = {}

    def path(self, step: int, number: int) -> Path:
        """The file of a sample's sound."""
        return self.folder / f"step-{step}" / f"{number}.wav"

    def decode(
        self, step: int, prompts: Sequence[GenerationPrompt], codes: Sequence[NDArray[np.uint16]]
    ) -> list[HeardMeasures | None]:
        """Write and measure the sound of each sample; None for a sample without sound.

        Args:
            step: of the check.
            prompts: the same at every check.
            codes: sampled after each prompt.
        """
        began, found, reasons = time.monotonic(), list[HeardMeasures | None](), list[str]()
        for number, (prompt, codes_F) in enumerate(zip(prompts, codes, strict=True)):
            is_late = time.monotonic() - began > self.max_sec
            heard = None if is_late or not len(codes_F) else self._decode(step, number, prompt, codes_F, reasons)
            found.append(heard)
        heard = [one for one in found if one is not None]
        if self.voices is not None and heard and all(math.isnan(one.similarity) for one in heard):
            logger.warning(
                f"No sample of the generation check at step {step} has a voice to compare ({reasons[0]}): it has no "
                "similarity, and bounds of it do not hold. Training continues."
            )
        return found

    def close(self) -> None:
        """End the process that compares voices."""
        if self.voices is not None:
            self.voices.close()

    def _decode(
        self, step: int, number: int, prompt: GenerationPrompt, codes_F: NDArray[np.uint16], reasons: list[str]
    ) -> HeardMeasures | None:
        """The measures of one sample; why it has no similarity is added to `reasons`."""
        try:
            wav_T = self.codec.decode(codes_F)
            write_atomically(self.path(step, number), wav_bytes(wav_T, self.codec.sample_rate))
            measures = asdict(measure_sound(wav_T, self.codec.sample_rate))
            return HeardMeasures(**measures, similarity=self._similarity(wav_T, number, prompt, reasons))
        except (OSError, CodecError) as error:
            if not self._has_warned:
                logger.warning(
                    f"The sound of sample {number} of the generation check at step {step} is missing: {error}. "
                    "Training continues; further samples without sound are not reported."
                )
            self._has_warned = True
            return None

    def _similarity(
        self, wav_T: NDArray[np.float32], number: int, prompt: GenerationPrompt, reasons: list[str]
    ) -> float:
        if self.voices is None:
            return math.nan
        if number not in self._voice_T_of:
            self._voice_T_of[number] = self.codec.decode(prompt.voice_codes_F)
        similarity, reason = self.voices.compare(wav_T, self._voice_T_of[number])
        if reason:
            reasons.append(reason)
        return similarity


def open_check_sound(config: SpeechConfig, run_folder: Path, voices: VoiceComparison | None) -> CheckSound | None:
    """The codec of `generation_check.codec`; None without one.

    Args:
        config: of the run.
        run_folder: where sound is written.
        voices: compares each sample with its voice; None: there is no similarity.

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
    return CheckSound(codec, run_folder / GENERATION_FOLDER, wanted.max_sound_sec, voices)


def as_record(sound: HeardMeasures | None) -> dict[str, float | None]:
    """The measures for JSON, which has no NaN."""
    values = asdict(sound) if sound is not None else {}
    return {name: value if value == value else None for name, value in values.items()}
