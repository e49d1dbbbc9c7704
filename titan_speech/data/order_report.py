"""What all ranks of a run read together, slot by slot: the logic of `titan-speech data order`.

In: a configuration, a range of slots, a number of ranks. Out: one line a slot with its stream, a digest of its pack and
the samples in it, or one digest over all. Packs are taken from the loader of every simulated rank, fillers included,
and put back into slot order, so equal digests at two world sizes mean equal training data. It keeps one step in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from itertools import islice

import torch
import xxhash

from titan_speech.config.budget import Budget, data_parallel_degree
from titan_speech.config.tables import SpeechConfig
from titan_speech.data.labels import IGNORE_INDEX
from titan_speech.data.loader import SpeechDataLoader
from titan_speech.data.pack import FILLER, pack_digest
from titan_speech.data.plan import DataPlan, SampleRef
from titan_speech.data.slots import SlotBatches

MAX_NAMED_PIECES = 6


def order_lines(config: SpeechConfig, start: int, count: int, world_size: int = 1) -> Iterator[str]:
    """A header, then one line for each slot."""
    plan = DataPlan.load(config)
    budget = Budget.from_config(config)
    ranks = data_parallel_degree(config.parallelism, world_size)
    yield (
        f"plan {plan.fingerprint}, {budget.packs_per_step:,} packs a step, {ranks:,} data-parallel ranks, "
        f"{budget.filler_packs(ranks):,} filler packs a step"
    )
    for slot, digest in read_slots(config, plan, start, count, world_size):
        pack = plan.pack(slot)
        refs = [_reference(ref) for ref in plan.sample_refs(pack, MAX_NAMED_PIECES)]
        more = pack.num_documents - len(refs)
        samples = "  ".join(refs + ([f"and {more} more"] if more else []))
        yield f"{slot}  {plan.streams[pack.stream].name}  {digest}  {samples}"


def _reference(ref: SampleRef) -> str:
    return f"{'+'.join(ref.sample_ids)}[{ref.start}:{ref.stop}]"


def order_digest(config: SpeechConfig, start: int, count: int, world_size: int = 1) -> str:
    """One line: digest of all packs of the slots in order, plan, range."""
    plan = DataPlan.load(config)
    total = xxhash.xxh3_128()
    for slot, digest in read_slots(config, plan, start, count, world_size):
        total.update(f"{slot}:{digest};".encode())
    return f"{total.hexdigest()}  plan {plan.fingerprint}  slots {start}..{start + count - 1}"


def read_slots(
    config: SpeechConfig, plan: DataPlan, start: int, count: int, world_size: int
) -> Iterator[tuple[int, str]]:
    """Slot and digest of its pack, in slot order, from the loaders of all ranks in step."""
    budget = Budget.from_config(config)
    dp_degree = data_parallel_degree(config.parallelism, world_size)
    with ExitStack() as stack:
        ranks = [_rank_rows(config, plan, budget, start, rank, dp_degree, stack) for rank in range(dp_degree)]
        for first in range(start, start + count, budget.packs_per_step):
            rows = budget.accumulation(dp_degree) * budget.local_batch_packs
            step = dict(row for rank in ranks for row in islice(rank, rows))
            step.pop(FILLER, None)
            expected = range(first, first + budget.packs_per_step)
            assert sorted(step) == list(expected), f"ranks read slots {sorted(step)}, expected {expected}"
            yield from ((slot, step[slot]) for slot in expected if slot < start + count)


def _rank_rows(
    config: SpeechConfig,
    plan: DataPlan,
    budget: Budget,
    start: int,
    dp_rank: int,
    dp_degree: int,
    stack: ExitStack,
) -> Iterator[tuple[int, str]]:
    """Slot and digest of every pack one rank computes."""
    loader = SpeechDataLoader.Config(
        plan=plan,
        packs_per_step=budget.packs_per_step,
        num_workers=config.data.num_workers,
        num_prefetch_batches=config.data.num_prefetch_batches,
    ).build(dp_world_size=dp_degree, dp_rank=dp_rank, local_batch_size=budget.local_batch_packs)
    stack.enter_context(closing(loader))
    loader.next_slot = start
    slot_batches = SlotBatches(loader.shape, plan.places, dp_rank, start)
    for slots, (inputs, labels_BL) in zip(slot_batches, loader, strict=False):
        for slot, *row in zip(slots, inputs["input"], labels_BL, inputs["positions"], strict=True):
            yield slot, _row_digest(slot, *row)


def _row_digest(slot: int, ids_L: torch.Tensor, labels_L: torch.Tensor, positions_L: torch.Tensor) -> str:
    is_trained = bool((labels_L != IGNORE_INDEX).any())
    assert slot != FILLER or not is_trained, "a filler pack has labels"
    return pack_digest(ids_L.numpy(), labels_L.numpy(), positions_L.numpy())
