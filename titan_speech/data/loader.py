"""The dataloader: batches of packs for one data-parallel rank, and one integer of state.

In: a `DataPlan`, the shape of a step, this rank. Out: ({"input": ids_BL, "positions": positions_BL}, labels_BL), all
int64, without end; of preference pairs also which samples they are.

The state is the next slot and its phase, under keys that name neither rank nor world size, so a run resumes on any
number of ranks and workers. Only steps whose batches were all handed out count, never what was prefetched. torchdata's
StatefulDataLoader (slot -> pack, with stateless workers) reads the batches; its own snapshot would fix the number of
workers and is not used (docs/design.md).

With num_workers = 0 a thread prefetches, because worker processes copy every batch through shared memory: two of them
read a third of what the thread does (docs/design.md). A worker puts its batch into shared memory itself: torch would do
it in a thread that, where there is no room, prints an error and drops the batch; the trainer would wait without end.

Shapes: B packs of a microbatch, L tokens of a pack.
"""

from __future__ import annotations

import errno
import queue
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch.utils.data import Dataset, get_worker_info
from torch.utils.data.dataloader import _BaseDataLoaderIter
from torchdata.stateful_dataloader import StatefulDataLoader
from torchtitan.components.dataloader import BaseDataLoader

from titan_speech.data.pack_layout import PADDING_PACK_PLAN, PADDING_SLOT, PackedBatch
from titan_speech.data.plan import DataPlan
from titan_speech.data.shard_prefetch import ShardPrefetcher, look_ahead_of
from titan_speech.data.slots import SlotBatches, StepShape
from titan_speech.errors import CheckpointError, DataError
from titan_speech.store.mapped_files import mapped_files
from titan_speech.utils.bus_errors import name_cut_files

Item = TypeVar("Item")
_POLL_SEC = 0.1


@dataclass(frozen=True)
class _Failure:
    """What is raised instead of an item; StopIteration at the end of the source."""

    error: BaseException


class Prefetcher(Generic[Item]):
    """Iterator over `source`, read by a daemon thread, up to `num_items` ahead, until `close`.

    An exception of the source is raised where its item would have come.
    """

    def __init__(self, source: Iterator[Item], num_items: int) -> None:
        self._source = source
        self._queue: queue.Queue[Item | _Failure] = queue.Queue(maxsize=num_items)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._fill, name="data-prefetch", daemon=True)
        self._thread.start()

    def _fill(self) -> None:
        try:
            for item in self._source:
                if not self._put(item):
                    return
            self._put(_Failure(StopIteration()))
        except BaseException as error:  # raised again in the consumer, whatever it is
            self._put(_Failure(error))

    def _put(self, item: Item | _Failure) -> bool:
        """Wait for a free position in the queue; False once closed."""
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
        if isinstance(item, _Failure):
            self.close()
            raise item.error
        return item

    def close(self) -> None:
        """Stop the thread and drop what it has read."""
        self._closed.set()
        if threading.current_thread() is not self._thread:
            self._thread.join()


Batch = tuple[dict[str, torch.Tensor], torch.Tensor]
ANSWERS = "answers"
"""Of a batch of preference pairs: which sample each answer is (`PackedBatch.answers_BA3`). No input of a model."""
SNAPSHOT_NEVER = 1 << 62  # otherwise torchdata asks its workers for their state at every batch


class PlanDataset(Dataset[PackedBatch]):
    """Slots to packs, without state; a batch at a time, since numpy is called as often for many packs as for one."""

    def __init__(self, plan: DataPlan) -> None:
        self.plan = plan

    def __getitem__(self, slot: int) -> PackedBatch:
        return self.__getitems__([slot])

    def __getitems__(self, slots: list[int]) -> PackedBatch:
        mapped_files.check()
        try:
            return self._build(slots)
        except Exception:
            self._raise_for_first_bad(slots)
            raise

    def _build(self, slots: list[int]) -> PackedBatch:
        return self.plan.build_batch(
            [PADDING_PACK_PLAN if slot == PADDING_SLOT else self.plan.pack_plan(slot) for slot in slots]
        )

    def _raise_for_first_bad(self, slots: list[int]) -> None:
        for slot in slots:
            try:
                self._build([slot])
            except Exception as error:  # of any kind: the message must name the slot that could not be read
                stream = self.plan.streams[self.plan.locate(slot)[0]].name
                raise DataError(f"slot {slot} (stream {stream}): {error}") from error


def as_batch(packed: PackedBatch) -> Batch:
    """Packs as the tensors that TorchTitan's trainer takes; in shared memory if this is a worker process.

    Raises:
        DataError: shared memory is full.
    """
    arrays = {"input": packed.ids_BS, "positions": packed.positions_BS, "labels": packed.labels_BS}
    if packed.answers_BA3 is not None:
        arrays[ANSWERS] = packed.answers_BA3
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    if get_worker_info() is not None:
        try:
            tensors = {name: tensor.share_memory_() for name, tensor in tensors.items()}
        except RuntimeError as error:
            raise DataError(f"{_NO_SHARED_MEMORY} ({error})") from error
    labels_BL = tensors.pop("labels")
    return tensors, labels_BL


_NO_SHARED_MEMORY = (
    "a worker process of the dataloader found no room in shared memory (/dev/shm); give the container more (docker run "
    "--shm-size, or an emptyDir of medium Memory), or set data.num_workers = 0, which reads in a thread and needs none"
)
_WORKER_TIMEOUT_SEC = 600.0
"""A batch from a worker process; a shard that is fetched from object storage takes a part of it."""


_EXIT_BUS_ERROR = 97
"""Of a worker process; no other end of one has this code."""


def _begin_worker(_worker: int) -> None:
    name_cut_files(_EXIT_BUS_ERROR)  # torch's own handler calls every SIGBUS a lack of shared memory


def _started(batches: StatefulDataLoader[Any]) -> Iterator[Batch]:
    """An iterator over batches, with its worker processes, whose queues are files in shared memory.

    Raises:
        DataError: there is no room for a queue, or for another process.
    """
    try:
        return iter(batches)
    except OSError as error:
        for frame, _ in traceback.walk_tb(error.__traceback__):
            unfinished = frame.f_locals.get("self")
            if isinstance(unfinished, _BaseDataLoaderIter):
                vars(unfinished)["_shutdown"] = True  # its `__del__`, which misses it, would print an error of its own
        if error.errno == errno.ENOSPC:
            raise DataError(f"{_NO_SHARED_MEMORY} ({error})") from error
        advice = "set data.num_workers = 0, which reads in a thread, or raise the limit on processes (ulimit -u)"
        raise DataError(f"worker processes of the dataloader cannot be started ({error}); {advice}") from error


def worker_error(error: Exception) -> DataError | None:
    """What ended a worker process of the dataloader, or None for an error of something else.

    torch raises an error of a worker again with the worker's traceback as its text, and the death of one wherever the
    main thread is.
    """
    text = str(error)
    if isinstance(error, DataError):
        return DataError(text.rsplit(f"{DataError.__name__}: ", 1)[-1].strip())
    if not isinstance(error, RuntimeError) or "DataLoader" not in text:
        return None
    if f"exit code {_EXIT_BUS_ERROR}." in text:
        return DataError("a worker process of the dataloader ended by SIGBUS; its own message above names the file")
    if "bus error" in text.lower():
        return DataError(f"{_NO_SHARED_MEMORY} ({text})")
    advice = (
        "a message of its own above says why, if there is one; otherwise possibly memory ran out: lower "
        "data.num_workers or data.num_prefetch_batches; 0 workers read in a thread"
    )
    return DataError(f"a worker process of the dataloader ended or did not answer ({text}); {advice}")


class SpeechDataLoader(BaseDataLoader):
    """Batches of one data-parallel rank."""

    @dataclass(kw_only=True, slots=True)
    class Config(BaseDataLoader.Config):
        plan: DataPlan
        """Data plan of the run."""

        packs_per_step: int
        """Packs per optimizer step, over all ranks."""

        num_workers: int = 0
        """Worker processes; 0: a thread reads."""

        num_prefetch_batches: int = 4
        """Prefetched batches."""

        passes: int = 1
        """Equal parts in which a pipeline takes a rank's packs; a batch is one part."""

    def __init__(
        self, config: Config, *, dp_world_size: int, dp_rank: int, local_batch_size: int, **_unused: Any
    ) -> None:
        self.plan = config.plan
        self.shape = StepShape(config.packs_per_step, dp_world_size, local_batch_size * config.passes, config.passes)
        self.dp_rank = dp_rank
        self.next_slot = config.plan.phase.first_slot
        """First slot of the first step whose batches were not all handed out."""
        self.data_wait_sec = 0.0
        """Time the trainer has waited for batches since the start."""
        self._num_workers, self._num_prefetch = config.num_workers, max(config.num_prefetch_batches, 1)
        self._prefetcher: Prefetcher[Batch] | None = None
        self._shard_prefetcher: ShardPrefetcher | None = None
        self._worker_batches: Any = None
        """torch's iterator over worker processes, if there are any."""

    def __iter__(self) -> Iterator[Batch]:
        """Batches from `next_slot` on.

        Raises:
            DataError: a slot cannot be read, or a worker process has no shared memory, died or does not answer.
        """
        self.close()
        try:
            yield from self._counted()
        except Exception as error:
            clear = worker_error(error)
            if clear is None:
                raise
            raise clear from None

    def _counted(self) -> Iterator[Batch]:
        """Batches, counted as they are handed out."""
        batches = self._batches()
        num_handed_out = 0
        while True:
            began = time.perf_counter()
            batch = next(batches)
            self.data_wait_sec += time.perf_counter() - began
            num_handed_out += 1
            if self._shard_prefetcher is not None:
                self._shard_prefetcher.has_read(self.shape.microbatch_packs)
            if num_handed_out % self.shape.num_microbatches == 0:
                self.next_slot += self.shape.packs_per_step
            yield batch

    def _batches(self) -> Iterator[Batch]:
        slots = SlotBatches(self.shape, self.plan.locality_keys, self.dp_rank, self.next_slot)
        workers = self._num_workers
        batches = StatefulDataLoader(
            PlanDataset(self.plan),
            batch_sampler=slots,  # pyright: ignore[reportArgumentType]  (it is endless, so it has no length)
            num_workers=workers,
            timeout=_WORKER_TIMEOUT_SEC if workers else 0,
            worker_init_fn=_begin_worker,
            prefetch_factor=max(1, -(-self._num_prefetch // workers)) if workers else None,
            collate_fn=as_batch,  # pyright: ignore[reportArgumentType]  (it takes what `__getitems__` returns)
            snapshot_every_n_steps=SNAPSHOT_NEVER,
        )
        read = _started(batches)  # starts the workers, before this process starts threads
        ahead = look_ahead_of(self.plan)
        if ahead is not None:
            self._shard_prefetcher = ShardPrefetcher(self.plan, slots, ahead)
        if workers:
            self._worker_batches = read
            return read
        self._prefetcher = Prefetcher(read, self._num_prefetch)
        return self._prefetcher

    def close(self) -> None:
        """Stop prefetching."""
        if self._shard_prefetcher is not None:
            self._shard_prefetcher.close()
            self._shard_prefetcher = None
        if self._prefetcher is not None:
            self._prefetcher.close()
            self._prefetcher = None
        if self._worker_batches is not None:  # until torch has written off a dead worker, it raises again at any time
            self._worker_batches._shutdown_workers()
            self._worker_batches = None

    def state_dict(self) -> dict[str, Any]:
        phase = self.plan.phase
        return {"next_slot": self.next_slot, "phase": phase.fingerprint, "phase_label": phase.label}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if not state_dict:
            return
        phase, next_slot = self.plan.phase, int(state_dict["next_slot"])
        begins_phase = state_dict["phase"] == phase.parent and next_slot == phase.first_slot
        if state_dict["phase"] != phase.fingerprint and not begins_phase:
            raise CheckpointError(
                f"the checkpoint's data position is slot {next_slot:,} of phase {state_dict['phase_label']!r} "
                f"({state_dict['phase']}), this run reads phase {phase.label!r} ({phase.fingerprint}) from slot "
                f"{phase.first_slot:,}; continue with the stores, [data] tables, seq_len and tokenizer it was trained "
                "with (config.toml in its run folder), or start a new stage from its weights"
            )
        self.close()
        self.next_slot = next_slot
