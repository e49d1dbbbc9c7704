"""Writes tests/assets/mds with MosaicML's own library, which needs an environment of its own (it pins numpy below 2.2):

    python3 -m venv /tmp/mosaic && /tmp/mosaic/bin/pip install mosaicml-streaming==0.13.0
    /tmp/mosaic/bin/python tests/assets/write_mds.py tests/assets/mds

Out: `raw` (several shards, sums, arrays of free shape), `zstd` (compressed, arrays of fixed dtype and shape, bytes).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from streaming import MDSWriter  # pyright: ignore[reportMissingImports]

TEXTS = ("please hold", "नमस्ते, आप कैसे हैं?", "வணக்கம்")
RAW_COLUMNS = {
    **{"id": "str", "lang": "str", "text": "str", "speaker": "int", "codes": "ndarray", "order": "uint16"},
    **{"start": "float64", "extra": "json", "state": "pkl"},
}
ZSTD_COLUMNS = {
    **{"id": "str_int", "typed": "ndarray:int32", "fixed": "ndarray:uint16:24", "packed": "bytes", "listed": "json"},
    **{"rate": "int32", "text": "str"},
}


def codes_of(sample: int) -> np.ndarray:
    """40 to 519 codes by a formula that the test repeats."""
    length = 40 + sample * 97 % 480
    return ((np.arange(length) * 104_729 + sample * 7_919) % 65_536).astype(np.int64)


def write_raw(folder: Path) -> None:
    with MDSWriter(out=str(folder), columns=RAW_COLUMNS, hashes=["sha1", "xxh64"], size_limit=8_000) as writer:
        for i in range(12):
            dtype = (np.uint16, np.int32, np.int64)[i % 3]
            values = {"id": f"clip-{i}", "lang": "hi" if i % 2 else "en", "text": TEXTS[i % 3], "speaker": i % 4}
            more = {"order": np.uint16(i), "start": i * 1.5, "extra": {"rate": 16_000}, "state": {"i": i}}
            writer.write(values | more | {"codes": codes_of(i).astype(dtype)})


def write_zstd(folder: Path) -> None:
    with MDSWriter(out=str(folder), columns=ZSTD_COLUMNS, compression="zstd:3", hashes=["sha256"]) as writer:
        for i in range(6):
            codes = codes_of(i)
            arrays = {
                "typed": codes.astype(np.int32),
                "fixed": codes[:24].astype(np.uint16),
                "listed": codes[:30].tolist(),
            }
            writer.write(
                {"id": i, "packed": codes.astype("<u2").tobytes(), "rate": 16_000, "text": TEXTS[i % 3]} | arrays
            )


if __name__ == "__main__":
    target = Path(sys.argv[1])
    write_raw(target / "raw")
    write_zstd(target / "zstd")
    print(json.dumps({str(path.relative_to(target)): path.stat().st_size for path in sorted(target.rglob("*.*"))}))
