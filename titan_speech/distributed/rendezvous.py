"""A fresh rendezvous store for each restart of a run under torchrun.

In: torchrun's environment. Out: the same environment with another MASTER_PORT, where rank 0 hosts a new TCPStore.
torchrun hosts one store for all restarts of its workers (TORCHELASTIC_USE_AGENT_STORE), and the addresses, decisions
and barriers that were written before a restart are still in it. So torchrun's store is used once, to agree on the new
one, by keys that cannot be left over: rank 0 publishes a random word, each rank asks under that word with a random word
of its own, and is answered under its own word. One exchange per rank, 2 ms between processes of one machine.
"""

from __future__ import annotations

import os
import time
import uuid
from datetime import timedelta
from typing import TYPE_CHECKING

from titan_speech.distributed.environment import dist_env
from titan_speech.errors import RendezvousError

if TYPE_CHECKING:
    from torch.distributed import Store


RENDEZVOUS_TIMEOUT = timedelta(minutes=5)
_POLL = timedelta(seconds=1)
_LEADER = "titan_speech/leader"


def use_fresh_store_after_restart() -> Store | None:
    """Point MASTER_PORT at a TCPStore of this restart. Call before anything else uses torchrun's store.

    Returns:
        The store if this process hosts it, to be kept until the process group is initialized.

    Raises:
        RendezvousError: rank 0 did not answer within `RENDEZVOUS_TIMEOUT`.
    """
    env = dist_env()
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True" or env.world_size == 1:
        return None
    from torch.distributed import TCPStore

    host = os.environ["MASTER_ADDR"]
    torchrun_store = TCPStore(host, int(os.environ["MASTER_PORT"]), is_master=False, timeout=RENDEZVOUS_TIMEOUT)
    hosted = None
    if env.is_first:
        hosted = TCPStore(
            host, 0, is_master=True, wait_for_workers=False, multi_tenant=True, timeout=RENDEZVOUS_TIMEOUT
        )
        port = hosted.port
        _answer_ranks(torchrun_store, env.world_size, port)
    else:
        port = _ask_rank_0(torchrun_store, env.rank)
    os.environ |= {"MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": "False"}
    return hosted


def _answer_ranks(store: Store, world_size: int, port: int) -> None:
    """Rank 0: answer every other rank with the port of the new store."""
    me = uuid.uuid4().hex
    store.set(_LEADER, me)
    for rank in range(1, world_size):
        word = store.get(f"titan_speech/{me}/{rank}").decode()
        store.set(f"titan_speech/{word}", str(port))


def _ask_rank_0(store: Store, rank: int) -> int:
    """Other ranks: ask the published leader for its port, and ask again if another leader replaces it."""
    me, asked = uuid.uuid4().hex, ""
    deadline = time.monotonic() + RENDEZVOUS_TIMEOUT.total_seconds()
    while time.monotonic() < deadline:
        leader = store.get(_LEADER).decode()
        if leader != asked:
            store.set(f"titan_speech/{leader}/{rank}", me)
            asked = leader
        try:
            store.wait([f"titan_speech/{me}"], _POLL)
        except RuntimeError:  # no answer yet, or the leader is left over from before the restart
            continue
        return int(store.get(f"titan_speech/{me}"))
    raise RendezvousError(
        f"rank {rank} found no rank 0 at torchrun's store in {RENDEZVOUS_TIMEOUT.total_seconds():.0f} s; look at the "
        "log of rank 0"
    )
