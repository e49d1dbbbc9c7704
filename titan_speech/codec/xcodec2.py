"""XCodec2 through transformers: the codec of production corpora, at 16 kHz and 320 samples per code.

In: a folder that `Xcodec2Model.save_pretrained` wrote, or a name on the Hugging Face Hub (`HKUSTAudio/xcodec2-hf`).
Out: the `Codec` protocol over the model in float32, with every weight from the files.

    wav -> padded to whole frames, one more than it fills -> log-mel of two frames of 10 ms -> w2v-BERT -> adapter \\
                                                         \\-> acoustic encoder ----------------------------------> FSQ

XCodec2 was trained on audio padded to `T // 320 + 1` frames, so audio that fills its frames exactly gets one more frame
of silence. It is encoded the same way here and the code of that frame is dropped: `ceil(T / 320)` codes remain, the
same as from the PyPI package without its last code.

Batches: w2v-BERT runs on padded clips under a mask, which it applies exactly. The convolutions have no mask (padding
would change the last codes of shorter clips), so they run clip by clip. The codes of a clip are those it gets alone, up
to float32 rounding: a value within 1e-6 of a rounding border may fall to its other side.

The codec's hash is the sha256 of `model.safetensors`, which the Hub shows next to the file. For weights in several
files it is the sha256 of one line `<sha256>  <name>` per file, by name: the output of
`sha256sum model-*.safetensors | sha256sum`.

Shapes: wav_T float32 samples in [-1, 1]; codes_F; B clips of a batch, W samples of the padded wave, M mel values.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from titan_speech.codec.base import FRAME_SAMPLES, check_codes, check_wav
from titan_speech.codec.demo.autoencoder import CODEBOOK_SIZE
from titan_speech.errors import CodecError
from titan_speech.utils.checksum import sha256_of
from titan_speech.utils.json_text import read_json_file

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_MODEL_TYPE = "xcodec2"


def find_weights(name_or_path: str | Path) -> Path:
    """The folder with config.json and safetensors files, downloaded from the Hub if the name is not a folder.

    Raises:
        CodecError: there is no such model, or it is not XCodec2.
    """
    folder = Path(name_or_path)
    if not folder.is_dir():
        folder = _download(str(name_or_path))
    try:
        config = read_json_file(folder / "config.json")
        model_type = config.get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        raise CodecError(
            f"{folder} has no config.json of a codec ({error}): expected a folder of Xcodec2Model"
        ) from error
    if model_type != _MODEL_TYPE:
        hint = (
            " That is the PyPI package's checkpoint: scripts/xcodec2_pypi.py reads it" if "codec" in str(config) else ""
        )
        raise CodecError(f"{folder} holds a model of type {model_type!r}, expected {_MODEL_TYPE!r}.{hint}")
    if not list(folder.glob("*.safetensors")):
        raise CodecError(f"{folder} has no .safetensors file: save the model with save_pretrained")
    return folder


def _download(name: str) -> Path:
    if not _HUB_NAME.fullmatch(name):
        raise CodecError(f"codec {name!r} is neither a folder nor a name on the Hugging Face Hub (owner/model)")
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise CodecError("XCodec2 needs transformers: pip install 'titan-speech[xcodec2]'") from error
    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors"]))
    except Exception as error:  # errors of many libraries
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CodecError(
            f"codec {name!r} is not a folder here and could not be downloaded from the Hugging Face Hub: {reason}. "
            "Download it on a machine with network access (hf download) and give the folder"
        ) from error


def weights_hash(folder: Path) -> str:
    """The hash of the weights in a folder (see the top of this file)."""
    files = sorted(folder.glob("*.safetensors"), key=lambda file: file.name)
    sums = []
    for file in files:
        with open(file, "rb") as opened:
            sums.append(sha256_of(opened))
    if len(files) == 1:
        return sums[0]
    lines = "".join(f"{digest}  {file.name}\n" for digest, file in zip(sums, files, strict=True))
    return hashlib.sha256(lines.encode()).hexdigest()


def load_model(folder: Path) -> Any:
    """The model in float32.

    Raises:
        CodecError: transformers is not installed or cannot load the model, or the files lack a weight, which would be
            random.
    """
    try:
        from transformers import Xcodec2Model
        from transformers.utils import logging
    except ImportError as error:
        raise CodecError("XCodec2 needs transformers: pip install 'titan-speech[xcodec2]'") from error
    logging.disable_progress_bar()
    try:
        loaded: Any = Xcodec2Model.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    except Exception as error:  # errors of many libraries
        raise CodecError(f"{folder} does not load as Xcodec2Model: {str(error).strip().splitlines()[0]}") from error
    model, report = loaded
    for what in ("missing_keys", "mismatched_keys", "unexpected_keys"):
        names = sorted(str(name) for name in report[what])
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise CodecError(f"{folder}: weights do not fit config.json, {what.replace('_', ' ')}: {names[0]}{more}")
    return model.eval()


SAMPLE_RATE = 16_000
BATCH_FRAMES = 8_000
_HALF_FRAME = FRAME_SAMPLES // 2


class XCodec2:
    """The `Codec` protocol over a folder of weights or a name on the Hugging Face Hub."""

    name = "xcodec2"
    sample_rate = SAMPLE_RATE
    frame_rate_hz = SAMPLE_RATE // FRAME_SAMPLES
    codebook_size = CODEBOOK_SIZE

    def __init__(self, name_or_path: str | Path, device: str | None = None) -> None:
        self._folder = find_weights(name_or_path)
        self._device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))

    @property
    def codec_hash(self) -> str:
        """Computed when first asked for: it takes seconds for the real weights."""
        return self._weights_hash

    @cached_property
    def _weights_hash(self) -> str:
        return weights_hash(self._folder)

    @cached_property
    def _model(self) -> Any:
        return load_model(self._folder).to(self._device)

    @cached_property
    def _extractor(self) -> Any:
        """The mel features of w2v-BERT, 80 bands of two frames; XCodec2's own extractor would need torchaudio."""
        from transformers import SeamlessM4TFeatureExtractor

        return SeamlessM4TFeatureExtractor(
            feature_size=80, num_mel_bins=80, sampling_rate=SAMPLE_RATE, stride=2, padding_value=1.0
        )

    def encode(self, wav_T: np.ndarray) -> np.ndarray:
        """codes_F with F = ceil(T / 320)."""
        return self.encode_batch([wav_T])[0]

    @torch.inference_mode()
    def encode_batch(self, wavs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The codes of each clip, in the order given."""
        for wav_T in wavs:
            check_wav(wav_T)
        codes: list[np.ndarray] = [np.empty(0, np.uint16)] * len(wavs)
        with _exact_convolutions():
            for batch in _batches([len(wav_T) for wav_T in wavs]):
                for index, codes_F in zip(batch, self._encode([wavs[index] for index in batch]), strict=True):
                    codes[index] = codes_F
        return codes

    def _encode(self, wavs: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
        padded = [_padded(wav_T) for wav_T in wavs]
        semantic_BFD = self._semantic([self._features(wav_W) for wav_W in padded])
        for wav_T, wav_W, semantic_FD in zip(wavs, padded, semantic_BFD, strict=True):
            num_frames = len(wav_W) // FRAME_SAMPLES
            codes_F = self._quantize(semantic_FD[:num_frames], torch.from_numpy(wav_W))
            yield codes_F[: -(-len(wav_T) // FRAME_SAMPLES)].cpu().numpy().astype(np.uint16)

    def _features(self, wav_W: np.ndarray) -> Tensor:
        """features_FM: two mel frames of 10 ms next to each other, normalized over the clip."""
        around = np.pad(wav_W, _HALF_FRAME)
        return self._extractor(around, sampling_rate=SAMPLE_RATE, return_tensors="pt").input_features[0]

    def _semantic(self, features: list[Tensor]) -> Tensor:
        lengths_B = torch.tensor([len(features_FM) for features_FM in features])
        features_BFM = torch.nn.utils.rnn.pad_sequence(features, batch_first=True)
        mask_BF = (torch.arange(features_BFM.shape[1])[None] < lengths_B[:, None]).long()
        output = self._model.semantic_encoder(features_BFM.to(self._device), attention_mask=mask_BF.to(self._device))
        return output.last_hidden_state

    def _quantize(self, semantic_FD: Tensor, wav_W: Tensor) -> Tensor:
        """codes_F of one clip, computed as in the model's own `encode`."""
        semantic_BDF = self._model.semantic_adapter(semantic_FD.T[None])
        acoustic_BDF = self._model.acoustic_encoder(wav_W.to(self._device)[None, None])
        joined_BFD = torch.cat([semantic_BDF, acoustic_BDF], dim=1).transpose(1, 2)
        _, codes_BFQ = self._model.quantizer(self._model.fc_encoder(joined_BFD))
        return codes_BFQ[0, :, 0]

    @torch.inference_mode()
    def decode(self, codes_F: np.ndarray) -> np.ndarray:
        """wav_T float32 with T = 320 * F."""
        check_codes(codes_F, CODEBOOK_SIZE)
        codes_BQF = torch.from_numpy(codes_F.astype(np.int64))[None, None].to(self._device)
        with _exact_convolutions():
            wav_BCT = self._model.decode(audio_codes=codes_BQF).audio_values
        return wav_BCT[0, 0].clamp(-1.0, 1.0).float().cpu().numpy()


def _padded(wav_T: np.ndarray) -> np.ndarray:
    """Silence up to T // 320 + 1 frames, as XCodec2 was trained."""
    return np.pad(wav_T, (0, FRAME_SAMPLES - len(wav_T) % FRAME_SAMPLES))


def _batches(lengths: list[int]) -> Iterator[list[int]]:
    """Indices of clips by batch: similar lengths together for little padding; `BATCH_FRAMES` bounds the memory."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        longest = lengths[batch[0]] // FRAME_SAMPLES + 1 if batch else 0
        if batch and longest * (len(batch) + 1) > BATCH_FRAMES:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def _exact_convolutions() -> Any:
    """Without TF32: on CUDA, convolutions round to ten bits by default, which changes codes."""
    return torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
