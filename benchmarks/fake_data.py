"""Synthetic data for the GPU cases: a tokenizer of the published size and a store of random samples.

In: a folder. Out: `tokenizer/` with as many entries as the family's published backbones have, and `store/` of speech
with transcripts and of text, random codes and ids, lengths of real segments. Speed depends on shapes and lengths alone,
so no real data is needed; 6,000 samples (2.8 M codes) are written in seconds and repeat every epoch.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers

from benchmarks.large_store import CODES_PER_TEXT_ID, speech_lengths
from titan_speech.estimate.offline import PUBLISHED_ROWS
from titan_speech.store.manifest import CodecInfo
from titan_speech.store.sample import SampleInfo
from titan_speech.store.writer import StoreWriter
from titan_speech.tokenization.text_tokenizer import TextTokenizer

NUM_SAMPLES, WORDS_OF_TEXT = 6_000, 400
SPECIALS = ("<|begin_of_text|>", "<|end_of_text|>")


def write_stand_ins(folder: Path, family: str, num_samples: int = NUM_SAMPLES) -> None:
    """Write what does not exist yet."""
    tokenizer_folder, store = folder / "tokenizer", folder / "store"
    if not tokenizer_folder.exists():
        _write_tokenizer(tokenizer_folder, PUBLISHED_ROWS[family])
    if not store.exists():
        _write_store(store, TextTokenizer.load(tokenizer_folder), num_samples)


def _write_tokenizer(folder: Path, num_rows: int) -> None:
    words = [*SPECIALS, *(f"w{i}" for i in range(num_rows - len(SPECIALS)))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=words[2]))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    tokenizer.add_special_tokens(list(SPECIALS))
    partial = folder.with_name(f"{folder.name}.partial")  # a folder that exists is never written again
    partial.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(partial / "tokenizer.json"))
    partial.rename(folder)


def _write_store(store: Path, tokenizer: TextTokenizer, num_samples: int) -> None:
    random = np.random.default_rng(0)

    def text(num_words: int) -> str:
        return " ".join(f"w{i}" for i in random.integers(0, tokenizer.num_base - len(SPECIALS), num_words))

    codec = CodecInfo("random", "0" * 16)
    with StoreWriter(
        store, name="random", codec=codec, tokenizer=tokenizer, normalization_version="none", licence="CC0-1.0"
    ) as writer:
        for i, length in enumerate(speech_lengths(num_samples).tolist()):
            info = SampleInfo(sample_id=f"s{i}", dataset_source="random", language="en")
            codes = random.integers(0, 65_536, length, dtype=np.uint16)
            writer.add_speech(info, codes, {"native": text(1 + length // CODES_PER_TEXT_ID)})
        for i in range(num_samples // 5):
            info = SampleInfo(sample_id=f"t{i}", dataset_source="pages", language="en")
            writer.add_text(info, text(int(random.integers(50, 2 * WORDS_OF_TEXT))))
