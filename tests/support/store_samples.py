"""A tiny tokenizer and small stores for tests, with paired, speech, text and instruction parts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from titan_speech.store.manifest import CodecInfo
from titan_speech.store.sample import SampleInfo
from titan_speech.store.writer import StoreWriter
from titan_speech.tokenization.text_tokenizer import TextTokenizer

SENTENCES = [
    "the store keeps plain codes and never an id",
    "el agente no está disponible en este momento",
    "नमस्ते, आप कैसे हैं? यह एक छोटा वाक्य है।",
    "வணக்கம், இது ஒரு சிறிய வாக்கியம்.",
    "press one to hear this message again",
]
CODEC = CodecInfo("embedded", "c0dec0000000000a")
NUM_SAMPLES = 40
"""Of the small store that most tests read."""


def write_tokenizer(folder: Path, sentences: list[str] = SENTENCES, vocab_size: int = 400) -> Path:
    """Trains a byte-level BPE tokenizer with BOS and EOS in the way the bundled one is made."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    tokenizer.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<|begin_of_text|>", "<|end_of_text|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sentences, trainer)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def speech_codes(sample: int) -> np.ndarray:
    rng = np.random.default_rng(sample)
    return rng.integers(0, 65_536, rng.integers(1, 60), dtype=np.uint16)


def info(sample_id: str, source: str = "prompts", language: str = "en") -> SampleInfo:
    return SampleInfo(
        sample_id=sample_id,
        dataset_source=source,
        language=language,
        speaker_id="allison",
        source_video_id="tape-1",
        segment_order=3,
        start_time=1.5,
        end_time=2.25,
        sample_rate=16_000,
    )


def write_store(
    path: Path,
    tokenizer: TextTokenizer,
    *,
    num_samples: int = 40,
    codec: CodecInfo = CODEC,
    shard_bytes: int = 400,
    seed: int = 0,
    reverse: bool = False,
    name: str = "small",
    spoilt: bool = False,
) -> Path:
    """Parts: prompts.en.speech (paired), wild.hi.speech, wiki.en.text, chat.en.text (instructions)."""
    writer = StoreWriter(
        path,
        name=name,
        codec=codec,
        tokenizer=tokenizer,
        normalization_version="nfc-1",
        licence="CC0-1.0",
        seed=seed,
        shard_bytes=shard_bytes,
    )
    with writer:
        for i in sorted(range(num_samples), reverse=reverse):
            add_all_kinds(writer, i)
        if spoilt:
            raise KeyboardInterrupt
    return path


def transcripts_of(i: int) -> dict[str, str]:
    texts = {"native": SENTENCES[i % 5], "romanized": f"romanized {i}"}
    return texts | ({"description": "a calm voice"} if i % 2 else {})


def add_all_kinds(writer: StoreWriter, i: int) -> None:
    writer.add_speech(info(f"prompt-{i}"), speech_codes(i), transcripts_of(i))
    writer.add_speech(info(f"wild-{i}", "wild", "hi"), speech_codes(1000 + i))
    writer.add_text(info(f"wiki-{i}", "wiki"), f"{SENTENCES[i % 5]} number {i}")
    writer.add_text(info(f"chat-{i}", "chat"), f"the answer is {i}", user=f"what is {i}?")


def manifest_content(store: Path) -> dict:
    return json.loads((store / "manifest.json").read_text())


def store_writer(path: Path, tokenizer: TextTokenizer, codec: CodecInfo | None = CODEC, seed: int = 0) -> StoreWriter:
    return StoreWriter(
        path,
        name="small",
        codec=codec,
        tokenizer=tokenizer,
        normalization_version="nfc-1",
        licence="CC0-1.0",
        seed=seed,
    )


def files_of(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}
