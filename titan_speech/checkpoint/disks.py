"""Which ranks see the run folder of rank 0.

In: the folder, with the process group up. Out: the same answer on every rank. Without a shared file system a node has
only what its own ranks wrote, which decides who uploads and what retention may count on.
"""

from __future__ import annotations

import os
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch.distributed as dist


@dataclass(frozen=True)
class Disks:
    """`sees_rank_0[r]`: whether the run folder of rank r is that of rank 0."""

    sees_rank_0: tuple[bool, ...]

    @property
    def are_shared(self) -> bool:
        return all(self.sees_rank_0)


def look_around(folder: Path) -> Disks:
    """All ranks call it; nothing is written where one node has all ranks."""
    world_size = dist.get_world_size()
    if world_size == int(os.environ.get("LOCAL_WORLD_SIZE", "1")):
        return Disks((True,) * world_size)
    group, name = cast(dist.ProcessGroup, dist.new_group(backend="gloo")), [f".seen-{uuid.uuid4().hex}"]
    dist.broadcast_object_list(name, src=0, group=group)
    path = folder / name[0]
    if dist.get_rank() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        path.touch()
    dist.barrier(group)
    seen: list[bool] = [False] * world_size
    dist.all_gather_object(seen, path.exists(), group=group)
    if dist.get_rank() == 0:
        path.unlink()
    dist.destroy_process_group(group)
    return Disks(tuple(seen))
