"""A store of any number of samples, for planning only: lengths and speakers, and token files without content.

    python benchmarks/large_store.py FOLDER --samples 80000000

In: a folder and a number of samples. Out: a store in 12 languages whose sidecars hold the columns that planning reads
(80 M rows: 0.4 GB) and whose token files are sparse: of the right size, without a byte on disk. Their hashes are
invented, so reading a pack fails, as intended; `readable` gives all full shards of all languages the same lengths,
whose token files of zeros have one hash, and packs of zeros are read.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from titan_speech.store.manifest import (
    MANIFEST_NAME,
    CodecInfo,
    FileInfo,
    Kind,
    Manifest,
    PartInfo,
    ShardInfo,
    TokenizerInfo,
    VariantInfo,
)
from titan_speech.tokenization.text_tokenizer import TextTokenizer

LANGUAGES = ("as", "bn", "en", "gu", "hi", "kn", "ml", "mr", "or", "pa", "ta", "te")
SHARD_SAMPLES = 131_072
SAMPLES_PER_SPEAKER = 40
CODES_PER_TEXT_ID = 8


def speech_lengths(num_samples: int, seed: int = 0) -> np.ndarray:
    """Codes of segments of 1 to 40 s, 9.5 s on average."""
    return np.random.default_rng(seed).lognormal(6.0, 0.6, num_samples).clip(50, 2_000).astype(np.int32)


def write_large_store(store: Path, num_samples: int, tokenizer_path: str, readable: bool = False) -> None:
    tokenizer = TextTokenizer.load(tokenizer_path)
    borders = [num_samples * i // len(LANGUAGES) for i in range(len(LANGUAGES) + 1)]
    parts = tuple(
        _write_part(store, language, stop - start, seed, readable)
        for seed, (language, (start, stop)) in enumerate(zip(LANGUAGES, itertools.pairwise(borders), strict=True))
    )
    manifest = Manifest(
        name="large",
        licence="CC0-1.0",
        codec=CodecInfo("none", "0" * 16),
        tokenizer=TokenizerInfo(tokenizer.fingerprint, tokenizer.num_base),
        normalization_version="1",
        seed=0,
        parts=parts,
    )
    (store / MANIFEST_NAME).write_text(manifest.sealed().to_json(), encoding="utf-8")


def _write_part(store: Path, language: str, num_samples: int, seed: int, readable: bool) -> PartInfo:
    folder = f"large.{language}.speech"
    (store / folder).mkdir(parents=True)
    code_len_N = (
        np.resize(speech_lengths(SHARD_SAMPLES), num_samples) if readable else speech_lengths(num_samples, seed)
    )
    text_len_N = code_len_N // CODES_PER_TEXT_ID
    speaker_N = np.random.default_rng(seed).integers(0, num_samples // SAMPLES_PER_SPEAKER + 1, num_samples)
    shards = []
    for number, first in enumerate(range(0, num_samples, SHARD_SAMPLES)):
        some = slice(first, first + SHARD_SAMPLES)
        columns = {
            "code_len": pa.array(code_len_N[some]),
            "text_len_native": pa.array(text_len_N[some]),
            "speaker_id": _names(speaker_N[some]),
        }
        shards.append(_write_shard(store, f"{folder}/{number:05d}", columns, readable))
    num_tokens = int(code_len_N.sum(dtype=np.int64))
    variant = VariantInfo("native", num_samples, int(text_len_N.sum(dtype=np.int64)))
    return PartInfo("large", language, Kind.SPEECH, num_samples, num_tokens, num_tokens / 50, (variant,), tuple(shards))


def _names(speaker_N: np.ndarray) -> pa.Array:
    return pa.array(speaker_N.astype(np.int64)).cast(pa.string())


def _write_shard(store: Path, path: str, columns: dict[str, pa.Array], readable: bool) -> ShardInfo:
    table = pa.table(columns | _nulls(len(columns["code_len"])))
    pq.write_table(table, store / f"{path}.parquet", compression="zstd", write_page_checksum=True)
    num_codes, num_ids = (int(np.sum(columns[name].to_numpy())) for name in ("code_len", "text_len_native"))
    files = [
        _sparse(store, f"{path}.tokens", 2 * num_codes, readable),
        _sparse(store, f"{path}.text.native", 4 * num_ids, readable),
        FileInfo(f"{path}.parquet", (store / f"{path}.parquet").stat().st_size, "0" * 64),
    ]
    return ShardInfo(Path(path).name, table.num_rows, num_codes, tuple(files))


def _nulls(count: int) -> dict[str, pa.Array]:
    """Columns without values."""
    types = {"source_video_id": pa.string(), "start_time": pa.float64(), "end_time": pa.float64()}
    return {name: pa.nulls(count, type_) for name, type_ in types.items()}


def _sparse(store: Path, path: str, num_bytes: int, readable: bool) -> FileInfo:
    with open(store / path, "wb") as file:
        file.truncate(num_bytes)
    return FileInfo(path, num_bytes, sha256_of_zeros(num_bytes) if readable else "0" * 64)


@cache
def sha256_of_zeros(num_bytes: int) -> str:
    digest, block = hashlib.sha256(), bytes(1 << 20)
    for first in range(0, num_bytes, len(block)):
        digest.update(block[: num_bytes - first])
    return digest.hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--samples", type=int, default=80_000_000)
    parser.add_argument("--tokenizer", default="tokenizer/tiny")
    args = parser.parse_args()
    write_large_store(args.folder, args.samples, args.tokenizer)


if __name__ == "__main__":
    main()
