"""Output of the Inworld trainer's vectorizer as tests write it, and a build of it."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tests.support.store_samples import CODEC, SENTENCES
from titan_speech.importers.base import ImportOptions
from titan_speech.importers.build import BuildRequest

NUM_SAMPLES = 300


@dataclass(frozen=True)
class Spoken:
    """One sample of a vectorizer."""

    sample_id: str
    codes: np.ndarray
    transcript: str
    language: str = "en"


def spoken(count: int, seed: int = 0) -> list[Spoken]:
    rng = np.random.default_rng(seed)
    return [
        Spoken(f"s{i}", rng.integers(0, 65_536, rng.integers(1, 40)), SENTENCES[i % 5], "hi" if i % 3 else "en")
        for i in range(count)
    ]


def write_inworld(folder: Path, samples: list[Spoken], split: str = "train", rank: str = "") -> Path:
    """As tools/data/data_vectorizer.py writes one rank, or data_merger.py all: empty values are left out."""
    folder.mkdir(parents=True, exist_ok=True)
    lengths = np.array([len(sample.codes) for sample in samples])
    np.save(folder / f"{split}_codes_index{rank}.npy", np.cumsum(lengths) - lengths)
    codes = np.concatenate([sample.codes for sample in samples]).astype(np.int32)
    array = np.memmap(folder / f"{split}_codes{rank}.npy", dtype=np.int32, mode="w+", shape=codes.shape)
    array[:] = codes
    array.flush()
    lines = [
        {
            "id": sample.sample_id,
            "wav_path": f"/wavs/{sample.sample_id}.wav",
            "speaker_id": "ann",
            "language": sample.language,
            "transcript": sample.transcript,
            "voice_description": "a calm voice",
            "duration": len(sample.codes) / 50,
            "sample_rate": 24_000,
            "dataset_name": "libri",
            "original_data": {"video": "v1", "begin": 1.5},
        }
        for sample in samples
    ]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    (folder / f"{split}_samples{rank}.jsonl").write_text(text, encoding="utf-8")
    return folder


def build_request(source: Path, output: Path, tokenizer: Path, **changes: object) -> BuildRequest:
    options = ImportOptions((source,), unit_bytes=8000)
    asked = BuildRequest("inworld", options, output, tokenizer, "small", "CC0-1.0", CODEC, shard_bytes=1500)
    return replace(asked, **changes)  # type: ignore[arg-type]
