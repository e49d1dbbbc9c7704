"""Speaker encoders: how alike two voices are.

In: a waveform. Out: a unit vector; the cosine of two is the similarity. Resemblyzer has its weights in its package (256
numbers; fine for tests); published results use WavLM-large fine-tuned for speaker verification, an x-vector model of
transformers when converted. Cosines of two encoders cannot be compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from titan_speech.errors import ModelError
from titan_speech.evaluate.clip import SAMPLE_RATE
from titan_speech.evaluate.models.base import AudioModel, Listen, model_folder, weights_digest

RESEMBLYZER = "resemblyzer"


@dataclass(frozen=True)
class Resemblyzer:
    """The encoder of the package of that name."""

    device: str = "cpu"
    name = RESEMBLYZER

    @property
    def version(self) -> str:
        return f"{RESEMBLYZER} {version('Resemblyzer')}"

    def load(self) -> Listen:
        from resemblyzer import VoiceEncoder, preprocess_wav  # pyright: ignore[reportMissingImports]

        encoder = VoiceEncoder(self.device, verbose=False)

        def listen(wav_T: NDArray[np.float32], _: str) -> NDArray[np.float32]:
            return np.asarray(encoder.embed_utterance(preprocess_wav(wav_T, SAMPLE_RATE)), np.float32)

        return listen


@dataclass(frozen=True)
class XVector:
    """A transformers model with an x-vector head, such as WavLM for speaker verification."""

    folder: Path
    name: str
    device: str = "cpu"

    @property
    def version(self) -> str:
        return f"transformers {version('transformers')}, {weights_digest(*self.folder.glob('*.safetensors'))}"

    def load(self) -> Listen:
        import torch
        from transformers import AutoFeatureExtractor, AutoModelForAudioXVector

        # unless trust_remote_code is said, transformers asks at the terminal whether to run the folder's code
        extract = AutoFeatureExtractor.from_pretrained(self.folder, trust_remote_code=False)
        model = AutoModelForAudioXVector.from_pretrained(self.folder, use_safetensors=True, trust_remote_code=False)
        model = model.to(self.device).eval()

        @torch.inference_mode()
        def listen(wav_T: NDArray[np.float32], _: str) -> NDArray[np.float32]:
            inputs = extract(wav_T, sampling_rate=SAMPLE_RATE, return_tensors="pt").to(self.device)
            return torch.nn.functional.normalize(model(**inputs).embeddings, dim=-1)[0].float().cpu().numpy()

        return listen


def open_voice_encoder(name: str = RESEMBLYZER, device: str = "cpu") -> AudioModel:
    """A speaker encoder: `resemblyzer`, or the folder or hub id of an x-vector model.

    Raises:
        ModelError: there is no such folder, no such model in it, or the package that runs it is not installed.
    """
    if name == RESEMBLYZER:
        _require(RESEMBLYZER, name)
        return Resemblyzer(device)
    folder = model_folder(name)
    _require("transformers", name)
    for wanted in ("config.json", "preprocessor_config.json", "*.safetensors"):
        if not any(folder.glob(wanted)):
            raise ModelError(f"{folder} has no {wanted}; expected an x-vector model of transformers with safetensors")
    return XVector(folder, folder.name if Path(name).is_dir() else name, device)


def _require(package: str, name: str) -> None:
    if find_spec(package) is None:
        raise ModelError(f"the speaker encoder {name} needs the package {package}: pip install 'titan-speech[eval]'")
