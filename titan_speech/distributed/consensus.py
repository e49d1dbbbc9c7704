"""Decisions that all ranks share: what rank 0 decided, and what all ranks agree on at a step boundary.

Before a process group exists, `decide_on_rank_0` runs a function that looks at files on rank 0 only and returns its
result, or raises its error, on every rank. If each rank looked for itself, ranks could see different things in a shared
folder, and 64 of them would read a checkpoint 64 times to verify it. The result is sent through the rendezvous store,
which is fresh for each restart (rendezvous.py).

At each step boundary, `Agreement` combines the flags of all ranks, so that they save, finish a save and stop at the
same step. In: what one rank sees (a signal, a clock, whether its part of a save is written). Out: each flag that is set
on any rank. The cost is one all-reduce of four integers on the CPU per step: 1.4 ms between two processes on two cores
that were busy with other work, without waiting for an accelerator. With one rank nothing is sent.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from dataclasses import astuple, dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

from titan_speech.errors import TitanSpeechError

T = TypeVar("T")


@dataclass(frozen=True)
class Boundary:
    """Flags at a step boundary, of one rank or of all ranks."""

    is_requested: bool = False
    """A save was requested."""

    is_time: bool = False
    """The time between saves has passed, by the clock of rank 0."""

    must_stop: bool = False
    """Training ends at this boundary."""

    is_writing: bool = False
    """This rank's part of the last save is still being written."""


BOUNDARY_TIMEOUT = timedelta(minutes=10)
"""How long ranks wait for each other at a step boundary: validation or a slow disk may delay one of them."""


def cpu_group(timeout: timedelta | None = None) -> dist.ProcessGroup:
    """A separate gloo group of all ranks, so that its collectives never mix with others. Every rank must call this."""
    group = dist.new_group(backend="gloo", timeout=timeout)
    assert isinstance(group, dist.ProcessGroup), f"a group of all ranks without this one: {group}"
    return group


class Agreement:
    """Agreement between all ranks; every rank must make the same calls in the same order."""

    def __init__(self) -> None:
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        self._group = cpu_group(BOUNDARY_TIMEOUT) if self.world_size > 1 else None

    def agree(self, mine: Boundary) -> Boundary:
        """The flags that are set on any rank."""
        if self._group is None:
            return mine
        flags = torch.tensor(astuple(mine), dtype=torch.int32)
        dist.all_reduce(flags, op=dist.ReduceOp.MAX, group=self._group)
        return Boundary(*(bool(flag) for flag in flags.tolist()))

    def tell(self, of_rank_0: T) -> T:
        """The argument of rank 0, on every rank."""
        if self._group is None:
            return of_rank_0
        objects = [of_rank_0]
        dist.broadcast_object_list(objects, src=0, group=self._group)
        return objects[0]


LONGEST_WAIT = timedelta(hours=2)
"""Long enough to verify a checkpoint: reading one terabyte takes 10 minutes at 2 GB/s."""

_stores: list[object] = []
"""Kept open: if torchrun does not host the store, rank 0 does, and other ranks may still read from it."""


def decide_on_rank_0(name: str, decide: Callable[[], T]) -> T:
    """Run a function on rank 0 and return its result on every rank; needs no process group.

    Args:
        name: unique for each decision.
        decide: called on rank 0 only; its result must be picklable.

    Raises:
        TitanSpeechError: raised by `decide`, on every rank.
    """
    if int(os.environ["WORLD_SIZE"]) == 1:
        return decide()
    from torch.distributed.rendezvous import rendezvous

    store, rank, _ = next(iter(rendezvous("env://")))
    _stores.append(store)
    key = f"titan_speech/{name}"
    if rank == 0:
        store.set(key, pickle.dumps(_outcome(decide)).hex())
    store.wait([key], LONGEST_WAIT)
    outcome = pickle.loads(bytes.fromhex(store.get(key).decode()))
    if isinstance(outcome, TitanSpeechError):
        raise outcome
    return outcome


def _outcome(decide: Callable[[], T]) -> T | TitanSpeechError:
    try:
        return decide()
    except TitanSpeechError as error:
        return error
