"""The codec that comes with the package: 16 kHz audio to codes at 50 Hz, and back.

    log-mel -> convolutional encoder -> FSQ code | code -> decoder -> log-mel -> least squares -> Griffin-Lim

It makes real speech tokens without downloads (2.7 MB of weights), so that a first run, the tests and the demo work on
sound. Its codes are NOT those of XCodec2, though the stream has the same shape (50 Hz, 65,536 codes);
`docs/evaluation.md` has its measured quality. Encoding runs in double precision: a value would have to be within 1e-12
of a rounding border to give another code with other threads or on another machine. It costs about 0.01 s per second of
audio.

Shapes: wav_T float32 samples in [-1, 1]; codes_F uint16, one per frame of 320 samples.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors

from titan_speech.codec.base import FRAME_SAMPLES, check_codes, check_wav
from titan_speech.codec.demo.autoencoder import CODEBOOK_SIZE, MelAutoencoder, codes_to_values, values_to_codes
from titan_speech.codec.demo.mel import SAMPLE_RATE, griffin_lim, log_mel, mel_filters, mel_to_magnitude
from titan_speech.errors import CodecError

WEIGHTS_NAME = "embedded.safetensors"
MAX_WEIGHTS_BYTES = 16 << 20
"""Of a file of weights; these have 2.7 MB."""


class EmbeddedCodec:
    """The `Codec` protocol over the weights in the package, or another file of the same shapes."""

    name = "embedded"
    sample_rate = SAMPLE_RATE
    frame_rate_hz = SAMPLE_RATE // FRAME_SAMPLES
    codebook_size = CODEBOOK_SIZE

    def __init__(self, weights: Path | None = None) -> None:
        data, where = _read_weights(weights)
        self.codec_hash = hashlib.sha256(data).hexdigest()
        self._model = _load_model(data, where)
        self._filters_MK = mel_filters(torch.float64)

    @torch.inference_mode()
    def encode(self, wav_T: np.ndarray) -> np.ndarray:
        """codes_F with F = ceil(T / 320); the last frame is padded with silence."""
        check_wav(wav_T)
        missing = -len(wav_T) % FRAME_SAMPLES
        wav_BT = torch.from_numpy(np.pad(wav_T, (0, missing)).astype(np.float64))[None]
        values_BDF = self._model.double().encode(log_mel(wav_BT, self._filters_MK))
        return values_to_codes(values_BDF)[0].numpy().astype(np.uint16)

    def encode_batch(self, wavs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The codes of each clip, encoded one by one: batches gain nothing in so small a model."""
        return [self.encode(wav_T) for wav_T in wavs]

    @torch.inference_mode()
    def decode(self, codes_F: np.ndarray) -> np.ndarray:
        """float32 wav_T with T = 320 * F."""
        check_codes(codes_F, CODEBOOK_SIZE)
        codes_BF = torch.from_numpy(codes_F.astype(np.int64))[None]
        mel_BMN = self._model.float().decode(codes_to_values(codes_BF))
        wav_BT = griffin_lim(mel_to_magnitude(mel_BMN, self._filters_MK.float()))
        return wav_BT[0].clamp(-1.0, 1.0).numpy()


def _read_weights(path: Path | None) -> tuple[bytes, str]:
    try:
        if path is not None:
            if path.stat().st_size > MAX_WEIGHTS_BYTES:
                raise CodecError(f"{path} has {path.stat().st_size:,} bytes, the embedded codec's weights 2.7 MB")
            return path.read_bytes(), str(path)
        return files("titan_speech.codec.demo").joinpath(WEIGHTS_NAME).read_bytes(), f"the package's {WEIGHTS_NAME}"
    except OSError as error:
        where = path or f"titan_speech/codec/demo/{WEIGHTS_NAME}"
        raise CodecError(
            f"codec weights not readable: {where} ({error.strerror}). Reinstall the package, or fit them with "
            "scripts/fit_codec.py."
        ) from error


def _load_model(data: bytes, where: str) -> MelAutoencoder:
    model = MelAutoencoder()
    try:
        tensors = {name: tensor.float() for name, tensor in load_tensors(data).items()}
        model.load_state_dict(tensors)
    except (SafetensorError, RuntimeError) as error:
        raise CodecError(
            f"{where} does not hold the embedded codec's weights: {str(error).splitlines()[0]}. Expected a file "
            "written by scripts/fit_codec.py of this version."
        ) from error
    return model.eval()
