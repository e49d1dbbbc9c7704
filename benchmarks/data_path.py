"""Speed and size of the data path; JSON on stdout.

    python benchmarks/data_path.py [--samples 60000] [--synthetic-samples 2000000]

In: nothing; a store of random codes and a large synthetic part in memory are made here. Out: for each figure its value,
with device, commit and the rate of a plain memmap copy of the same shards in the same run, since ratios travel between
machines and absolute figures do not. CPU time is taken where one process does one thing, so neighbours count less.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from titan_speech.config.tables import DataTable, SourceTable, SpeechConfig, TokenizerTable, TrainingTable
from titan_speech.data.groups import Groups
from titan_speech.data.lanes import LanedStream
from titan_speech.data.loader import SpeechDataLoader
from titan_speech.data.packing import best_fit
from titan_speech.data.plan import DataPlan
from titan_speech.data.streams import Rules, SplitStream, WholeStream, split_counts, whole_counts
from titan_speech.store.builder import StoreWriter
from titan_speech.store.manifest import CodecInfo
from titan_speech.store.samples import SampleInfo
from titan_speech.text_tokenizer import TextTokenizer

SEQ_LEN = 2_048
TOKENIZER = "tokenizer/tiny"
FAR_SLOT = 10**9


def speech_lengths(num_samples: int, seed: int = 0) -> np.ndarray:
    """Codes of segments of 1 to 40 s, 9.5 s on average."""
    return np.random.default_rng(seed).lognormal(6.0, 0.6, num_samples).clip(50, 2_000).astype(np.int32)


def build_store(path: Path, num_samples: int) -> None:
    rng = np.random.default_rng(1)
    tokenizer = TextTokenizer.load(TOKENIZER)
    codec = CodecInfo("random", "0" * 16)
    text = "the quick brown fox jumps over the lazy dog and says so "
    with StoreWriter(
        path, name="random", codec=codec, tokenizer=tokenizer, normalization_version="1", licence="CC0-1.0"
    ) as writer:
        for i, length in enumerate(speech_lengths(num_samples)):
            info = SampleInfo(sample_id=f"s{i}", dataset_source="random", language="en", speaker_id=str(i % 997))
            codes = rng.integers(0, 65_536, length, dtype=np.uint16)
            writer.add_speech(info, codes, {"native": text * int(1 + length // 400)})
        for i in range(num_samples // 5):
            info = SampleInfo(sample_id=f"t{i}", dataset_source="pages", language="en")
            writer.add_text(info, text * int(rng.integers(10, 60)))


def config_of(store: Path, *tasks: str) -> SpeechConfig:
    sources = [SourceTable(name=task, store=str(store), task=task, share=1 / len(tasks)) for task in tasks]  # type: ignore[arg-type]
    return SpeechConfig(
        tokenizer=TokenizerTable(path=TOKENIZER),
        data=DataTable(source=tuple(sources)),
        training=TrainingTable(seq_len=SEQ_LEN, global_batch_tokens=64 * SEQ_LEN, target_tokens=10**11),
    )


def seconds(run: Callable[[], Any], clock: Callable[[], float] = time.perf_counter) -> float:
    began = clock()
    run()
    return clock() - began


def memmap_copy_tokens_per_sec(store: Path) -> float:
    """Every shard copied in pieces of one pack."""
    arrays = [np.memmap(path, np.uint16, "r") for path in sorted(store.glob("*speech/*.tokens"))]

    def copy() -> None:
        for array in arrays:
            for start in range(0, len(array) - SEQ_LEN, SEQ_LEN):
                np.array(array[start : start + SEQ_LEN])

    copy()
    return sum(map(len, arrays)) / seconds(copy, time.process_time)


def path_figures(store: Path, name: str, *tasks: str, num_packs: int = 6_000) -> Iterator[tuple[str, float]]:
    plan = DataPlan.load(config_of(store, *tasks))
    yield f"{name}_first_pack_at_slot_1e9_ms", 1e3 * seconds(lambda: plan.pack(FAR_SLOT))
    yield f"{name}_state_at_slot_1e9_ms", 1e3 * seconds(lambda: plan.order.locate(FAR_SLOT))
    _ = [plan.pack(slot) for slot in range(num_packs)]  # opens and checks all shards
    later = range(num_packs, 2 * num_packs)
    spent = seconds(lambda: [plan.pack(slot) for slot in later], time.process_time)
    yield f"{name}_mtok_per_sec", num_packs * SEQ_LEN / spent / 1e6
    yield f"{name}_fill", float(np.mean([stream.mean_fill for stream in plan.streams]))


def loader_mtok_per_sec(plan: DataPlan, num_workers: int, num_batches: int = 150) -> float:
    config = SpeechDataLoader.Config(plan=plan, packs_per_step=64, num_workers=num_workers)
    with closing(config.build(dp_world_size=1, dp_rank=0, local_batch_size=8)) as loader:
        batches = iter(loader)
        _ = list(islice(batches, 20))
        spent = seconds(lambda: list(islice(batches, num_batches)))
    return num_batches * 8 * SEQ_LEN / spent / 1e6


class SyntheticDocuments:
    """Lengths of many samples in memory; nothing to read."""

    part: Any = None

    def __init__(self, num_samples: int) -> None:
        self.length_N = speech_lengths(num_samples) + np.int32(30)
        self.num_documents = num_samples

    def lengths(self, start: int, stop: int) -> np.ndarray:
        return self.length_N[start:stop]

    def samples(self, i: int) -> tuple[int, ...]:
        return (i,)

    def document(self, i: int) -> Any:
        raise AssertionError("nothing to read")


def large_figures(num_samples: int) -> Iterator[tuple[str, float]]:
    """Planning cost per million samples, and the reach of any position, on a large part."""
    groups = Groups((SyntheticDocuments(num_samples),))
    streams: list[LanedStream] = []
    rules = Rules(SEQ_LEN)
    for name, make in (
        ("split", lambda: streams.append(LanedStream("s", groups, rules, split_counts(groups, rules), SplitStream))),
        ("whole", lambda: streams.append(LanedStream("w", groups, rules, whole_counts(groups, rules), WholeStream))),
    ):
        yield f"plan_{name}_sec_per_million_samples", seconds(make, time.process_time) / num_samples * 1e6
        far = FAR_SLOT
        yield f"far_pack_{name}_ms", 1e3 * seconds(lambda far=far: streams[-1].pieces(far))


def fill_figures() -> Iterator[tuple[str, float]]:
    for name, lengths in (
        ("lognormal_9s", speech_lengths(40_960) + 30),
        ("uniform_2_to_40s", np.random.default_rng(0).integers(100, 2_000, 40_960) + 30),
    ):
        groups = lengths.reshape(-1, 4_096)
        num_packs = sum(best_fit(sorted(group.tolist(), reverse=True), SEQ_LEN)[1] for group in groups)
        yield f"fill_best_fit_{name}", float(lengths.sum() / (num_packs * SEQ_LEN))
        yield f"fill_next_fit_{name}", float(lengths.sum() / (next_fit(lengths) * SEQ_LEN))


def next_fit(lengths: np.ndarray) -> int:
    """Packs when a new one is opened whenever a sample does not fit."""
    num_packs, free = 1, SEQ_LEN
    for length in lengths.tolist():
        if length > free:
            num_packs, free = num_packs + 1, SEQ_LEN
        free -= length
    return num_packs


def figures(folder: Path, num_samples: int, num_synthetic: int) -> dict[str, float]:
    store = folder / "store"
    build_store(store, num_samples)
    found = {"memmap_copy_mtok_per_sec": memmap_copy_tokens_per_sec(store) / 1e6}
    for name, tasks in (("speech", ("speech",)), ("tts", ("tts",)), ("mixed", ("speech", "tts", "text"))):
        found |= dict(path_figures(store, name, *tasks))
    plan = DataPlan.load(config_of(store, "speech", "tts", "text"))
    found |= {f"loader_{workers}_workers_mtok_per_sec": loader_mtok_per_sec(plan, workers) for workers in (0, 2)}
    found |= dict(fill_figures()) | dict(large_figures(num_synthetic))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=60_000)
    parser.add_argument("--synthetic-samples", type=int, default=2_000_000)
    args = parser.parse_args()
    warnings.filterwarnings("ignore", message=".*set_vital.*")
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    with tempfile.TemporaryDirectory() as folder:
        found = figures(Path(folder), args.samples, args.synthetic_samples)
    about = {"device": platform.machine(), "cores": os.cpu_count(), "commit": commit.stdout.strip()}
    print(json.dumps({**about, **{name: round(value, 4) for name, value in found.items()}}, indent=1))


if __name__ == "__main__":
    main()
