"""Speed and size of the data path; JSON on stdout.

    python -m benchmarks.data_path [--quick] [--large-samples 80000000] [--parts reading packing planning] [--into FILE]

In: nothing; a store of random codes and a large store without content (large_store.py) are made here. Out: each metric
with device, commit and the rates of plain memmap copies in the same run, since ratios are comparable between machines
and absolute values are not. Parts can be measured separately: `--into` updates their values in a file.

- Reading. Copies and reading take turns over 32 packs at a time; of 25 turns the fastest counts, in CPU time, which
  other load disturbs least. So files and the last batches are warm for all of them. `copy_blocks` copies 2,048
  neighbouring codes at a time, `copy_pieces` codes in pieces of the sizes that the packs hold, at random places,
  `copy_arrays` the stored arrays that the packs are made of (a clone document is four of them). Reading is the full
  path: order of the documents, packing, collation and batch, three int64 tensors.
- Packing. Fill on two spreads of lengths, with the upper bound of any packing of the block: all tokens, or a pack for
  each sample above half of one. Padding of the bundled data: its fraction of the packs, by task.
- Planning. The large store (planning.py).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.large_store import speech_lengths
from benchmarks.machine import git_revision, seconds, write_results
from benchmarks.planning import FAR_SLOT, SEQ_LEN, TOKENIZER, config_of, large_figures
from titan_speech.data.loader import PlanDataset, SpeechDataLoader, as_batch
from titan_speech.data.pack_layout import Pack
from titan_speech.data.packing import BLOCK_DOCUMENTS, PackCounts, num_best_fit
from titan_speech.data.plan import DataPlan
from titan_speech.store.manifest import CodecInfo
from titan_speech.store.sample import SampleInfo
from titan_speech.store.writer import StoreWriter
from titan_speech.tokenization.text_tokenizer import TextTokenizer

BATCH_PACKS, WINDOW_PACKS, NUM_TURNS = 8, 32, 25
WIDE_GROUP = 65_536
BUNDLED = Path("demo_data")
PARTS = ("reading", "packing", "planning")
RUNS = ("copy_blocks", "copy_pieces", "copy_arrays", "")
"""What is compared; the last is reading."""


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


def reading_figures(store: Path, name: str, *tasks: str, num_packs: int) -> dict[str, float]:
    """Tokens per second through the whole path, and of plain copies, in turns."""
    plan = DataPlan.load(config_of(store, *tasks))
    found = {f"{name}_first_pack_at_slot_1e9_ms": 1e3 * seconds(lambda: plan.pack(FAR_SLOT))}
    dataset = PlanDataset(plan)
    codes = np.memmap(next(store.glob("*speech/00000.tokens")), np.uint16, "r")
    num_tokens: dict[str, int] = dict.fromkeys(RUNS, 0)
    spent_sec: dict[str, float] = dict.fromkeys(RUNS, 0.0)
    num_documents = 0
    for first in range(0, num_packs, WINDOW_PACKS):
        slots = range(first, first + WINDOW_PACKS)
        packs = [plan.pack(slot) for slot in slots]  # opens and checks the shards
        num_documents += sum(pack.num_documents for pack in packs)
        arrays = [array for pack in packs for array in stored_arrays(plan, pack)]
        sizes = [stop - start for pack in packs for *_, start, stop in pack.pieces]
        blocks, pieces = random_places(codes, [SEQ_LEN] * WINDOW_PACKS), random_places(codes, sizes)
        copied = {
            "copy_blocks": WINDOW_PACKS * SEQ_LEN,
            "copy_pieces": sum(sizes),
            "copy_arrays": sum(map(len, arrays)),
        }
        runs: dict[str, Callable[[], Any]] = {
            "copy_blocks": lambda blocks=blocks: last_of(np.array(codes[place]) for place in blocks),
            "copy_pieces": lambda pieces=pieces: last_of(np.array(codes[place]) for place in pieces),
            "copy_arrays": lambda arrays=arrays: last_of(np.array(array[:]) for array in arrays),
        }
        batches = [list(slots[i : i + BATCH_PACKS]) for i in range(0, WINDOW_PACKS, BATCH_PACKS)]
        runs[""] = lambda batches=batches: last_of(as_batch(dataset.__getitems__(batch)) for batch in batches)
        turns = [{key: seconds(run, time.process_time) for key, run in runs.items()} for _ in range(NUM_TURNS)]
        for key in RUNS:
            spent_sec[key] += min(turn[key] for turn in turns)
            num_tokens[key] += copied.get(key, WINDOW_PACKS * SEQ_LEN)
    spent_sec[""] += num_packs * group_sec_per_pack(plan)
    rates = {key: num_tokens[key] / spent_sec[key] / 1e6 for key in RUNS}
    found |= {"_".join(filter(None, (name, key, "mtok_per_sec"))): rate for key, rate in rates.items()}
    found |= {f"{name}_to_{key}": rates[""] / rates[key] for key in RUNS if key}
    fill = float(np.mean([stream.mean_fill for stream in plan.streams]))
    return found | {f"{name}_documents_a_pack": num_documents / num_packs, f"{name}_fill": fill}


def stored_arrays(plan: DataPlan, pack: Pack) -> list[np.ndarray]:
    """The stored arrays of a pack: one for each field of each document."""
    documents = plan.streams[pack.stream].documents
    columns = (documents[piece.part].columns([piece.document]) for piece in pack.pieces)
    return [np.asarray(column[0]) for some in columns for column in some]


def random_places(codes: np.ndarray, sizes: list[int]) -> list[slice]:
    starts = np.random.default_rng(0).integers(0, len(codes) - SEQ_LEN, len(sizes)).tolist()
    return [slice(start, start + size) for start, size in zip(starts, sizes, strict=True)]


def last_of(made: Iterator[Any]) -> deque[Any]:
    """Keep the last four, as prefetching does; a trainer has released the others."""
    return deque(made, maxlen=4)


def group_sec_per_pack(plan: DataPlan) -> float:
    """Time to order the documents of a block, per pack; mean of the streams weighted by their packs."""
    total_sec, total_quota = 0.0, 0
    for stream in plan.streams:
        partition = stream.stream.partition(0)
        turns = []
        for _ in range(NUM_TURNS):
            partition.ordered_block.cache_clear()
            turns.append(seconds(lambda partition=partition: partition.pieces(0), time.process_time))
        total_sec += (
            stream.quota
            * min(turns)
            * len(partition.block_range)
            / (stream.stream.counts.num_packs / stream.stream.num_partitions)
        )
        total_quota += stream.quota
    return total_sec / total_quota


def loader_mtok_per_sec(plan: DataPlan, num_workers: int, num_batches: int = 150) -> float:
    config = SpeechDataLoader.Config(plan=plan, packs_per_step=64, num_workers=num_workers)
    with closing(config.build(dp_world_size=1, dp_rank=0, local_batch_size=8)) as loader:
        batches = iter(loader)
        _ = list(islice(batches, 20))
        spent = seconds(lambda: list(islice(batches, num_batches)))
    return num_batches * 8 * SEQ_LEN / spent / 1e6


def state_bytes(plan: DataPlan) -> int:
    config = SpeechDataLoader.Config(plan=plan, packs_per_step=64)
    with closing(config.build(dp_world_size=1, dp_rank=0, local_batch_size=8)) as loader:
        return len(json.dumps(loader.state_dict()))


def fill_figures() -> Iterator[tuple[str, float]]:
    for name, lengths in (
        ("lognormal_9s", speech_lengths(WIDE_GROUP) + 30),
        ("uniform_2_to_40s", np.random.default_rng(0).integers(100, 2_000, WIDE_GROUP) + 30),
    ):
        groups = lengths.reshape(-1, BLOCK_DOCUMENTS)
        yield f"fill_best_fit_{name}", fill(groups, num_best_fit)
        yield f"fill_bound_{name}", fill(groups, least_packs)
        yield f"fill_best_fit_{name}_groups_of_{WIDE_GROUP}", fill(lengths.reshape(-1, WIDE_GROUP), num_best_fit)
        yield f"fill_next_fit_{name}", float(lengths.sum() / (next_fit(lengths) * SEQ_LEN))


def fill(groups: np.ndarray, num_packs: Callable[[np.ndarray, int], int]) -> float:
    return float(groups.sum() / (sum(num_packs(group, SEQ_LEN) for group in groups) * SEQ_LEN))


def least_packs(lengths: np.ndarray, capacity: int) -> int:
    """Lower bound of the number of packs."""
    return max(-(-int(lengths.sum()) // capacity), int((2 * lengths > capacity).sum()))


def bundled_waste() -> Iterator[tuple[str, float]]:
    """Fraction of padding in the packs of the bundled data, over all its languages."""
    for task in ("speech", "continuation", "tts", "clone", "text"):
        streams = DataPlan.load(config_of(BUNDLED, task)).streams
        counts = sum((stream.stream.counts for stream in streams), PackCounts())
        yield f"bundled_waste_{task}", 1 - counts.num_tokens / (counts.num_packs * SEQ_LEN)


def next_fit(lengths: np.ndarray) -> int:
    """Packs when a new one is opened whenever a sample does not fit."""
    num_packs, free = 1, SEQ_LEN
    for length in lengths.tolist():
        if length > free:
            num_packs, free = num_packs + 1, SEQ_LEN
        free -= length
    return num_packs


def reading(folder: Path, num_samples: int, num_packs: int) -> dict[str, float]:
    store = folder / "store"
    build_store(store, num_samples)
    found: dict[str, float] = {}
    for tasks in (("speech",), ("tts",), ("clone",), ("text",), ("speech", "tts", "text")):
        found |= reading_figures(store, "mixed" if len(tasks) > 1 else tasks[0], *tasks, num_packs=num_packs)
    plan = DataPlan.load(config_of(store, "speech", "tts", "text"))
    found["state_bytes"] = state_bytes(plan)
    return found | {f"loader_{workers}_workers_mtok_per_sec": loader_mtok_per_sec(plan, workers) for workers in (0, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small store, a large one of at most 2 M samples")
    parser.add_argument("--large-samples", type=int, default=80_000_000, help="of the large store; 0: none is planned")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what is measured (default: all)")
    parser.add_argument("--into", type=Path, help="a file of earlier figures, of which those of the parts are renewed")
    args = parser.parse_args()
    warnings.filterwarnings("ignore", message=".*set_vital.*")
    found: dict[str, Any] = {"device": platform.machine(), "cores": os.cpu_count()}
    with tempfile.TemporaryDirectory() as folder:
        num_large = min(args.large_samples, 2_000_000) if args.quick else args.large_samples
        parts: dict[str, Callable[[], dict[str, float]]] = {
            "reading": lambda: reading(Path(folder), *((6_000, 320) if args.quick else (60_000, 960))),
            "packing": lambda: dict(fill_figures()) | dict(bundled_waste()),
            "planning": lambda: large_figures(Path(folder, "large"), num_large) if num_large else {},
        }
        for part in args.parts:
            figures = {name: round(value, 4) for name, value in parts[part]().items()}
            found |= {f"{part}_commit": git_revision(), f"{part}_load": os.getloadavg()[0], **figures}
    if args.into is None:
        print(json.dumps(found, indent=1))
    else:
        earlier = json.loads(args.into.read_text()) if args.into.exists() else {}
        write_results(args.into, earlier | found)


if __name__ == "__main__":
    main()
