"""What a checkpoint costs training: the time a step waits for a save, and how long a resume takes.

    python benchmarks/checkpoint_stall.py --folder /disk/that/syncs --json outputs/checkpoint_stall.json

100 million parameters with AdamW (1.2 GB) are trained by one dedicated process, and saved as a run saves them: written
with fsync, hashed, committed. A blocking save is compared with a background save: the time a step waits, and the time
lost by steps during the writing. A resume reads every byte twice, once for the checksums; it is compared with DCP's
plain load, from the disk (pages dropped first) and from memory.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp

from benchmarks.machine import seconds, write_results
from titan_speech.checkpoint.commit import file_record
from titan_speech.checkpoint.saver import SaveJob, Saver
from titan_speech.checkpoint.verify import verify

NUM_LAYERS, DIM, BATCH = 24, 2048, 32
NUM_PARAMETERS = NUM_LAYERS * DIM * DIM


@dataclass(frozen=True)
class SaveTimes:
    """One save."""

    mode: str
    waited_sec: float
    """How long the step that saved was held up."""

    complete_after_sec: float
    """Until the marker was there."""

    lost_beside_sec: float
    """What steps lost while the save was written in the background."""


@dataclass(frozen=True)
class LoadTimes:
    """One resume."""

    pages: str
    plain_sec: float
    """dcp.load alone."""

    verified_sec: float
    """Checksums of every file, then dcp.load."""

    plain_cpu_sec: float
    """Of all threads, which other work on the machine does not change much."""

    verified_cpu_sec: float


class Training:
    """A model, AdamW, and a step."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = torch.nn.Sequential(*(torch.nn.Linear(DIM, DIM, bias=False) for _ in range(NUM_LAYERS)))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, fused=True)
        self.input_BD = torch.randn(BATCH, DIM)

    def step(self) -> float:
        """Seconds it took."""
        began = time.perf_counter()
        self.model(self.input_BD).square().mean().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return time.perf_counter() - began

    def state(self) -> dict[str, object]:
        moments = {
            f"{index}.{name}": value
            for index, state in enumerate(self.optimizer.state.values())
            for name, value in state.items()
        }
        return {**self.model.state_dict(), "optimizer": moments}


def saves(mode: str, training: Training, folder: Path, num_saves: int) -> list[SaveTimes]:
    saver, usual_sec = Saver(mode), statistics.median(training.step() for _ in range(5))
    times = []
    for number in range(num_saves):
        shutil.rmtree(folder / "step-1", ignore_errors=True)
        os.sync()
        began = time.perf_counter()
        job = SaveJob(folder / "step-1", 1, "full", "schedule", 1, lambda: ())
        saver.start(training.state(), job, wait=False)
        waited_sec, lost_sec = time.perf_counter() - began, 0.0
        while saver.is_writing:
            lost_sec += training.step() - usual_sec
        assert saver.settle().commit is not None, "the save failed"
        times.append(SaveTimes(mode, waited_sec, time.perf_counter() - began, max(lost_sec, 0.0)))
        print(f"{mode:9} save {number}: waited {waited_sec:.2f} s, {times[-1]}", flush=True)
    saver.close()
    return times


def loads(training: Training, checkpoint: Path, pages: str) -> LoadTimes:
    def plain() -> None:
        dcp.load(training.state(), checkpoint_id=str(checkpoint))

    def verified() -> None:
        assert verify(checkpoint, checksums=True).is_sound, "the checkpoint is damaged"
        plain()

    times, cpu_times = [], []
    for act in (plain, verified):
        if pages == "dropped":
            drop_pages(checkpoint)
        began_cpu = time.process_time()
        times.append(seconds(act))
        cpu_times.append(time.process_time() - began_cpu)
    print(f"pages {pages}: plain {times[0]:.2f} s, verified {times[1]:.2f} s; of the CPU {cpu_times}", flush=True)
    return LoadTimes(pages, *times, *cpu_times)


def drop_pages(checkpoint: Path) -> None:
    """Drop the page cache of these files; they were synced."""
    for path in checkpoint.iterdir():
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def hash_rates(path: Path) -> dict[str, float]:
    """GB per second of one thread, of a file in memory."""
    gigabytes = path.stat().st_size / 1e9
    file_record(path, path.name, "state")
    xxh3_sec = seconds(lambda: file_record(path, path.name, "state"))
    with path.open("rb") as file:
        sha256_sec = seconds(lambda: hashlib.file_digest(file, "sha256"))
    return {"xxh3_128": round(gigabytes / xxh3_sec, 2), "sha256": round(gigabytes / sha256_sec, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="empty folder on the storage to measure")
    parser.add_argument("--json", type=Path, required=True, help="file to write")
    parser.add_argument("--num-saves", type=int, default=4, help="saves of each kind (default: 4)")
    parser.add_argument("--beside", default="nothing known", help="what else ran on the machine, for the record")
    arguments = parser.parse_args()
    load_before = os.getloadavg()[0]
    arguments.folder.mkdir(parents=True, exist_ok=True)
    store = dist.HashStore()
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    training = Training()
    for _ in range(2):
        training.step()
    saved = [
        one for mode in ("disabled", "async") for one in saves(mode, training, arguments.folder, arguments.num_saves)
    ]
    loaded = [
        loads(training, arguments.folder / "step-1", pages) for pages in ("dropped", "in memory") for _ in range(3)
    ]
    num_bytes = sum(path.stat().st_size for path in (arguments.folder / "step-1").iterdir())
    report = summary(saved, loaded) | {
        "num_parameters": NUM_PARAMETERS,
        "checkpoint_bytes": num_bytes,
        "num_threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "beside": arguments.beside,
        "load_average_before_and_after": (round(load_before, 2), round(os.getloadavg()[0], 2)),
        "hash_gb_a_sec": hash_rates(arguments.folder / "step-1" / "__0_state_0.distcp"),
        "saves": [asdict(one) for one in saved],
        "loads": [asdict(one) for one in loaded],
    }
    write_results(arguments.json, report)
    shutil.rmtree(arguments.folder / "step-1")
    dist.destroy_process_group()


def summary(saved: list[SaveTimes], loaded: list[LoadTimes]) -> dict[str, float]:
    """Medians; the first save of each kind, which also allocates the copy, is listed separately."""
    sync, background = ([one for one in saved if one.mode == mode] for mode in ("disabled", "async"))
    sync_sec = statistics.median(one.waited_sec for one in sync)
    waited_sec = statistics.median(one.waited_sec for one in background[1:])
    lost_sec = statistics.median(one.lost_beside_sec for one in background[1:])
    ratios = {
        pages: statistics.median(one.verified_sec / one.plain_sec for one in loaded if one.pages == pages)
        for pages in ("dropped", "in memory")
    }
    cpu_ratio = statistics.median(one.verified_cpu_sec / one.plain_cpu_sec for one in loaded)
    result = {
        "synchronous_sec": sync_sec,
        "async_waited_sec": waited_sec,
        "async_first_waited_sec": background[0].waited_sec,
        "async_lost_beside_sec": lost_sec,
        "stall_ratio": waited_sec / sync_sec,
        "stall_ratio_of_the_first_save": background[0].waited_sec / sync_sec,
        "stall_ratio_with_what_steps_lose": (waited_sec + lost_sec) / sync_sec,
        "resume_ratio_from_disk": ratios["dropped"],
        "resume_ratio_from_memory": ratios["in memory"],
        "resume_ratio_of_cpu_time": cpu_ratio,
    }
    for name, value in result.items():
        print(f"{name:36} {value:.3f}")
    return {name: round(value, 3) for name, value in result.items()}


if __name__ == "__main__":
    main()
