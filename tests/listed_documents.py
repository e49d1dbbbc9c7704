"""Documents in memory, for tests of streams and packs: no store, any lengths, every token unlike all others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from titan_speech.data.group_packs import Counts, Rules, split_counts, whole_counts
from titan_speech.data.groups import LANE_GROUPS, Groups
from titan_speech.data.lanes import LanedStream, LaneStream, StreamCursor
from titan_speech.data.streams import START, Cursor, SplitStream
from titan_speech.prompts import Document
from titan_speech.splice import Spliced


class ListedDocuments:
    """Document i has `lengths[i]` tokens: BOS (id 0), then `first_id + 1000 * i + 1`, counting up."""

    part: Any = None
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

    def spliced(self, numbers: Sequence[int]) -> Spliced:
        ids = [self.document(i).ids_T for i in numbers]
        lengths = [len(ids_T) for ids_T in ids]
        runs = [run for ids_T in ids for run in (ids_T[:1].data, ids_T[1:].data)]
        return Spliced(runs, [], [len(run) for run in runs], b"\0\0", lengths, [1] * len(ids))

    def document(self, i: int) -> Document:
        length = self.all_lengths[i]
        ids_T = np.arange(length, dtype=np.int32) + self.first_id + 1000 * i
        ids_T[0] = 0
        trained_T = np.ones(length, np.bool_)
        trained_T[0] = False
        return Document(ids_T, trained_T, 1)


def groups_of(*parts: list[int], group_documents: int = 8, lane_groups: int = LANE_GROUPS) -> Groups:
    documents = tuple(ListedDocuments(lengths, 1_000_000 * k) for k, lengths in enumerate(parts))
    return Groups(documents, group_documents, lane_groups)


def counts_of(kind: type[LaneStream], groups: Groups, rules: Rules) -> list[Counts]:
    return split_counts(groups, rules) if kind is SplitStream else whole_counts(groups, rules)


def one_lane(kind: type[LaneStream], key: str, groups: Groups, rules: Rules, start: Cursor = START) -> LaneStream:
    """All groups as a single lane."""
    return kind(key, groups, range(groups.num_groups), counts_of(kind, groups, rules), rules, start)


def laned(
    kind: type[LaneStream], key: str, groups: Groups, rules: Rules, start: StreamCursor | None = None
) -> LanedStream:
    return LanedStream(key, groups, rules, counts_of(kind, groups, rules), kind, start)
