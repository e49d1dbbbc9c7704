"""Speed of `store build` from arrays; JSON on stdout.

    python benchmarks/build.py [--samples 20000] [--tokenizer tokenizer/tiny]

In: nothing; samples of 10 s on average with a transcript of some 70 characters are written here in each format. Out:
for each format tokens a second of one process through the whole build (import, checks, tokenizing, cutting, hashing,
flushing), once with transcripts and once without, and the ratio to a bare read of the same arrays in the same run.
Rates are by CPU time of this process, so that neighbours count less; the wall clock stands beside.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one process is what is measured

from titan_speech.corpus.build.run import BuildRequest, build_store
from titan_speech.corpus.format import ImportOptions
from titan_speech.corpus.formats.llasa_layout import MARKS, SPEECH_END, SPEECH_START, TEXT_END, TEXT_START
from titan_speech.store.manifest import CodecInfo

WORDS = ("please", "hold", "the", "line", "an agent", "will be", "with you", "shortly", "press one", "hear", "again")
ROW_LENGTH = 1100


@dataclass(frozen=True)
class Corpus:
    """Codes back to back, where samples begin, and their texts."""

    codes: np.ndarray
    starts: np.ndarray
    texts: list[str]

    def sample(self, i: int) -> np.ndarray:
        stop = self.starts[i + 1] if i + 1 < len(self.starts) else len(self.codes)
        return self.codes[self.starts[i] : stop]


def corpus(num_samples: int) -> Corpus:
    rng = np.random.default_rng(0)
    lengths = rng.integers(100, 900, num_samples)
    codes = rng.integers(0, 65_536, int(lengths.sum()), dtype=np.int32)
    texts = [" ".join(rng.choice(WORDS, 11)) for _ in range(num_samples)]
    return Corpus(codes, np.cumsum(lengths) - lengths, texts)


def write_inworld(folder: Path, data: Corpus, with_text: bool) -> None:
    data.codes.tofile(folder / "train_codes.npy")
    np.save(folder / "train_codes_index.npy", data.starts)
    with open(folder / "train_samples.jsonl", "w", encoding="utf-8") as file:
        for i, text in enumerate(data.texts):
            line: dict[str, object] = {"id": f"s{i}", "wav_path": f"/wavs/{i}.wav", "speaker_id": f"{i % 97}"}
            line |= {"language": "en", "sample_rate": 24_000, "dataset_name": "calls", "duration": 9.5}
            file.write(json.dumps(line | ({"transcript": text} if with_text else {})) + "\n")


def write_llasa(folder: Path, data: Corpus, with_text: bool, tokenizer: Path) -> None:
    base = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    first = base.get_vocab_size(with_added_tokens=True)
    mark = {name: first + index for index, name in enumerate(MARKS)}
    rows = np.memmap(folder / "train_input_ids.memmap", np.int32, "w+", shape=(len(data.starts), ROW_LENGTH))
    for i, text in enumerate(data.texts):
        ids = [mark[TEXT_START], *base.encode(text).ids[:150], mark[TEXT_END]] if with_text else []
        row = [*ids, mark[SPEECH_START], *(first + len(MARKS) + data.sample(i)).tolist(), mark[SPEECH_END]]
        rows[i] = row + [1] * (ROW_LENGTH - len(row))
    rows.flush()
    np.save(folder / "train_input_ids_shape.npy", rows.shape)


def write_jsonl(folder: Path, data: Corpus, with_text: bool) -> None:
    np.save(folder / "train.npy", data.codes)
    with open(folder / "train.jsonl", "w", encoding="utf-8") as file:
        for i, text in enumerate(data.texts):
            line: dict[str, object] = {"sample_id": f"s{i}", "speaker_id": f"{i % 97}"}
            line |= {"codes_start": int(data.starts[i]), "code_len": len(data.sample(i))}
            file.write(json.dumps(line | ({"transcript_native": text} if with_text else {})) + "\n")


@dataclass(frozen=True)
class Spent:
    cpu_sec: float
    wall_sec: float


def spent(run: Callable[[], object]) -> Spent:
    cpu, wall = time.process_time(), time.perf_counter()
    run()
    return Spent(time.process_time() - cpu, time.perf_counter() - wall)


def bare_read(folder: Path) -> None:
    """All arrays, checked for their range and copied as uint16 once: the least a build can do."""
    for path in (*folder.glob("*codes.npy"), *folder.glob("*.memmap"), *folder.glob("train.npy")):
        array = np.fromfile(path, np.int32)
        if array.max() >= 0:
            array.astype(np.uint16)


def measured(name: str, data: Corpus, with_text: bool, tokenizer: Path, folder: Path) -> dict[str, float]:
    source = folder / "input"
    source.mkdir()
    writers: dict[str, Callable[[], None]] = {
        "inworld": lambda: write_inworld(source, data, with_text),
        "llasa": lambda: write_llasa(source, data, with_text, tokenizer),
        "jsonl": lambda: write_jsonl(source, data, with_text),
    }
    writers[name]()
    llasa_tokenizer = tokenizer if name == "llasa" else None
    options = ImportOptions((source,), "calls", "en", llasa_tokenizer=llasa_tokenizer)
    codec = CodecInfo("random", "0" * 16)
    request = BuildRequest(name, options, folder / "store", tokenizer, "benchmark", "CC0-1.0", codec)
    with open(os.devnull, "w") as quiet, redirect_stderr(quiet):
        build = spent(lambda: build_store(request))
    read = spent(lambda: bare_read(source))
    return {
        "mtokens_per_cpu_sec": round(len(data.codes) / build.cpu_sec / 1e6, 2),
        "mtokens_per_sec": round(len(data.codes) / build.wall_sec / 1e6, 2),
        "ratio_to_bare_read": round(read.cpu_sec / build.cpu_sec, 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=20_000)
    parser.add_argument("--tokenizer", type=Path, default=Path("tokenizer/tiny"))
    args = parser.parse_args()
    data = corpus(args.samples)
    figures: dict[str, dict[str, float]] = {}
    for name in ("inworld", "llasa", "jsonl"):
        for with_text in (True, False):
            key = f"{name} {'with' if with_text else 'without'} transcripts"
            for some in (corpus(100), data):  # what is imported once is not timed
                with tempfile.TemporaryDirectory() as folder:
                    figures[key] = measured(name, some, with_text, args.tokenizer, Path(folder))
    print(
        json.dumps({"device": platform.processor() or platform.machine(), "samples": args.samples, **figures}, indent=1)
    )


if __name__ == "__main__":
    main()
