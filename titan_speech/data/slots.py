"""Which rank computes which slot of a step, and when.

In: packs a step P, ranks W that read different data, packs b a rank computes at once. Out: the slots of one rank's
microbatches, -1 where there is nothing left to compute.

Step t covers slots [start + tP, start + (t+1)P). They are dealt out in A = ceil(P / (W b)) microbatches of W b slots,
rank r taking the r-th run of b; what A W b has beyond P is filled with packs nobody trains on. So every world size
reads the same slots in a step, and a fill-up costs compute only: 256 packs on 24 ranks at 8 compute 384.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from titan_speech.data.pack import FILLER


@dataclass(frozen=True)
class StepShape:
    """How a step is spread over ranks."""

    packs_per_step: int
    dp_degree: int
    local_batch_packs: int

    @property
    def num_microbatches(self) -> int:
        return -(-self.packs_per_step // (self.dp_degree * self.local_batch_packs))

    def microbatch_slots(self, first_slot: int, microbatch: int, dp_rank: int) -> list[int]:
        """Slots of one rank's microbatch in the step that begins at `first_slot`."""
        first = (microbatch * self.dp_degree + dp_rank) * self.local_batch_packs
        places = range(first, first + self.local_batch_packs)
        return [first_slot + i if i < self.packs_per_step else FILLER for i in places]


@dataclass(frozen=True)
class SlotBatches:
    """Batch sampler: one rank's microbatches from a slot on, without end."""

    shape: StepShape
    dp_rank: int
    first_slot: int

    def __iter__(self) -> Iterator[list[int]]:
        first_slot = self.first_slot
        while True:
            for microbatch in range(self.shape.num_microbatches):
                yield self.shape.microbatch_slots(first_slot, microbatch, self.dp_rank)
            first_slot += self.shape.packs_per_step
