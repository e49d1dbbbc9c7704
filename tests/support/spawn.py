"""Tests of several processes on gloo: `spawn(2, function, *arguments)` runs it in each, and raises what one raised."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def spawn(world_size: int, function: Callable[..., None], *arguments: object) -> None:
    """`function(*arguments)` in each process of a group; a function of a module, so that processes find it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.start_processes(_process, (world_size, port, function, arguments), world_size, start_method="spawn")


def _process(rank: int, world_size: int, port: int, function: Callable[..., None], arguments: tuple) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world_size)}
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=world_size)
    try:
        function(*arguments)
    finally:
        dist.destroy_process_group()
