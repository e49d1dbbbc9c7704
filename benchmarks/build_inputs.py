"""What `store build` is measured on: the same samples in each format.

In: how many samples. Out: `Corpus`, random codes of 10 s on average with a transcript of some 70 characters, and for
each format a function that writes it, with the format's own library where it has one. MDS shards are written and read
by MosaicML's library in an environment of its own (mds_library.py).

Transcripts are of made-up words that fall off as those of running text do (27,000 different ones among 240,000), with
capitals and punctuation: the build looks up words that it has met, and words of a few phrases would flatter it.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tokenizers import Tokenizer

from titan_speech.importers.llasa import MARKERS, SPEECH_END, SPEECH_START, TEXT_END, TEXT_START

NUM_WORDS, WORDS_PER_TEXT = 100_000, 12
MAX_LETTERS = 9
ROW_LENGTH = 1100
SAMPLES_PER_TAR = 4096


@dataclass(frozen=True)
class Corpus:
    """Codes back to back, where samples begin, and their texts; None leaves the texts out."""

    codes: np.ndarray
    starts: np.ndarray
    texts: list[str] | None

    def sample(self, i: int) -> np.ndarray:
        stop = self.starts[i + 1] if i + 1 < len(self.starts) else len(self.codes)
        return self.codes[self.starts[i] : stop]

    def fields(self, i: int, name: str) -> dict[str, str]:
        return {} if self.texts is None else {name: self.texts[i]}


def corpus(num_samples: int, with_text: bool) -> Corpus:
    rng = np.random.default_rng(0)
    lengths = rng.integers(100, 900, num_samples)
    codes = rng.integers(0, 65_536, int(lengths.sum()), dtype=np.int32)
    return Corpus(codes, np.cumsum(lengths) - lengths, _texts(rng, num_samples) if with_text else None)


def _texts(rng: np.random.Generator, count: int) -> list[str]:
    letters = np.array(list("aaabcdeeeefghiijklmnooprsstttuvwy"))
    drawn, sizes = rng.choice(letters, (NUM_WORDS, MAX_LETTERS)), rng.integers(2, MAX_LETTERS, NUM_WORDS)
    words = np.array(["".join(row[:size]) for row, size in zip(drawn, sizes, strict=True)], object)
    share = (np.arange(NUM_WORDS) + 5) ** -1.2
    chosen = words[rng.choice(NUM_WORDS, (count, WORDS_PER_TEXT), p=share / share.sum())]
    chosen[rng.random(chosen.shape) < 0.1] += ","
    return [f"{' '.join(some).capitalize()}." for some in chosen]


def write_inworld(folder: Path, data: Corpus) -> None:
    data.codes.tofile(folder / "train_codes.npy")
    np.save(folder / "train_codes_index.npy", data.starts)
    with open(folder / "train_samples.jsonl", "w", encoding="utf-8") as file:
        for i in range(len(data.starts)):
            line: dict[str, object] = {"id": f"s{i}", "wav_path": f"/wavs/{i}.wav", "speaker_id": f"{i % 97}"}
            line |= {"language": "en", "sample_rate": 24_000, "dataset_name": "calls", "duration": 9.5}
            file.write(json.dumps(line | data.fields(i, "transcript")) + "\n")


def write_llasa(folder: Path, data: Corpus, tokenizer: Path) -> None:
    base = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    first = base.get_vocab_size(with_added_tokens=True)
    mark = {name: first + index for index, name in enumerate(MARKERS)}
    rows = np.memmap(folder / "train_input_ids.memmap", np.int32, "w+", shape=(len(data.starts), ROW_LENGTH))
    for i in range(len(data.starts)):
        ids = [] if data.texts is None else [mark[TEXT_START], *base.encode(data.texts[i]).ids[:150], mark[TEXT_END]]
        row = [*ids, mark[SPEECH_START], *(first + len(MARKERS) + data.sample(i)).tolist(), mark[SPEECH_END]]
        rows[i] = row + [1] * (ROW_LENGTH - len(row))
    rows.flush()
    np.save(folder / "train_input_ids_shape.npy", rows.shape)


def write_jsonl(folder: Path, data: Corpus) -> None:
    np.save(folder / "train.npy", data.codes)
    with open(folder / "train.jsonl", "w", encoding="utf-8") as file:
        for i, start in enumerate(data.starts.tolist()):
            line: dict[str, object] = {"sample_id": f"s{i}", "speaker_id": f"{i % 97}", "codes_start": start}
            line |= {"code_len": len(data.sample(i))} | data.fields(i, "transcript_native")
            file.write(json.dumps(line) + "\n")


def write_webdataset(folder: Path, data: Corpus) -> None:
    from webdataset import TarWriter

    for first in range(0, len(data.starts), SAMPLES_PER_TAR):
        with TarWriter(str(folder / f"{first:07d}.tar")) as writer:
            for i in range(first, min(first + SAMPLES_PER_TAR, len(data.starts))):
                fields = {"speaker_id": f"{i % 97}"} | data.fields(i, "transcript_native")
                writer.write({"__key__": f"s{i}", "json": fields, "npy": data.sample(i).astype(np.uint16)})


def write_parquet(folder: Path, data: Corpus) -> None:
    offsets = pa.array([*data.starts.tolist(), len(data.codes)], pa.int32())
    columns: dict[str, object] = {"sample_id": [f"s{i}" for i in range(len(data.starts))]}
    columns["speaker_id"] = [f"{i % 97}" for i in range(len(data.starts))]
    columns["codes"] = pa.ListArray.from_arrays(offsets, pa.array(data.codes.astype(np.uint16)))
    if data.texts is not None:
        columns["transcript_native"] = data.texts
    pq.write_table(pa.table(columns), folder / "train.parquet", row_group_size=4096)


def write_mds(folder: Path, data: Corpus, python: Path) -> None:
    handed_over = folder.with_name(f"{folder.name}.npz")
    texts = np.array(data.texts or [], np.str_)
    np.savez(handed_over, codes=data.codes.astype(np.uint16), starts=data.starts, texts=texts)
    script = Path(__file__).with_name("mds_library.py")
    subprocess.run([python, script, "write", handed_over, folder], check=True, stdout=subprocess.DEVNULL)
    handed_over.unlink()


def writers(tokenizer: Path, mds_python: Path | None) -> dict[str, Callable[[Path, Corpus], None]]:
    """By format; MDS only where there is its library."""
    found: dict[str, Callable[[Path, Corpus], None]] = {
        "inworld": write_inworld,
        "llasa": lambda folder, data: write_llasa(folder, data, tokenizer),
        "jsonl": write_jsonl,
        "webdataset": write_webdataset,
        "parquet": write_parquet,
    }
    if mds_python is not None:
        found["mds"] = lambda folder, data: write_mds(folder, data, mds_python)
    return found
