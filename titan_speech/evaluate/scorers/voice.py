"""Speaker similarity: the cosine of the embeddings of a clip and of the voice it was asked to have.

In: clips with a reference voice, and a speaker encoder. Out: a cosine, or a reason: no reference, or one that is silent
or too long. Each reference is embedded once. What a cosine is worth shows against the codec ceiling (the recording
through the codec) and another speaker; only these tell what 0.8 means for an encoder.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from titan_speech.evaluate.clip import Clip, Score, Sound
from titan_speech.evaluate.models.base import Answer, Failure
from titan_speech.evaluate.models.isolation import RunningModel
from titan_speech.evaluate.scorers.base import Metric, ask, unusable

MIN_SEC = 0.5
NO_VOICE = "no reference voice"
METRICS = (Metric("similarity", "higher", "cosine of speaker embeddings to the reference voice"),)


class VoiceScorer:
    """Similarity to the reference voice."""

    name = "voice"
    metrics = METRICS

    def __init__(self, encoder: RunningModel) -> None:
        self.encoder = encoder
        self._known: dict[bytes, Answer] = {}

    @property
    def version(self) -> str:
        return f"{self.encoder.model.name} {self.encoder.model.version}"

    def score(self, clips: Sequence[Clip]) -> list[dict[str, Score]]:
        """Scores of each clip."""
        voices = self._voices([clip.voice for clip in clips])
        said = ask(self.encoder, [clip.sound for clip in clips], [clip.language for clip in clips])
        return [{"similarity": _cosine(*pair)} for pair in zip(said, voices, strict=True)]

    def compare(self, wav_T: NDArray[np.float32], voice_T: NDArray[np.float32]) -> tuple[float, str]:
        """The similarity of one waveform to a voice, both at 16 kHz; NaN, and why, where it has none."""
        clip = Clip(prompt_id="", language="", text="", sound=Sound(wav_T), voice=Sound(voice_T))
        score = self.score([clip])[0]["similarity"]
        return float("nan") if score.value is None else score.value, score.reason

    def _voices(self, sounds: Sequence[Sound | None]) -> list[Answer | Failure]:
        """The embedding of each reference."""
        keys = [_key(sound) for sound in sounds]
        new = {key: sound for key, sound in zip(keys, sounds, strict=True) if key not in self._known}
        answers = ask(self.encoder, list(new.values()), [""] * len(new))
        found = self._known | dict(zip(new, answers, strict=True))
        self._known |= {key: found[key] for key in new if not isinstance(found[key], Failure)}  # that is tried again
        return [
            Failure(NO_VOICE) if sound is None else _of_reference(found[key], sound)
            for key, sound in zip(keys, sounds, strict=True)
        ]

    def close(self) -> None:
        """End the encoder's process."""
        self.encoder.close()


def _of_reference(answer: Answer | Failure, sound: Sound) -> Answer | Failure:
    reason = unusable(sound) or (answer.reason if isinstance(answer, Failure) else "")
    if not reason and (sound.duration_sec or 0.0) < MIN_SEC:
        reason = f"{sound.duration_sec:.2f} s long, expected at least {MIN_SEC:g} s"
    return Failure(f"the reference voice: {reason}") if reason else answer


def _key(sound: Sound | None) -> bytes:
    return b"" if sound is None or sound.wav_T is None else hashlib.sha256(sound.wav_T.tobytes()).digest()


def _cosine(said: Answer | Failure, voice: Answer | Failure) -> Score:
    if isinstance(said, Failure):
        return Score.failure(said.reason)
    if isinstance(voice, Failure):
        return Score.missing(NO_VOICE) if voice.reason == NO_VOICE else Score.failure(voice.reason)
    product = float(np.linalg.norm(said) * np.linalg.norm(voice))
    value = float(np.dot(said, voice)) / product if product else float("nan")
    return Score(value) if np.isfinite(value) else Score.failure("an embedding without length or with NaN")
