"""Which operators are collectives, and what each sends.

In: an operator and its arguments. Out: kind, ranks and bytes of the whole buffer, or None. Both ways in which
PyTorch asks for one are known: in place (c10d, which FSDP uses) and functional (tensor and context parallelism).
"""

from __future__ import annotations

from typing import Any

import torch
from torch.distributed import ProcessGroup, get_process_group_ranks
from torch.distributed.distributed_c10d import GroupName, _resolve_process_group

_KINDS = {
    "_allgather_base_": ("all_gather", 0),
    "allgather_": ("all_gather", 0),
    "_reduce_scatter_base_": ("reduce_scatter", 1),
    "allreduce_": ("all_reduce", 0),
    "alltoall_base_": ("all_to_all", 1),
    "broadcast_": ("broadcast", 0),
    "send": ("point_to_point", 0),
    "all_gather_into_tensor": ("all_gather", 0),
    "reduce_scatter_tensor": ("reduce_scatter", 0),
    "all_reduce": ("all_reduce", 0),
    "all_reduce_": ("all_reduce", 0),
    "all_to_all_single": ("all_to_all", 0),
}
"""By operator: the kind, and which argument is the buffer."""


def collective_of(func: Any, args: tuple[Any, ...]) -> tuple[str, tuple[int, ...], int] | None:
    """The collective an operator is, or None; one among a single rank is none."""
    namespace, _, name = str(func._overloadpacket).partition(".")
    if namespace not in ("c10d", "_c10d_functional") or name not in _KINDS:
        return None
    kind, position = _KINDS[name]
    ranks = _ranks(args)
    if len(ranks) < 2:
        return None
    num_bytes = _num_bytes(args[position])
    if name == "all_gather_into_tensor":  # told by its input: one rank's part
        num_bytes *= len(ranks)
    return kind, ranks, num_bytes


def _num_bytes(buffer: Any) -> int:
    if isinstance(buffer, torch.Tensor):
        return buffer.numel() * buffer.element_size()
    return sum(_num_bytes(part) for part in buffer)


def _ranks(args: tuple[Any, ...]) -> tuple[int, ...]:
    """Ranks of the group among the arguments: an object, its boxed form, or its name after the other arguments."""
    for arg in reversed(args):
        if isinstance(arg, ProcessGroup):
            return tuple(get_process_group_ranks(arg))
        if isinstance(arg, str):
            return tuple(get_process_group_ranks(_resolve_process_group(GroupName(arg))))
        if isinstance(arg, torch.ScriptObject) and "ProcessGroup" in str(arg._type()):
            return tuple(get_process_group_ranks(ProcessGroup.unbox(arg)))
    return ()
