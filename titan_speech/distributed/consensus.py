"""What all ranks must know alike: decisions of rank 0, and flags at a step boundary.

In: a function that rank 0 calls; the environment torchrun sets, or a process group.
Out: what it returned, on every rank; an error it raised is raised on every rank.

    StartupConsensus.decide_on_rank_0   before a process group exists, through the c10d store of this start
    decide_on_rank_0                    with a process group
    broadcast_from_rank_0               a value that rank 0 has
    Agreement.agree                     flags at a step boundary: the logical or of all ranks
    ranks_seeing_rank_0                 which ranks share a file system with rank 0

Ranks that each looked at files for themselves could see different things in a shared folder, and 64 of them would read
a checkpoint 64 times to verify it. A boundary costs one all-reduce of four integers on the CPU: 1.4 ms between two
processes on two cores that were busy with other work, without waiting for an accelerator; nothing in a world of one.
Values travel as JSON (plain_values.py), not as the pickles of torch's object collectives.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from dataclasses import astuple, dataclass
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist

from titan_speech.distributed.environment import dist_env
from titan_speech.distributed.plain_values import from_text, to_text
from titan_speech.distributed.rendezvous import RENDEZVOUS_TIMEOUT
from titan_speech.errors import RendezvousError, TitanSpeechError

T = TypeVar("T")

DECISION_TIMEOUT = timedelta(hours=2)
"""Reading a checkpoint of a terabyte takes 10 minutes at 2 GB/s."""


class StartupConsensus:
    """Decisions of rank 0 before a process group exists; keep it until the group is initialized.

    Where torchrun does not host the store, rank 0 does, and other ranks may still read from it.
    """

    def __init__(self, hosted: dist.Store | None = None, timeout: timedelta = RENDEZVOUS_TIMEOUT) -> None:
        """Args:
        hosted: a store of this start that this process hosts (rendezvous.py), kept alive here.
        timeout: how long ranks wait for each other at the store.
        """
        self._hosted, self._timeout = hosted, timeout
        self._store: dist.Store | None = None

    def decide_on_rank_0(self, name: str, decide: Callable[[], T], *classes: type) -> T:
        """Call `decide` on rank 0 and return its result on every rank; every rank calls this.

        Args:
            name: unique among the decisions of one start.
            decide: makes the decision.
            classes: the dataclasses that a decision consists of.

        Raises:
            TitanSpeechError: raised by `decide` on rank 0.
            RendezvousError: a rank did not come to the store in time.
        """
        if dist_env().world_size == 1:
            return decide()
        if self._store is None:
            self._store = self._meet()
        key = f"titan_speech/{name}"
        if dist_env().is_first:
            self._store.set(key, to_text(_outcome(decide)))
        self._store.wait([key], DECISION_TIMEOUT)
        return _returned(from_text(self._store.get(key), *classes))

    def _meet(self) -> dist.Store:
        from torch.distributed.rendezvous import rendezvous

        env = dist_env()
        try:
            return next(iter(rendezvous("env://", timeout=self._timeout)))[0]
        except dist.DistError as error:
            place = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
            raise RendezvousError(
                f"rank {env.rank}: not all of {env.world_size} ranks came to the store of rank 0 at {place} within "
                f"{self._timeout.total_seconds():.0f} s (comm.init_timeout_seconds); look at the logs of the other "
                "ranks, and start the same command again"
            ) from error


def decide_on_rank_0(decide: Callable[[], T], *classes: type) -> T:
    """Call `decide` on rank 0 and return its result on every rank of the process group; every rank calls this.

    Args:
        decide: makes the decision.
        classes: the dataclasses that a decision consists of.

    Raises:
        TitanSpeechError: raised by `decide` on rank 0.
    """
    return _returned(broadcast_from_rank_0(_outcome(decide) if dist.get_rank() == 0 else None, *classes))


def broadcast_from_rank_0(value: T, *classes: type, group: dist.ProcessGroup | None = None) -> T:
    """The `value` of rank 0, on every rank of the group; every rank calls this.

    Args:
        value: what rank 0 has; that of other ranks is ignored.
        classes: the dataclasses that it consists of.
        group: by default the default group.
    """
    if dist.get_world_size(group) == 1 or dist.get_backend(group) == "fake":  # a dry run, without other ranks
        return value
    data = to_text(value).encode() if dist.get_rank() == 0 else b""
    device = torch.device("cuda") if dist.get_backend(group) == dist.Backend.NCCL else torch.device("cpu")
    length = torch.tensor([len(data)], device=device)
    dist.broadcast(length, src=0, group=group)
    content_B = torch.empty(int(length), dtype=torch.uint8, device=device)
    if data:
        content_B.copy_(torch.frombuffer(bytearray(data), dtype=torch.uint8))
    dist.broadcast(content_B, src=0, group=group)
    return from_text(content_B.cpu().numpy().tobytes(), *classes)


def _outcome(decide: Callable[[], T]) -> T | TitanSpeechError:
    try:
        return decide()
    except TitanSpeechError as error:
        return error


def _returned(outcome: T | TitanSpeechError | None) -> T:
    if isinstance(outcome, TitanSpeechError):
        raise outcome
    return outcome  # pyright: ignore[reportReturnType]


def cpu_group(timeout: timedelta | None = None) -> dist.ProcessGroup:
    """A new gloo group of all ranks, so that its collectives cross no others; every rank calls this."""
    group = dist.new_group(backend="gloo", timeout=timeout)
    assert isinstance(group, dist.ProcessGroup), f"a group of all ranks without this one: {group}"
    return group


@dataclass(frozen=True)
class Boundary:
    """Flags of one rank at a step boundary, or the logical or of all ranks."""

    is_requested: bool = False
    """A save was requested."""

    is_time: bool = False
    """The last save is longer ago than the policy allows; only the clock of rank 0 decides."""

    must_stop: bool = False
    """Training ends at this boundary."""

    is_writing: bool = False
    """A part of the last save is still being written."""


class Agreement:
    """All ranks call `agree` at each step boundary, so that they save, settle and stop at the same step."""

    def __init__(self, first_timeout: timedelta, timeout: timedelta) -> None:
        """Args:
        first_timeout: how long ranks wait for each other at the first boundary, after a step that compiles.
        timeout: the same at later ones: the limit of every collective of a step.
        """
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        self.group = cpu_group(first_timeout) if self.world_size > 1 else None
        self._timeout: timedelta | None = timeout

    def agree(self, mine: Boundary) -> Boundary:
        """The flags that are set on any rank."""
        if self.group is None:
            return mine
        flags = torch.tensor(astuple(mine), dtype=torch.int32)
        dist.all_reduce(flags, op=dist.ReduceOp.MAX, group=self.group)
        if self._timeout is not None:
            dist.set_timeout(self._timeout, self.group)
            self._timeout = None
        return Boundary(*(bool(flag) for flag in flags.tolist()))


@dataclass(frozen=True)
class RanksSeeingRank0:
    """Which ranks see the run folder of rank 0; without a shared file system a node has only what its ranks wrote."""

    by_rank: tuple[bool, ...]

    @property
    def are_all(self) -> bool:
        return all(self.by_rank)


def ranks_seeing_rank_0(folder: Path) -> RanksSeeingRank0:
    """Find out by a file that rank 0 writes to `folder`; every rank calls this. Nothing is written on a single node."""
    world_size = dist.get_world_size()
    if world_size == dist_env().local_world_size:
        return RanksSeeingRank0((True,) * world_size)
    group = cpu_group()
    path = folder / broadcast_from_rank_0(f".seen-{uuid.uuid4().hex}", group=group)
    if dist.get_rank() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        path.touch()
    dist.barrier(group)
    seen_R = torch.zeros(world_size, dtype=torch.int32)
    seen_R[dist.get_rank()] = path.exists()
    dist.all_reduce(seen_R, group=group)
    if dist.get_rank() == 0:
        path.unlink()
    dist.destroy_process_group(group)
    return RanksSeeingRank0(tuple(bool(seen) for seen in seen_R.tolist()))
