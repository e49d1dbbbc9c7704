"""Small stores for the audit: sound samples in Hindi and English, of which some can be replaced by faulty ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tests.support.store_samples import write_tokenizer
from titan_speech.importers.base import SpeechSample
from titan_speech.store.manifest import CodecInfo
from titan_speech.store.sample import SampleInfo
from titan_speech.store.writer import StoreWriter
from titan_speech.tokenization.text_tokenizer import TextTokenizer

OTHER_CODEC = CodecInfo("xcodec2", "feedc0de00000000")
WORDS = {
    "hi": "नमस्ते यह एक छोटा वाक्य है और आज मौसम बहुत अच्छा लगता है",
    "en": "please hold the line while we look for your message and try again",
}
NUM_SAMPLES = 40


def sound_sample(language: str, i: int) -> SpeechSample:
    """Some seconds of a voice that speaks a word in 25 codes; its recording goes on with the next sample."""
    rng = np.random.default_rng(i + (1000 if language == "hi" else 0))
    words = [*rng.choice(WORDS[language].split(), 4 + i % 9), str(i)]
    codes_T = rng.integers(0, 65_536, 25 * len(words), dtype=np.uint16)
    start = 100.0 * i
    info = SampleInfo(
        sample_id=f"{language}-{i:03}",
        dataset_source="calls",
        language=language,
        speaker_id=f"speaker-{i % 4}",
        source_video_id=f"{language}-tape-{i // 10}",
        segment_order=i % 10,
        start_time=start,
        end_time=start + len(codes_T) / 50,
        sample_rate=16_000,
    )
    return SpeechSample(info, codes_T, {"native": " ".join(words)})


def lasting(sample: SpeechSample, codes_T: NDArray) -> SpeechSample:
    """With other codes, and times that fit them."""
    start = sample.info.start_time or 0.0
    return replace(sample, info=replace(sample.info, end_time=start + len(codes_T) / 50), codes_T=codes_T)


def tiny_tokenizer(folder: Path) -> TextTokenizer:
    return TextTokenizer.load(write_tokenizer(folder))


def write_audit_store(
    path: Path,
    tokenizer: TextTokenizer,
    faulty: Mapping[int, SpeechSample] | None = None,
    *,
    codec: CodecInfo = OTHER_CODEC,
    shard_bytes: int = 128 << 20,
) -> Path:
    """`faulty` replaces Hindi samples by number."""
    with StoreWriter(
        path,
        name="calls",
        codec=codec,
        tokenizer=tokenizer,
        normalization_version="nfc-1",
        licence="CC0-1.0",
        shard_bytes=shard_bytes,
    ) as writer:
        for language in WORDS:
            for i in range(NUM_SAMPLES):
                sample = (faulty or {}).get(i) if language == "hi" else None
                sample = sample or sound_sample(language, i)
                writer.add_speech(sample.info, sample.codes_T, sample.transcripts)
        document = SampleInfo(sample_id="doc", dataset_source="wiki", language="en")
        writer.add_text(document, "a document of words that is not spoken by anyone")
    return path
