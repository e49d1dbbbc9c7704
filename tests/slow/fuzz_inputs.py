"""Fuzz targets that read inputs of `store build`: every importer, and audio listings.

In: small valid inputs of each format, written once. Out: for each case a damaged copy, and the command line that reads
it. A build runs in this process, with one worker.
"""

from __future__ import annotations

import json
import random
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tokenizers import AddedToken, Tokenizer

from tests.slow.fuzz_mutate import json_bytes, mutated_bytes, mutated_json, mutated_lines
from tests.support.runs import ROOT
from tests.support.store_samples import SENTENCES, speech_codes, write_tokenizer
from titan_speech.cli.main import main
from titan_speech.importers.llasa import MARKERS, SPEECH_END, SPEECH_START, TEXT_END, TEXT_START

ASSETS = ROOT / "tests" / "assets"
NUM_SAMPLES = 6
Change = Callable[[random.Random, bytes], bytes]
BY_SUFFIX: dict[str, Change] = {
    ".jsonl": mutated_lines,
    ".json": lambda rng, data: json_bytes(rng, mutated_json(rng, json.loads(data))),
}


def rows(num: int = NUM_SAMPLES) -> list[dict[str, Any]]:
    return [
        {
            "sample_id": f"clip-{i}",
            "language": "hi" if i % 2 else "en",
            "dataset_source": "tapes",
            "transcript_native": SENTENCES[i % 5],
            "speaker_id": "ann",
            "source_video_id": "v",
            "segment_order": i,
            "start_time": 1.5 * i,
            "end_time": 1.5 * i + 1,
            "sample_rate": 16_000,
            "codes": speech_codes(i).tolist(),
        }
        for i in range(num)
    ]


def write_lines(path: Path, content: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in content), encoding="utf-8")


class BuildTarget:
    """Builds a store from a damaged input of one format."""

    def __init__(self, name: str, write: Callable[[Path], None], *options: str) -> None:
        self.name, self._write, self._options = name, write, options

    def prepare(self, seed: Path) -> None:
        """Valid content, in seed/in, with the tokenizers that are not damaged next to it."""
        write_tokenizer(seed / "tokenizer")
        (seed / "in").mkdir()
        self._write(seed / "in")

    def damage(self, rng: random.Random, case: Path) -> None:
        files = sorted(path for path in (case / "in").rglob("*") if path.is_file())
        for path in rng.sample(files, min(len(files), rng.choice((1, 1, 2)))):
            if rng.random() < 0.02:
                path.unlink()
                continue
            change = BY_SUFFIX.get(path.suffix, mutated_bytes) if rng.random() < 0.8 else mutated_bytes
            path.write_bytes(change(rng, path.read_bytes()))

    def read(self, rng: random.Random, case: Path) -> None:
        words = ["store", "build", "--from", self.name, "--input", str(case / "in"), "--output", str(case / "out")]
        words += ["--tokenizer", str(case / "tokenizer"), "--name", "n", "--licence", "CC0-1.0", "--workers", "1"]
        options = [word.replace("CASE", str(case)) for word in self._options]
        more = [word for word in ("--normalize", "--skip-bad") if rng.random() < 0.5]
        if main([*words, *options, *more]) == 0:
            main(["store", "verify", str(case / "out"), "--workers", "1"])


def _inworld(folder: Path) -> None:
    codes = [speech_codes(i) for i in range(NUM_SAMPLES)]
    lengths = np.array(list(map(len, codes)))
    np.save(folder / "train_codes_index.npy", np.cumsum(lengths) - lengths)
    np.concatenate(codes).astype("<i4").tofile(folder / "train_codes.npy")
    lines = [
        {"id": row["sample_id"], "transcript": row["transcript_native"], "language": "en", "dataset_name": "libri"}
        | {"original_data": {"video": "v1"}, "sample_rate": 24_000, "voice_description": "calm"}
        for row in rows()
    ]
    write_lines(folder / "train_samples.jsonl", lines)


def _llasa(folder: Path) -> None:
    tokenizer_path = folder.parent / "llasa"
    shutil.copytree(folder.parent / "tokenizer", tokenizer_path)
    tokenizer = Tokenizer.from_file(str(tokenizer_path / "tokenizer.json"))
    tokenizer.add_tokens([AddedToken(name, normalized=False) for name in (*MARKERS, "<|s_0|>")])
    size = Tokenizer.from_file(str(tokenizer_path / "tokenizer.json")).get_vocab_size(with_added_tokens=True)
    marks = {name: size + i for i, name in enumerate(MARKERS)}
    lines = []
    for i in range(NUM_SAMPLES):
        text = tokenizer.encode(SENTENCES[i % 5], add_special_tokens=False).ids
        codes = [size + 8 + int(code) for code in speech_codes(i)]
        row = [marks[TEXT_START], *text, marks[TEXT_END], marks[SPEECH_START], *codes, marks[SPEECH_END]]
        lines.append((row + [1] * 200)[:200])
    array = np.array(lines, np.int32)
    array.tofile(folder / "train_input_ids.memmap")
    np.save(folder / "train_input_ids_shape.npy", array.shape)


def _webdataset(folder: Path) -> None:
    with tarfile.open(folder / "000.tar", "w") as tar:
        for i, row in enumerate(rows()):
            for name, data in (("json", json.dumps(row).encode()), ("txt", row["transcript_native"].encode())):
                path = folder / "member"
                path.write_bytes(data)
                tar.add(path, f"show/clip{i}.{name}")
    (folder / "member").unlink()


def _webdataset_gz(folder: Path) -> None:
    _webdataset(folder)
    with tarfile.open(folder / "001.tar.gz", "w:gz") as tar:
        path = folder / "clip9.npy"
        np.save(path, speech_codes(9))
        tar.add(path, "clip9.npy")
        path.write_text(json.dumps(rows()[0] | {"sample_id": "other", "codes": None}))
        tar.add(path, "clip9.json")
        path.unlink()


def _parquet(folder: Path) -> None:
    pq.write_table(pa.Table.from_pylist(rows()), folder / "a.parquet", compression="zstd")


def _jsonl(folder: Path) -> None:
    content = rows()
    np.save(folder / "clip.npy", speech_codes(1))
    content[1]["codes"] = "clip.npy"
    write_lines(folder / "a.jsonl", content)


def _audio(folder: Path) -> None:
    for name in ("one", "two"):
        shutil.copy(ASSETS / "en-pls-hold-while-try.wav", folder / f"{name}.wav")
    write_lines(
        folder / "metadata.jsonl",
        [{"path": f"{name}.wav", "sample_id": name, "transcript_native": "please hold"} for name in ("one", "two")],
    )


def _audio_csv(folder: Path) -> None:
    import soundfile

    (folder / "wavs").mkdir()
    wav, rate = soundfile.read(ASSETS / "en-pls-hold-while-try.wav", dtype="int16")
    soundfile.write(folder / "wavs" / "one.flac", wav[:8000], rate)
    (folder / "metadata.csv").write_text("one|Please hold.|please hold\n")


def _text_jsonl(folder: Path) -> None:
    write_lines(folder / "a.jsonl", [{"id": str(i), "text": SENTENCES[i % 5], "language": "en"} for i in range(6)])


def _text_parquet(folder: Path) -> None:
    table = pa.Table.from_pylist([{"id": str(i), "text": SENTENCES[i % 5], "language": "en"} for i in range(6)])
    pq.write_table(table, folder / "a.parquet")


def _text_plain(folder: Path) -> None:
    (folder / "a.txt").write_text("\n\n".join(SENTENCES))


_CODEC = ("--codec-name", "xcodec2", "--codec-hash", "0" * 64)
_MORE = ("--language", "en", "--source", "tapes")
TARGETS = (
    BuildTarget("inworld", _inworld, *_CODEC),
    BuildTarget("llasa", _llasa, *_CODEC, *_MORE, "--llasa-tokenizer", "CASE/llasa"),
    BuildTarget("webdataset", _webdataset_gz, *_CODEC, *_MORE),
    BuildTarget(
        "mds", lambda folder: shutil.copytree(ASSETS / "mds" / "raw", folder, dirs_exist_ok=True) and None,
        *_CODEC, *_MORE, "--columns", "sample_id=id,transcript_native=text",
    ),
    BuildTarget(
        "mds", lambda folder: shutil.copytree(ASSETS / "mds" / "zstd", folder, dirs_exist_ok=True) and None,
        *_CODEC, *_MORE, "--columns", "sample_id=id,codes=typed",
    ),
    BuildTarget("parquet", _parquet, *_CODEC),
    BuildTarget("jsonl", _jsonl, *_CODEC),
    BuildTarget("audio", _audio, *_MORE, "--codec", "embedded"),
    BuildTarget("audio", _audio_csv, *_MORE, "--codec", "embedded"),
    BuildTarget("text-jsonl", _text_jsonl, *_MORE),
    BuildTarget("text-parquet", _text_parquet, *_MORE),
    BuildTarget("text-plain", _text_plain, *_MORE, "--preset", "lines"),
)  # fmt: skip
