"""What all ranks know at a step boundary, so that they save, settle and stop at the same step.

In: what one rank sees: a signal, a clock, whether its part of a save has ended. Out: the same for all ranks: the
greatest of each. One all-reduce of four integers on the CPU a step: 1.4 ms between two processes on two cores that were
busy with other work; no wait for an accelerator. Nothing is sent in a world of one.

What rank 0 decides, before a process group exists.

In: a function that looks at files, and the environment torchrun sets. Out: what it returned on rank 0, on every rank;
what it refused is refused on every rank. Ranks that each looked for themselves could see different things in a shared
folder, and 64 of them would read a checkpoint 64 times to verify it. It goes through the store at which the process
group meets later, one of this life alone (meeting.py).
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
    """Flags of one rank, or of all."""

    is_requested: bool = False
    """Somebody asked for a save."""

    is_time: bool = False
    """The last save is longer ago than the policy allows; rank 0's clock alone decides."""

    must_stop: bool = False
    """Training ends at this boundary."""

    is_writing: bool = False
    """A part of the last save is still being written."""


BOUNDARY_TIMEOUT = timedelta(minutes=10)
"""How long ranks wait for each other at a step boundary: validation or a slow disk may hold one of them up."""


def cpu_group(timeout: timedelta | None = None) -> dist.ProcessGroup:
    """A group of all ranks of its own, so that its collectives cross no others; every rank calls this."""
    group = dist.new_group(backend="gloo", timeout=timeout)
    assert isinstance(group, dist.ProcessGroup), f"a group of all ranks without this one: {group}"
    return group


class Agreement:
    """All ranks call `agree` at each boundary; `tell` brings an object of rank 0 to all."""

    def __init__(self) -> None:
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        self._group = cpu_group(BOUNDARY_TIMEOUT) if self.world_size > 1 else None

    def agree(self, mine: Boundary) -> Boundary:
        if self._group is None:
            return mine
        flags = torch.tensor(astuple(mine), dtype=torch.int32)
        dist.all_reduce(flags, op=dist.ReduceOp.MAX, group=self._group)
        return Boundary(*(bool(flag) for flag in flags.tolist()))

    def tell(self, of_rank_0: T) -> T:
        """What rank 0 hands in, on every rank."""
        if self._group is None:
            return of_rank_0
        told = [of_rank_0]
        dist.broadcast_object_list(told, src=0, group=self._group)
        return told[0]


LONGEST_WAIT = timedelta(hours=2)
"""Reading a checkpoint of a terabyte takes 10 minutes at 2 GB/s."""

_stores: list[object] = []
"""Kept open: where torchrun does not host the store, rank 0 does, and others may still read it."""


def decide_on_rank_0(name: str, decide: Callable[[], T]) -> T:
    """`decide()` of rank 0; `name` is one of its own for each decision.

    Raises:
        TitanSpeechError: as rank 0 raised it.
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
