"""Checkpoints made of random bytes, with real commit markers: what uploads see of a run, without a run."""

from __future__ import annotations

import pickle
import time
from pathlib import Path

import numpy as np
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex, StorageMeta

from titan_speech.checkpoint.commit import Commit, FileRecord, Kind, checkpoint_path, file_record
from titan_speech.checkpoint.folders import partial_path, publish

MODEL_BYTES, STATE_BYTES = 40_000, 80_000


def write_checkpoint(
    folder: Path,
    step: int,
    *,
    kind: Kind = "full",
    num_ranks: int = 1,
    seed: int = 0,
    model_bytes: int = MODEL_BYTES,
) -> Path:
    """RUN/checkpoint/step-N as a save leaves it: two files a rank, an index, a record beside it."""
    checkpoint = checkpoint_path(folder, step)
    partial, rng = partial_path(checkpoint), np.random.default_rng([seed, step])
    partial.mkdir(parents=True)
    records = []
    for rank in range(num_ranks):
        records.append(_written(partial, f"__{rank}_model_0.distcp", "model", rng.bytes(model_bytes)))
        if kind == "full":
            records.append(_written(partial, f"__{rank}_state_0.distcp", "state", rng.bytes(STATE_BYTES)))
    records.append(
        _written(partial, ".metadata", "index", _index([file.name for file in records], rng.bytes(250).hex()))
    )
    records += _beside(folder, step)
    publish(checkpoint, Commit(step, kind, "schedule", time.time(), num_ranks, tuple(records)))
    return checkpoint


def _index(names: list[str], save_id: str) -> bytes:
    """As DCP has it, with one piece a file."""
    places = {MetadataIndex(f"piece.{i}"): _StorageInfo(name, 0, 1) for i, name in enumerate(names)}
    return pickle.dumps(Metadata({}, {}, places, StorageMeta(save_id=save_id)))


def _written(folder: Path, name: str, role, data: bytes) -> FileRecord:
    (folder / name).write_bytes(data)
    return file_record(folder / name, name, role)


def _beside(folder: Path, step: int) -> list[FileRecord]:
    texts = {f"provenance/step-{step}.json": f"of step {step}", "data_phases/abc.json": "of all steps"}
    for name, text in texts.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return [file_record(folder / name, name, "beside") for name in texts]


def content(checkpoint: Path) -> dict[str, bytes]:
    """Every file of a checkpoint."""
    return {path.name: path.read_bytes() for path in checkpoint.iterdir()}
