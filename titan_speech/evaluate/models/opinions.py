"""Predictors of mean opinion scores: how natural or clean speech sounds, from 1 to 5.

In: a waveform. Out: numbers by name. DNSMOS P.835 has its weights in the `speechmos` package and judges noise and
distortion, not prosody: a flat voice without noise scores well. Any other predictor is a TorchScript file that the user
exported (UTMOS: forward(wave [1, T], sample rate) to one number); its name is the file's.
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
from titan_speech.evaluate.models.base import AudioModel, Listen, weights_digest

DNSMOS = "dnsmos"


@dataclass(frozen=True)
class Dnsmos:
    """DNSMOS P.835 of the speechmos package."""

    name = DNSMOS

    @property
    def version(self) -> str:
        return f"speechmos {version('speechmos')}, onnxruntime {version('onnxruntime')}"

    def load(self) -> Listen:
        from speechmos import dnsmos  # pyright: ignore[reportMissingImports]

        def listen(wav_T: NDArray[np.float32], _: str) -> dict[str, float]:
            found: Any = dnsmos.run(np.clip(wav_T, -1, 1), SAMPLE_RATE)
            return {"": float(found["ovrl_mos"]), "_signal": float(found["sig_mos"]), "_noise": float(found["bak_mos"])}

        return listen


@dataclass(frozen=True)
class TorchScriptMos:
    """A predictor as a TorchScript file."""

    file: Path
    device: str = "cpu"

    @property
    def name(self) -> str:
        return self.file.stem

    @property
    def version(self) -> str:
        return f"torch {version('torch')}, {weights_digest(self.file)}"

    def load(self) -> Listen:
        import torch

        model = torch.jit.load(str(self.file), map_location=self.device).eval()

        @torch.inference_mode()
        def listen(wav_T: NDArray[np.float32], _: str) -> dict[str, float]:
            return {"": float(model(torch.from_numpy(wav_T)[None].to(self.device), SAMPLE_RATE).reshape(-1)[0])}

        return listen


def open_opinion_model(name: str = DNSMOS, device: str = "cpu") -> AudioModel:
    """A predictor: `dnsmos`, or a TorchScript file.

    Raises:
        ModelError: there is no such file.
    """
    if name == DNSMOS:
        return Dnsmos()
    if not Path(name).is_file():
        raise ModelError(f"found no file {name!r}; expected {DNSMOS}, or the TorchScript file of a predictor")
    return TorchScriptMos(Path(name), device)
