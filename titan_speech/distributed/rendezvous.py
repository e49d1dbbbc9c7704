"""Where the ranks of one life of a run meet: a store that no life before has written to.

In: torchrun's environment. Out: the same environment with another MASTER_PORT, where rank 0 hosts a store of its own.
torchrun hosts one store for all restarts of its workers (TORCHELASTIC_USE_AGENT_STORE), and what an earlier life wrote
is still in it: addresses, decisions, barriers. So torchrun's store is used once, to agree on the new one, by names that
cannot be of another life: rank 0 names itself by a random word, each rank asks under that word with a word of its own,
and is answered under its own. One exchange a rank, 2 ms between processes of one machine.
"""

from __future__ import annotations

import os
import time
import uuid
from datetime import timedelta
from typing import TYPE_CHECKING

from titan_speech.errors import RendezvousError

if TYPE_CHECKING:
    from torch.distributed import Store


RENDEZVOUS_TIMEOUT = timedelta(minutes=5)
_POLL = timedelta(seconds=1)
_LEADER = "titan_speech/leader"

_hosted: list[object] = []
"""The store this process hosts, for as long as it lives."""


def use_fresh_store_after_restart() -> None:
    """Point the environment at a store of this life; before anything else uses the store."""
    world_size = int(os.environ["WORLD_SIZE"])
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True" or world_size == 1:
        return
    from torch.distributed import TCPStore

    host, rank = os.environ["MASTER_ADDR"], int(os.environ["RANK"])
    of_torchrun = TCPStore(host, int(os.environ["MASTER_PORT"]), is_master=False, timeout=RENDEZVOUS_TIMEOUT)
    if rank == 0:
        hosted = TCPStore(
            host, 0, is_master=True, wait_for_workers=False, multi_tenant=True, timeout=RENDEZVOUS_TIMEOUT
        )
        _hosted.append(hosted)
        port = hosted.port
        _tell(of_torchrun, world_size, port)
    else:
        port = _ask(of_torchrun, rank)
    os.environ |= {"MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": "False"}


def _tell(store: Store, world_size: int, port: int) -> None:
    me = uuid.uuid4().hex
    store.set(_LEADER, me)
    for rank in range(1, world_size):
        word = store.get(f"titan_speech/{me}/{rank}").decode()
        store.set(f"titan_speech/{word}", str(port))


def _ask(store: Store, rank: int) -> int:
    """Asks whoever is the leader, and again when another one turns out to be."""
    me, asked = uuid.uuid4().hex, ""
    deadline = time.monotonic() + RENDEZVOUS_TIMEOUT.total_seconds()
    while time.monotonic() < deadline:
        leader = store.get(_LEADER).decode()
        if leader != asked:
            store.set(f"titan_speech/{leader}/{rank}", me)
            asked = leader
        try:
            store.wait([f"titan_speech/{me}"], _POLL)
        except RuntimeError:  # not answered yet; or that leader was of an earlier life
            continue
        return int(store.get(f"titan_speech/{me}"))
    raise RendezvousError(
        f"rank {rank} found no rank 0 at torchrun's store in {RENDEZVOUS_TIMEOUT.total_seconds():.0f} s; look at what "
        "rank 0 said"
    )
