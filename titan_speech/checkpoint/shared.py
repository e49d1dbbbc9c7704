"""What rank 0 decides, before a process group exists.

In: a function that looks at files, and the environment torchrun sets. Out: what it returned on rank 0, on every rank;
what it refused is refused on every rank. Ranks that each looked for themselves could see different things in a shared
folder, and 64 of them would read a checkpoint 64 times to verify it. It goes through the store at which the process
group meets later, one of this life alone (meeting.py).
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

from titan_speech.errors import TitanSpeechError

T = TypeVar("T")
LONGEST_WAIT = timedelta(hours=2)
"""Reading a checkpoint of a terabyte takes 10 minutes at 2 GB/s."""

_stores: list[object] = []
"""Kept open: where torchrun does not host the store, rank 0 does, and others may still read it."""


def decided_by_rank_0(name: str, decide: Callable[[], T]) -> T:
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
