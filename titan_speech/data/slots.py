"""Which rank computes which slot of a step, and when.

In: packs per step P, data-parallel ranks W, packs per microbatch of a rank b, and the locality key of each slot
(shuffle_partitions.py). Out: the slots of one rank's microbatches; -1 is a padding slot, which no pack is read for.

Step t covers slots [start + tP, start + (t+1)P). Sorted by locality key they are divided into W runs of equal length
(to one slot); rank r takes the r-th run, in A = ceil(P / (W b)) microbatches of b; what A b has beyond the run is
filled with padding packs, which are not trained on. So every world size reads the same slots in a step, a rank keeps
to its part of each stream's shards, and padding costs compute only: 256 packs on 24 ranks at 8 compute 384. A pipeline
takes the b packs in equal parts, one after the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from titan_speech.config.budget import num_microbatches
from titan_speech.data.pack_layout import PADDING_SLOT
from titan_speech.data.shuffle_partitions import LocalityKeysOf


@dataclass(frozen=True)
class StepShape:
    """How a step is divided among ranks."""

    packs_per_step: int
    dp_degree: int
    local_batch_packs: int
    passes: int = 1
    """Equal parts in which a pipeline takes a rank's packs; each is a microbatch of its own."""

    @property
    def num_microbatches(self) -> int:
        return num_microbatches(self.packs_per_step, self.dp_degree, self.local_batch_packs) * self.passes

    @property
    def microbatch_packs(self) -> int:
        return self.local_batch_packs // self.passes

    def slots_of_rank(self, key_P: NDArray[np.int64], dp_rank: int) -> list[int]:
        """Which of the step's slots, counted from 0, a rank computes, in the order of their locality keys."""
        begin, end = (rank * self.packs_per_step // self.dp_degree for rank in (dp_rank, dp_rank + 1))
        return np.argsort(key_P, kind="stable")[begin:end].tolist()

    def microbatches(self, first_slot: int, key_P: NDArray[np.int64], dp_rank: int) -> list[list[int]]:
        """Slots of one rank's microbatches in the step that begins at `first_slot`."""
        slots = [first_slot + i for i in self.slots_of_rank(key_P, dp_rank)]
        size = self.microbatch_packs
        slots += [PADDING_SLOT] * (self.num_microbatches * size - len(slots))
        return [slots[i : i + size] for i in range(0, len(slots), size)]


@dataclass(frozen=True)
class SlotBatches:
    """Batch sampler: the slots of one rank's microbatches from `first_slot` on, without end."""

    shape: StepShape
    locality_keys: LocalityKeysOf
    dp_rank: int
    first_slot: int

    def __iter__(self) -> Iterator[list[int]]:
        first_slot, num_slots = self.first_slot, self.shape.packs_per_step
        while True:
            yield from self.shape.microbatches(first_slot, self.locality_keys(first_slot, num_slots), self.dp_rank)
            first_slot += num_slots


def slots_text(slots: Sequence[int]) -> str:
    """Slots in rising order as `titan-speech data show --slots` reads them: 0,4-6."""
    runs: list[list[int]] = []
    for slot in slots:
        if runs and slot == runs[-1][-1] + 1:
            runs[-1].append(slot)
        else:
            runs.append([slot])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
