"""Reading ahead in a thread.

In: an iterator. Out: an iterator over the same items, of which up to `num_items` are made before they are asked for.
An exception of the source is raised where its item would have come. A thread, since worker processes copy every batch
through shared memory: two of them read a third of what the thread does (loader.py).

The loader: batches of packs for one rank, and one integer of state.

In: a `DataPlan`, the shape of a step, this rank. Out: ({"input": ids_BL, "positions": positions_BL}, labels_BL), all
int64, without end.

Slots go through torchdata's StatefulDataLoader (slot -> pack, workers without state); its own per-worker snapshot,
which would pin the number of workers, is never saved. Our state is the next slot and the phase it lies in, under keys
that name neither rank nor world size, so a run resumes on any number of ranks and workers. Only steps whose batches
were all handed out count, never what was read ahead.

With num_workers = 0 a thread reads ahead, which gives several times what 2 worker processes do (docs/design.md).

Shapes: B packs of a microbatch, L tokens of a pack.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch.utils.data import Dataset
from torchdata.stateful_dataloader import StatefulDataLoader
from torchtitan.components.dataloader import BaseDataLoader

from titan_speech.data.collate import PADDING_PACK_PLAN, PADDING_SLOT, PackedBatch
from titan_speech.data.plan import DataPlan
from titan_speech.data.shard_prefetch import ShardPrefetcher, look_ahead_of
from titan_speech.data.slots import SlotBatches, StepShape
from titan_speech.errors import CheckpointError, DataError

Item = TypeVar("Item")
_POLL_SEC = 0.1


class _End:
    """The source has no more items."""


@dataclass(frozen=True)
class _Failure:
    error: BaseException


class Prefetcher(Generic[Item]):
    """Iterator over `source`, read in a daemon thread until `close`."""

    def __init__(self, source: Iterator[Item], num_items: int) -> None:
        self._source = source
        self._queue: queue.Queue[Item | _End | _Failure] = queue.Queue(maxsize=num_items)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._fill, name="data-prefetch", daemon=True)
        self._thread.start()

    def _fill(self) -> None:
        try:
            for item in self._source:
                if not self._put(item):
                    return
            self._put(_End())
        except BaseException as error:  # raised again in the consumer, whatever it is
            self._put(_Failure(error))

    def _put(self, item: Item | _End | _Failure) -> bool:
        """Waits for room; False once closed."""
        while not self._closed.is_set():
            try:
                self._queue.put(item, timeout=_POLL_SEC)
                return True
            except queue.Full:
                continue
        return False

    def __iter__(self) -> Iterator[Item]:
        return self

    def __next__(self) -> Item:
        if self._closed.is_set():
            raise StopIteration
        item = self._queue.get()
        if isinstance(item, _End):
            self.close()
            raise StopIteration
        if isinstance(item, _Failure):
            self.close()
            raise item.error
        return item

    def close(self) -> None:
        """Stops the thread and drops what it had read."""
        self._closed.set()
        if threading.current_thread() is not self._thread:
            self._thread.join()


Batch = tuple[dict[str, torch.Tensor], torch.Tensor]
SNAPSHOT_NEVER = 1 << 62  # torchdata would else ask its workers for a state at every batch


class PlanDataset(Dataset[PackedBatch]):
    """Slots to packs, without state; a batch at a time, since many packs are laid out in the calls that one takes."""

    def __init__(self, plan: DataPlan) -> None:
        self.plan = plan

    def __getitem__(self, slot: int) -> PackedBatch:
        return self.__getitems__([slot])

    def __getitems__(self, slots: list[int]) -> PackedBatch:
        try:
            return self._laid_out(slots)
        except Exception:
            self._refuse_first_bad(slots)
            raise

    def _laid_out(self, slots: list[int]) -> PackedBatch:
        return self.plan.lay_out(
            [PADDING_PACK_PLAN if slot == PADDING_SLOT else self.plan.sheet(slot) for slot in slots]
        )

    def _refuse_first_bad(self, slots: list[int]) -> None:
        for slot in slots:
            try:
                self._laid_out([slot])
            except Exception as error:  # of whatever kind: it must say which slot could not be read
                stream = self.plan.streams[self.plan.locate(slot)[0]].name
                raise DataError(f"slot {slot} (stream {stream}): {error}") from error


def as_batch(laid: PackedBatch) -> Batch:
    """Packs as the tensors TorchTitan's trainer takes."""
    ids_BL, positions_BL = torch.from_numpy(laid.ids_BS), torch.from_numpy(laid.positions_BS)
    return {"input": ids_BL, "positions": positions_BL}, torch.from_numpy(laid.labels_BS)


class SpeechDataLoader(BaseDataLoader):
    """Batches of one data-parallel rank."""

    @dataclass(kw_only=True, slots=True)
    class Config(BaseDataLoader.Config):
        plan: DataPlan
        """What is read."""

        packs_per_step: int
        """Packs of one optimizer step over all ranks."""

        num_workers: int = 0
        """Worker processes; 0 reads in a thread."""

        num_prefetch_batches: int = 4
        """Batches read ahead."""

        passes: int = 1
        """Parts in which a pipeline takes a rank's packs; a batch is then one part."""

    def __init__(
        self, config: Config, *, dp_world_size: int, dp_rank: int, local_batch_size: int, **_unused: Any
    ) -> None:
        self.plan = config.plan
        self.shape = StepShape(config.packs_per_step, dp_world_size, local_batch_size * config.passes, config.passes)
        self.dp_rank = dp_rank
        self.next_slot = config.plan.phase.first_slot
        """First slot of the first step that was not handed out whole."""
        self.data_wait_sec = 0.0
        """Time the trainer spent waiting for batches, since the start."""
        self._num_workers, self._num_prefetch = config.num_workers, max(config.num_prefetch_batches, 1)
        self._prefetcher: Prefetcher[Batch] | None = None
        self._shards: ShardPrefetcher | None = None

    def __iter__(self) -> Iterator[Batch]:
        """Batches from `next_slot` on."""
        self.close()
        batches = self._batches()
        num_handed_out = 0
        while True:
            began = time.perf_counter()
            batch = next(batches)
            self.data_wait_sec += time.perf_counter() - began
            num_handed_out += 1
            if self._shards is not None:
                self._shards.has_read(self.shape.microbatch_packs)
            if num_handed_out % self.shape.num_microbatches == 0:
                self.next_slot += self.shape.packs_per_step
            yield batch

    def _batches(self) -> Iterator[Batch]:
        slots = SlotBatches(self.shape, self.plan.places, self.dp_rank, self.next_slot)
        workers = self._num_workers
        batches = StatefulDataLoader(
            PlanDataset(self.plan),
            batch_sampler=slots,  # pyright: ignore[reportArgumentType]  (has no length: it does not end)
            num_workers=workers,
            prefetch_factor=max(1, -(-self._num_prefetch // workers)) if workers else None,
            collate_fn=as_batch,  # pyright: ignore[reportArgumentType]  (takes what `__getitems__` gives)
            snapshot_every_n_steps=SNAPSHOT_NEVER,
        )
        read = iter(batches)  # starts the workers, before there are threads of ours
        ahead = look_ahead_of(self.plan)
        if ahead is not None:
            self._shards = ShardPrefetcher(self.plan, slots, ahead)
        if workers:
            return read
        self._prefetcher = Prefetcher(read, self._num_prefetch)
        return self._prefetcher

    def close(self) -> None:
        """Stops reading ahead."""
        if self._shards is not None:
            self._shards.close()
            self._shards = None
        if self._prefetcher is not None:
            self._prefetcher.close()
            self._prefetcher = None

    def state_dict(self) -> dict[str, Any]:
        phase = self.plan.phase
        return {"next_slot": self.next_slot, "phase": phase.fingerprint, "phase_label": phase.label}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if not state_dict:
            return
        phase, next_slot = self.plan.phase, int(state_dict["next_slot"])
        begins = state_dict["phase"] == phase.parent and next_slot == phase.first_slot
        if state_dict["phase"] != phase.fingerprint and not begins:
            raise CheckpointError(
                f"the checkpoint's data stands at slot {next_slot:,} of phase {state_dict['phase_label']!r} "
                f"({state_dict['phase']}), this run reads phase {phase.label!r} ({phase.fingerprint}) from slot "
                f"{phase.first_slot:,}; continue with the stores, [data] tables, seq_len and tokenizer it was trained "
                "with (config.toml in its run folder), or start a new stage from its weights"
            )
        self.close()
        self.next_slot = next_slot
