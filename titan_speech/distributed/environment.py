"""This process among the processes of a run, as the launcher's environment variables say.

In: RANK, LOCAL_RANK, WORLD_SIZE and LOCAL_WORLD_SIZE, set by torchrun. Out: `DistEnv`. A process without them is a
world of one. Needs no torch and no process group, so it answers before either exists.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass


@dataclass(frozen=True)
class DistEnv:
    """Rank and world size."""

    rank: int
    local_rank: int
    """Rank among the processes of this node."""
    world_size: int
    local_world_size: int
    """Number of processes of this node."""

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which writes files and prints."""
        return self.rank == 0

    @property
    def is_first_of_node(self) -> bool:
        return self.local_rank == 0

    @property
    def node(self) -> int:
        """Number of this node; torchrun says it, and without torchrun nodes have equally many processes."""
        return int(os.environ.get("GROUP_RANK", self.rank // self.local_world_size))


def dist_env() -> DistEnv:
    """Rank and world size of this process."""
    names = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
    return DistEnv(*(int(os.environ.get(name, default)) for name, default in names.items()))


def set_single_process_defaults() -> None:
    """Set the launcher's variables where the process was started without one: a world of one on a free port."""
    if "RANK" in os.environ:
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    os.environ |= {
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
