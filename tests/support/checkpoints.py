"""Small real checkpoints for tests: weights, Adam's moments and counters, saved by DCP in a world of one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist

from titan_speech.checkpoint.commit import Commit, FileRecord, Kind, checkpoint_path
from titan_speech.checkpoint.saver import SaveJob, Saver, SaveResult


@contextmanager
def world_of_one(folder: Path) -> Iterator[None]:
    """A process group of this process alone."""
    store = dist.FileStore(str(folder / f"store-{os.getpid()}"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


def state(value: float, num_rows: int = 64) -> dict[str, object]:
    """As TorchTitan lays it out: weights at the top, all else under its key."""
    return {
        "tok_embeddings.weight": torch.full((num_rows, 16), value),
        "norm.weight": torch.full((16,), value),
        "optimizer": {"state.norm.weight.exp_avg": torch.full((16,), value / 2)},
        "train_state": {"step": torch.tensor(int(value))},
    }


def nothing_beside() -> tuple[FileRecord, ...]:
    return ()


def save_job(folder: Path, step: int, kind: Kind = "full") -> SaveJob:
    return SaveJob(checkpoint_path(folder, step), step, kind, "schedule", 1, nothing_beside)


def save(folder: Path, step: int, async_mode: str = "disabled") -> Commit:
    """One committed checkpoint whose tensors hold the step."""
    ended = try_to_save(folder, step, async_mode)
    assert ended.commit is not None, ended.error
    return ended.commit


def try_to_save(folder: Path, step: int, async_mode: str = "disabled") -> SaveResult:
    saver = Saver(async_mode)
    saver.start(state(float(step)), save_job(folder, step), wait=False)
    try:
        return saver.settle()
    finally:
        saver.close()
