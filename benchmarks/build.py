"""Speed of `store build`; JSON on stdout.

    python -m benchmarks.build [--samples 12000] [--rounds 3] [--formats inworld jsonl ...] [--mds-python PYTHON]

In: nothing; random codes of 10 s on average, with transcripts of about 70 characters and without, are written in each
format, by the format's own library where it has one (MDS in an environment of its own, mds_library.py). Transcripts are
of made-up words whose frequencies fall off as those of running text (27,000 different ones among 240,000): the build
looks up known words, and words of a few phrases would overstate its speed.
Out: for each format, tokens per second of one process through the whole build (import, checks, tokenizing, writing,
hashing, flushing), by CPU time and by wall time, and two ratios of CPU time from the same run. Build, import and
reading take turns; the fastest round of each counts, which other load on the machine disturbs least.

    build_to_reader    rate of the build over that of the format's reader on the same samples
    import_to_reader   the same of the importer alone, without checks

The reader is the format's own library: webdataset with its decoders, pyarrow's batches, MosaicML's LocalDataset (with
`--mds-python`, an environment that has mosaicml-streaming). Memmaps have none: the reader is then a bare read of all
arrays, their largest code, and a copy as uint16.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tokenizers import Tokenizer

from benchmarks.machine import git_revision
from titan_speech.importers.base import ImportOptions, open_importer
from titan_speech.importers.build import BuildRequest, build_store
from titan_speech.importers.llasa import MARKERS, SPEECH_END, SPEECH_START, TEXT_END, TEXT_START
from titan_speech.store.manifest import CodecInfo

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
    """By format; MDS only if its library is installed."""
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


os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one process is what is measured


@dataclass(frozen=True)
class Spent:
    cpu_sec: float
    wall_sec: float


def spent(run: Callable[[], object]) -> Spent:
    cpu, wall = time.process_time(), time.perf_counter()
    run()
    return Spent(time.process_time() - cpu, time.perf_counter() - wall)


def least(found: Iterable[Spent]) -> Spent:
    some = list(found)
    return Spent(min(one.cpu_sec for one in some), min(one.wall_sec for one in some))


def read_by_others(name: str, source: Path) -> None:
    """Read the inputs of a format by its own library, in this process."""
    {"webdataset": _by_webdataset, "parquet": _by_pyarrow}.get(name, bare_read)(source)


def _by_webdataset(source: Path) -> None:
    from webdataset import WebDataset

    for _ in WebDataset(sorted(map(str, source.glob("*.tar"))), shardshuffle=False).decode():
        pass


def _by_pyarrow(source: Path) -> None:
    for path in source.glob("*.parquet"):
        for _ in pq.ParquetFile(path, page_checksum_verification=True).iter_batches(1024):
            pass


def _by_mds_library(source: Path, python: Path, rounds: int) -> list[Spent]:
    """In its own environment, which takes seconds to begin: all rounds at once."""
    command = [python, Path(__file__).with_name("mds_library.py"), "read", source, str(rounds)]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return [Spent(float(sec), 0.0) for sec in printed.split()[-rounds:]]


def bare_read(source: Path) -> None:
    """All arrays, checked for their range and copied as uint16 once: the minimum work of a build."""
    for path in (*source.glob("*codes.npy"), *source.glob("*.memmap"), *source.glob("train.npy")):
        array = np.fromfile(path, np.int32)
        if array.max() >= 0:
            array.astype(np.uint16)


def measured(name: str, data: Corpus, args: argparse.Namespace, folder: Path) -> dict[str, float]:
    source = folder / "input"
    source.mkdir()
    writers(args.tokenizer, args.mds_python)[name](source, data)
    options = ImportOptions((source,), "calls", "en", llasa_tokenizer=args.tokenizer if name == "llasa" else None)
    builds, imports = [], []
    reads = _by_mds_library(source, args.mds_python, args.rounds) if name == "mds" else []
    for turn in range(args.rounds):
        builds.append(spent(lambda turn=turn: _build(name, options, args.tokenizer, folder / f"store{turn}")))
        imports.append(spent(lambda: _import(name, options)))
        if name != "mds":
            reads.append(spent(lambda: read_by_others(name, source)))
    build, read_sec = least(builds), least(reads).cpu_sec
    return {
        "mtokens_per_cpu_sec": round(len(data.codes) / build.cpu_sec / 1e6, 2),
        "mtokens_per_sec": round(len(data.codes) / build.wall_sec / 1e6, 2),
        "build_to_reader": round(read_sec / build.cpu_sec, 4),
        "import_to_reader": round(read_sec / least(imports).cpu_sec, 4),
    }


def _build(name: str, options: ImportOptions, tokenizer: Path, output: Path) -> None:
    request = BuildRequest(name, options, output, tokenizer, "benchmark", "CC0-1.0", CodecInfo("random", "0" * 16))
    with open(os.devnull, "w") as quiet, redirect_stderr(quiet):
        build_store(request)


def _import(name: str, options: ImportOptions) -> None:
    opened = open_importer(name, options)
    for unit in opened.units():
        for _ in opened.samples(unit):
            pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=12_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--formats", nargs="+", help="some of them (default: all)")
    parser.add_argument("--tokenizer", type=Path, default=Path("tokenizer/tiny"))
    parser.add_argument("--mds-python", type=Path, help="python of an environment that has mosaicml-streaming")
    args = parser.parse_args()
    about: dict[str, object] = {"device": platform.machine(), "cores": os.cpu_count(), "load": os.getloadavg()[0]}
    about |= {"commit": git_revision(), "samples": args.samples, "rounds": args.rounds}
    figures: dict[str, dict[str, float]] = {}
    for with_text in (True, False):
        data = corpus(args.samples, with_text)
        if data.texts is not None:
            words = [word for text in data.texts for word in text.split()]
            about |= {"words": len(words), "distinct_words": len(set(words))}
        for name in args.formats or writers(args.tokenizer, args.mds_python):
            for some in (data,) if name == "mds" else (corpus(100, with_text), data):  # modules are loaded, then timed
                with tempfile.TemporaryDirectory() as folder:
                    key = f"{name} {'with' if with_text else 'without'} transcripts"
                    figures[key] = measured(name, some, args, Path(folder))
    print(json.dumps({**about, **figures}, indent=1))


if __name__ == "__main__":
    main()
