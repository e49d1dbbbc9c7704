"""Stores of preference pairs with a planted preference, for tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from titan_speech.store.manifest import CodecInfo
from titan_speech.store.sample import SampleInfo
from titan_speech.store.writer import StoreWriter
from titan_speech.tokenization.text_tokenizer import TextTokenizer

CODEC = CodecInfo("embedded", "c0dec0000000000a")
LIKED, OTHER = (0, 32), (32, 64)
"""Ranges of codes: chosen answers have those that are liked."""


def write_pairs(
    path: Path,
    tokenizer: str = "tokenizer/tiny",
    *,
    num_pairs: int = 24,
    max_codes: int = 40,
    equal: bool = False,
    single: bool = False,
    other_prompt: bool = False,
    voices: bool = False,
) -> Path:
    """Pairs in two languages, on request with recordings in whose `voices` they answer. The flags before it plant what
    is refused or left out: a pair with equal answers, a chosen answer without a rejected one, a pair that answers two
    prompts."""
    writer = StoreWriter(
        path,
        name="pairs",
        codec=CODEC,
        tokenizer=TextTokenizer.load(tokenizer),
        normalization_version="nfc-1",
        licence="CC0-1.0",
    )
    rng = np.random.default_rng(0)

    def add(pair: str, which: str, codes: np.ndarray, text: str, language: str) -> None:
        info = SampleInfo(sample_id=f"{pair}/{which}", dataset_source="pairs", language=language, source_video_id=pair)
        writer.add_speech(info, codes.astype(np.uint16), {"native": text})

    with writer:
        for i in range(num_pairs):
            language = "en" if i % 3 else "hi"
            text = f"press {i} to hear this again"
            for which, codes in (("chosen", LIKED), ("rejected", OTHER)):
                add(f"pair-{i}", which, rng.integers(*codes, rng.integers(4, max_codes)), text, language)
            if voices:
                add(f"pair-{i}", "voice", rng.integers(0, 65_536, 12), f"this is recording {i}", language)
        if equal:
            for which in ("chosen", "rejected"):
                add("same", which, np.arange(9), "the same", "en")
        if single:
            add("alone", "chosen", np.arange(9), "alone", "en")
        if other_prompt:
            add("two", "chosen", np.arange(9), "one prompt", "en")
            add("two", "rejected", np.arange(8), "another prompt", "en")
    return path


def write_mixed(path: Path, tokenizer: str = "tokenizer/tiny", *, num_samples: int = 64) -> Path:
    """Utterances of 6 to 10 codes, of those that are liked and others alike: what a model learns before it aligns."""
    writer = StoreWriter(
        path,
        name="mixed",
        codec=CODEC,
        tokenizer=TextTokenizer.load(tokenizer),
        normalization_version="nfc-1",
        licence="CC0-1.0",
    )
    rng = np.random.default_rng(1)
    with writer:
        for i in range(num_samples):
            info = SampleInfo(sample_id=f"mixed-{i}", dataset_source="mixed", language="en")
            codes = rng.integers(LIKED[0], OTHER[1], rng.integers(6, 11))
            writer.add_speech(info, codes.astype(np.uint16), {"native": f"press {i % 16} now"})
    return path


SCORER = f"""
import json, sys
print(json.dumps({{"name": "liked", "version": "1"}}), flush=True)
for line in sys.stdin:
    answers = json.loads(line)["answers"]
    scores = [{{"liked": sum({LIKED[0]} <= code < {LIKED[1]} for code in codes) / len(codes)}} for codes in answers]
    print(json.dumps({{"scores": scores}}), flush=True)
"""
"""A program that scores by the share of codes that are liked."""
