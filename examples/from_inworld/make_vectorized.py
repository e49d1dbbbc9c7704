"""Write a vectorized folder as the open Inworld TTS trainer's `data_vectorizer.py` and `data_merger.py` leave it.

In: transcribed speech of the bundled store. Out: OUTPUT/train_codes.npy (raw int32, without a npy header in spite of
its name), train_codes_index.npy (where each sample begins), train_samples.jsonl.

    python3 examples/from_inworld/make_vectorized.py --store demo_data --language en --output vectorized
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from titan_speech.store.reader import open_store


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, default=Path("demo_data"))
    parser.add_argument("--language", default="en")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    parts = open_store(arguments.store).parts
    part = next(part for part in parts if part.language == arguments.language and "native" in part.variants)
    arguments.output.mkdir(parents=True)
    codes = [part.codes(i) for i in range(part.num_samples)]
    np.concatenate(codes).astype("<i4").tofile(arguments.output / "train_codes.npy")
    starts = np.cumsum([0, *(len(codes_T) for codes_T in codes[:-1])])
    np.save(arguments.output / "train_codes_index.npy", starts.astype(np.int64))
    with (arguments.output / "train_samples.jsonl").open("w", encoding="utf-8") as file:
        for i in range(part.num_samples):
            row = part.row(i)
            line = {
                "id": row.sample_id,
                "dataset_name": row.dataset_source,
                "speaker_id": row.speaker_id,
                "language": row.language,
                "transcript": row.transcript_native,
                "sample_rate": 16_000,
                "duration": len(codes[i]) / 50,
            }
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    print(f"{arguments.output}: {part.num_samples} samples")


if __name__ == "__main__":
    main()
