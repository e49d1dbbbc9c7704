"""Speed of `store build`; JSON on stdout.

    python -m benchmarks.build [--samples 12000] [--rounds 3] [--formats inworld jsonl ...] [--mds-python PYTHON]

In: nothing; samples are written here in each format (build_inputs.py), with transcripts and without. Out: for each,
tokens a second of one process through the whole build (import, checks, tokenizing, cutting, hashing, flushing), by CPU
time and by the clock on the wall, and two ratios of CPU time from the same run. Build, import and reading take turns;
of the rounds the fastest of each counts, which is the least that neighbours disturb.

    build_to_reader    rate of the build over that at which the reader of the format gives the same samples
    import_to_reader   the same of the importer alone, which makes samples and checks nothing

The reader is the format's own library: webdataset with its decoders, pyarrow's batches, MosaicML's LocalDataset (with
`--mds-python`, an environment that has mosaicml-streaming). Memmaps have none: there it is a bare read of all arrays,
their largest code, and a copy as uint16.
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
import pyarrow.parquet as pq

os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one process is what is measured

from benchmarks.build_inputs import Corpus, corpus, writers
from titan_speech.importers.base import ImportOptions, open_importer
from titan_speech.importers.build import BuildRequest, build_store
from titan_speech.store.manifest import CodecInfo


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
    """Reads the inputs of a format without us, in this process."""
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
    told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return [Spent(float(sec), 0.0) for sec in told.split()[-rounds:]]


def bare_read(source: Path) -> None:
    """All arrays, checked for their range and copied as uint16 once: the least a build can do."""
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
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    about: dict[str, object] = {"device": platform.machine(), "cores": os.cpu_count(), "load": os.getloadavg()[0]}
    about |= {"commit": commit.stdout.strip(), "samples": args.samples, "rounds": args.rounds}
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
