"""Speech recognizers: Whisper in CTranslate2's format, or any recognizer that transformers' pipeline loads.

In: a folder with weights and its settings. Out: `AudioModel`s whose answer is text. The language is given, never
guessed; decoding is a beam search at temperature 0 without context, so an answer does not depend on the clip before.
On one busy core Whisper base (int8) takes about as long as the audio.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from titan_speech.errors import ModelError
from titan_speech.evaluate.clip import SAMPLE_RATE
from titan_speech.evaluate.models.base import AudioModel, Listen, model_folder, weights_digest
from titan_speech.utils.json_text import read_json_file

CTRANSLATE2_WEIGHTS = "model.bin"


@dataclass(frozen=True)
class FasterWhisper:
    """Whisper in CTranslate2's format."""

    folder: Path
    name: str
    device: str = "cpu"
    compute_type: str = "int8"
    beam_size: int = 5
    num_threads: int = 1

    @property
    def version(self) -> str:
        digest = weights_digest(self.folder / CTRANSLATE2_WEIGHTS)
        return f"faster-whisper {version('faster-whisper')}, {digest}, {self.compute_type}, beam {self.beam_size}"

    def load(self) -> Listen:
        from faster_whisper import WhisperModel  # pyright: ignore[reportMissingImports]

        model = WhisperModel(
            str(self.folder),
            device=self.device,
            compute_type=self.compute_type,
            cpu_threads=self.num_threads,
            local_files_only=True,
        )

        def listen(wav_T: NDArray[np.float32], language: str) -> str:
            segments, _ = model.transcribe(
                wav_T,
                language=language.split("-")[0] if model.model.is_multilingual else "en",
                beam_size=self.beam_size,
                temperature=0.0,
                condition_on_previous_text=False,
                without_timestamps=len(wav_T) < 28 * SAMPLE_RATE,
            )
            return " ".join(segment.text.strip() for segment in segments)

        return listen


@dataclass(frozen=True)
class TransformersRecognizer:
    """A recognizer in a Hugging Face folder: Whisper, or one with a CTC head."""

    folder: Path
    name: str
    device: str = "cpu"

    @property
    def version(self) -> str:
        digest = weights_digest(*self.folder.glob("*.safetensors"))
        return f"transformers {version('transformers')}, {digest}, greedy"

    def load(self) -> Listen:
        from transformers import pipeline

        recognize: Any = pipeline(
            "automatic-speech-recognition",
            str(self.folder),
            device=self.device,
            trust_remote_code=False,  # unless it is said, transformers asks at the terminal
            model_kwargs={"use_safetensors": True},
        )
        is_whisper = recognize.model.config.model_type == "whisper"

        def listen(wav_T: NDArray[np.float32], language: str) -> str:
            settings = (
                {"generate_kwargs": {"language": language.split("-")[0], "do_sample": False}} if is_whisper else {}
            )
            return str(recognize({"raw": wav_T, "sampling_rate": SAMPLE_RATE}, **settings)["text"])

        return listen


def open_recognizer(name: str, device: str = "cpu") -> AudioModel:
    """A recognizer by the folder or hub id of its weights.

    Args:
        name: of the folder, or ORG/NAME in the local cache.
        device: cpu, cuda, or cuda:1.

    Raises:
        ModelError: there is no such folder, or no recognizer in it.
    """
    folder = model_folder(name)
    label = folder.name if Path(name).is_dir() else name
    if (folder / CTRANSLATE2_WEIGHTS).is_file():
        return FasterWhisper(folder, label, device, "int8" if device == "cpu" else "float16")
    try:
        kind = read_json_file(folder / "config.json")["model_type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"{folder} holds no recognizer: expected Whisper in CTranslate2's format ({CTRANSLATE2_WEIGHTS}), or a "
            "Hugging Face folder with config.json"
        ) from error
    if not any(folder.glob("*.safetensors")):
        raise ModelError(f"{folder} ({kind}) has no safetensors; convert its weights, pickled ones are not read")
    return TransformersRecognizer(folder, label, device)
