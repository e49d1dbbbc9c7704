"""Counts the samples of a store that each task can read.

In: the sidecars of a store's parts. Out: `TaskTotals` for every part and task with samples, which a manifest keeps
under `totals.task`. A sample counts for tts when it has a transcript in some variant, for clone when another
transcribed sample of its part has the same speaker, for continuation from two codes on, for preference when it is one
of the two answers to a prompt; a text sample counts for instruction when it has a user's words, else for text. The data
plan decides which of them fit into a sequence.

Reads five columns; speakers are counted by hash, 12 bytes per speaker of a shard, prompts of answers by 8 bytes each.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from titan_speech.store.external_sort import order_keys
from titan_speech.store.files import StoreFiles
from titan_speech.store.manifest import Kind, PartInfo, TaskTotals
from titan_speech.store.sample import CHOSEN, REJECTED, TRANSCRIPT_VARIANTS
from titan_speech.store.shard_reader import read_sidecar
from titan_speech.tokenization.prompt_template import PREFERENCE, Task

NUM_THREADS = 4


def count_tasks(files: StoreFiles, parts: Iterable[PartInfo]) -> tuple[TaskTotals, ...]:
    """Totals of all parts, as a manifest holds them."""

    def totals_of(part: PartInfo) -> list[TaskTotals]:
        counts = _speech_counts(files, part) if part.kind is Kind.SPEECH else _text_counts(part)
        return [TaskTotals(part.folder, task, num_samples) for task, num_samples in counts.items() if num_samples]

    with ThreadPoolExecutor(NUM_THREADS) as pool:
        return tuple(sorted(totals for some in pool.map(totals_of, parts) for totals in some))


def _speech_counts(files: StoreFiles, part: PartInfo) -> dict[str, int]:
    variants = [variant.name for variant in part.variants if variant.name in TRANSCRIPT_VARIANTS]
    counts: dict[str, int] = dict.fromkeys((Task.SPEECH.value, Task.CONTINUATION, Task.TTS, Task.CLONE), 0)
    prompts: dict[str, list[NDArray[np.uint64]]] = {CHOSEN: [], REJECTED: []}
    speakers: list[tuple[NDArray, NDArray]] = []
    for shard in part.shards:
        columns = ["sample_id", "code_len", "speaker_id", *(f"text_len_{name}" for name in variants)]
        table = read_sidecar(files, part, shard, columns)
        has_text_N = np.zeros(table.num_rows, np.bool_)
        for name in variants:
            has_text_N |= table[f"text_len_{name}"].to_numpy() > 0
        counts[Task.SPEECH] += table.num_rows
        counts[Task.CONTINUATION] += int((table["code_len"].to_numpy() >= 2).sum())
        counts[Task.TTS] += int(has_text_N.sum())
        speakers.append(_speakers(table["speaker_id"].filter(pa.array(has_text_N))))
        for which, found in prompts.items():
            found.append(_prompts(table["sample_id"].filter(pa.array(has_text_N)), which))
    counts[Task.CLONE] = _num_paired(speakers)
    chosen, rejected = (np.concatenate(found) for found in prompts.values())
    counts[PREFERENCE] = 2 * len(np.intersect1d(chosen, rejected))
    return counts


def _prompts(sample_id_N: pa.ChunkedArray, which: str) -> NDArray[np.uint64]:
    """Hashes of the prompts that have such an answer, `CHOSEN` or `REJECTED`."""
    ids_N = sample_id_N.filter(pc.ends_with(sample_id_N, which))
    return order_keys(pc.utf8_slice_codeunits(ids_N, 0, -len(which)), seed=0) if len(ids_N) else np.empty(0, np.uint64)


def _speakers(names: pa.ChunkedArray) -> tuple[NDArray[np.uint64], NDArray[np.uint32]]:
    """Hash of each speaker and number of its samples."""
    counted = names.drop_null().value_counts()
    if not len(counted):
        return np.empty(0, np.uint64), np.empty(0, np.uint32)
    keys = order_keys(pa.chunked_array([counted.field("values")]), seed=0)
    return keys, counted.field("counts").to_numpy().astype(np.uint32)


def _num_paired(speakers: list[tuple[NDArray, NDArray]]) -> int:
    """Samples of speakers who have more than one."""
    keys = np.concatenate([key for key, _ in speakers])
    counts = np.concatenate([count for _, count in speakers])
    _, speaker = np.unique(keys, return_inverse=True)
    total = np.bincount(speaker, weights=counts)
    return int(total[total >= 2].sum())


def _text_counts(part: PartInfo) -> dict[str, int]:
    num_instructions = sum(variant.num_samples for variant in part.variants)
    return {Task.TEXT: part.num_samples - num_instructions, Task.INSTRUCTION: num_instructions}
