"""Documents in memory, for tests of streams and packs: no store, any lengths, every token unlike all others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from titan_speech.data.pack_counts import count_packs
from titan_speech.data.packing import PARTITION_BLOCKS, Blocks, PackCounts, PackingRules
from titan_speech.data.shuffle_partitions import PartitionedStream, StreamCursor
from titan_speech.data.streams import START_CURSOR, Cursor, PartitionStream, SplitStream
from titan_speech.tokenization.prompt_template import Document, Task
from titan_speech.tokenization.token_runs import TokenRuns


class ListedDocuments:
    """Document i has `lengths[i]` tokens: BOS (id 0), then `first_id + 1000 * i + 1`, counting up."""

    part: Any = None
    task = Task.SPEECH
    first_code_id = 0
    variants: tuple[str, ...] = ()
    key = "listed"

    def __init__(self, lengths: list[int], first_id: int = 0) -> None:
        self.all_lengths, self.first_id = lengths, first_id

    @property
    def num_documents(self) -> int:
        return len(self.all_lengths)

    def lengths(self, start: int, stop: int) -> np.ndarray:
        return np.array(self.all_lengths[start:stop], np.int32)

    def samples(self, i: int) -> tuple[int, ...]:
        return (i,)

    def token_runs(self, numbers: Sequence[int]) -> TokenRuns:
        ids = [self.document(i).ids_T for i in numbers]
        lengths = [len(ids_T) for ids_T in ids]
        runs = [run for ids_T in ids for run in (ids_T[:1].data, ids_T[1:].data)]
        return TokenRuns(runs, [], [len(run) for run in runs], b"\0\0", lengths, [1] * len(ids))

    def document(self, i: int) -> Document:
        length = self.all_lengths[i]
        ids_T = np.arange(length, dtype=np.int32) + self.first_id + 1000 * i
        ids_T[0] = 0
        trained_T = np.ones(length, np.bool_)
        trained_T[0] = False
        return Document(ids_T, trained_T, 1)


def blocks_of(*parts: list[int], block_documents: int = 8, min_partition_blocks: int = PARTITION_BLOCKS) -> Blocks:
    documents: Any = tuple(ListedDocuments(lengths, 1_000_000 * k) for k, lengths in enumerate(parts))
    return Blocks(documents, block_documents, min_partition_blocks)


def counts_of(kind: type[PartitionStream], blocks: Blocks, rules: PackingRules) -> list[PackCounts]:
    return count_packs(blocks, rules, whole=kind is not SplitStream)


def one_partition(
    kind: type[PartitionStream], key: str, blocks: Blocks, rules: PackingRules, start: Cursor = START_CURSOR
) -> PartitionStream:
    """All blocks as a single partition."""
    return kind(key, blocks, range(blocks.num_blocks), counts_of(kind, blocks, rules), rules, start)


def partitioned(
    kind: type[PartitionStream], key: str, blocks: Blocks, rules: PackingRules, start: StreamCursor | None = None
) -> PartitionedStream:
    return PartitionedStream(key, blocks, rules, counts_of(kind, blocks, rules), kind, start)
