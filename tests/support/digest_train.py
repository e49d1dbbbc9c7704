"""The training entry, which also writes down what each step is trained on.

In: LIFE in the environment, the number of this start of the run. Out: RUN/packs/LIFE-RANK.jsonl, a line for each
microbatch that the trainer took: its step, and for each of its packs the slot and a digest of ids, positions and
labels.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

if not torch.cuda.is_available():
    from titan_speech.utils import cpu

    cpu.prepare()

from titan_speech.data.loader import PlanDataset
from titan_speech.data.pack_layout import PADDING_SLOT, PackedBatch
from titan_speech.train import main
from titan_speech.trainer import SpeechTrainer

slot_of_digest: dict[str, int] = {}
sound_build, sound_batches = PlanDataset._build, SpeechTrainer.batch_generator


def digests(*arrays: Any) -> list[str]:
    """Of each row of arrays of equal shape."""
    rows = zip(*(np.ascontiguousarray(array, np.int64) for array in arrays), strict=True)
    return [hashlib.sha256(b"".join(part.tobytes() for part in row)).hexdigest()[:32] for row in rows]


def build(self: PlanDataset, slots: list[int]) -> PackedBatch:
    packed = sound_build(self, slots)
    slot_of_digest.update(
        zip(digests(packed.ids_BS, packed.positions_BS, packed.labels_BS), map(int, slots), strict=True)
    )
    return packed


def batch_generator(self: SpeechTrainer, data_iterable: Iterable[Any]) -> Iterator[Any]:
    folder = Path(self.config.dump_folder) / "packs"
    folder.mkdir(exist_ok=True)
    with (folder / f"{os.environ['LIFE']}-{torch.distributed.get_rank()}.jsonl").open("a") as file:
        for inputs, labels_BL in sound_batches(self, data_iterable):
            taken = digests(inputs["input"].numpy(), inputs["positions"].numpy(), labels_BL.numpy())
            packs = {slot_of_digest[digest]: digest for digest in taken if slot_of_digest[digest] != PADDING_SLOT}
            file.write(json.dumps({"step": self.step, "packs": packs}) + "\n")
            file.flush()
            yield inputs, labels_BL


PlanDataset._build = build  # type: ignore[method-assign]
SpeechTrainer.batch_generator = batch_generator  # type: ignore[method-assign]

if __name__ == "__main__":
    sys.exit(main())
