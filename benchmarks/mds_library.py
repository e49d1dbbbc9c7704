"""MosaicML's own writer and reader of MDS, for benchmarks/build.py; run in an environment that has mosaicml-streaming.

    python benchmarks/mds_library.py write SAMPLES.npz FOLDER
    python benchmarks/mds_library.py read FOLDER ROUNDS

`write` reads codes back to back, the start of each sample and the texts. `read` goes over all samples in order and
prints for each round the seconds of CPU time, as the library reads a local folder: one shard after the other, no
shuffle.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
from streaming import LocalDataset, MDSWriter  # pyright: ignore[reportMissingImports]


def write(source: Path, folder: Path) -> None:
    data = np.load(source)
    samples, texts = np.split(data["codes"], data["starts"][1:]), data["texts"].tolist()
    columns = {"sample_id": "str", "speaker_id": "str", "codes": "ndarray:uint16"}
    columns |= {"transcript_native": "str"} if texts else {}
    with MDSWriter(out=str(folder), columns=columns, exist_ok=True) as writer:
        for i, codes_T in enumerate(samples):
            fields = {"sample_id": f"s{i}", "speaker_id": f"{i % 97}", "codes": codes_T}
            writer.write(fields | ({"transcript_native": texts[i]} if texts else {}))


def read(folder: Path) -> float:
    began = time.process_time()
    dataset = LocalDataset(local=str(folder))
    for i in range(len(dataset)):
        dataset[i]
    return time.process_time() - began


if __name__ == "__main__":
    verb, place, last = sys.argv[1:]
    if verb == "write":
        write(Path(place), Path(last))
    else:
        print(*(read(Path(place)) for _ in range(int(last))))
