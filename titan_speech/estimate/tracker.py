"""Follows what a traced step allocates, multiplies and sends.

In: operators of a forward and backward pass on fake tensors. Out: every allocation and release in order, with its place
in the step and its component, the FLOPs of matrix products and attention, and the bytes of each collective. Storages
are followed, not tensors, so views cost nothing, and a storage that FSDP resizes to zero is free. The cost is a call of
Python per operator.

`OperatorTracker` is the mode that sees operators; the context managers `track_layers`, `track_resizes` and `track_fsdp`
tell it what no operator shows. They replace methods of torch while they are open, in a process that does nothing but
trace. docs/design.md has the comparison with torch's FSDPMemTracker, FlopCounterMode and CommDebugMode.
"""

from __future__ import annotations

import contextlib
import re
import weakref
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.distributed import ProcessGroup, get_process_group_ranks
from torch.distributed.distributed_c10d import GroupName, _resolve_process_group
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from titan_speech.estimate.step_trace import Collective, SizeChange, Traffic

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
"""By operator, in place (c10d, which FSDP uses) and functional (tensor and context parallelism): the kind of the
collective, and which argument is the buffer."""


def collective_of(func: Any, args: tuple[Any, ...]) -> tuple[str, tuple[int, ...], int] | None:
    """Whether an operator is a collective between several ranks.

    Returns:
        Kind, ranks, and bytes of the whole buffer; None for any other operator.
    """
    namespace, _, name = str(func._overloadpacket).partition(".")
    if namespace not in ("c10d", "_c10d_functional") or name not in _KINDS:
        return None
    kind, position = _KINDS[name]
    ranks = _ranks(args)
    if len(ranks) < 2:
        return None
    num_bytes = _num_bytes(args[position])
    if name == "all_gather_into_tensor":  # its argument is the part of one rank
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


class OperatorTracker(TorchDispatchMode):
    """Follows the storages of one process; allocations belong to the current `place` and `component`."""

    def __init__(self) -> None:
        super().__init__()
        self.place, self.component = "start", "activations"
        self.events: list[SizeChange] = []
        self.component_of: dict[int, str] = {}
        self.flops = 0
        self._sent: dict[Collective, list[int]] = {}
        self._keys: dict[int, int] = {}
        self._num_bytes: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented  # DTensor dispatches its local tensors, which arrive here again
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self.follow(tensor)
        count = flop_registry.get(func._overloadpacket)
        if count is not None:
            self.flops += count(*args, **kwargs, out_val=result)
        self._count_collective(func, args)
        return result

    @property
    def traffic(self) -> tuple[Traffic, ...]:
        return tuple(Traffic(one, times, num_bytes) for one, (times, num_bytes) in self._sent.items())

    def _count_collective(self, func: Any, args: Any) -> None:
        found = collective_of(func, args)
        if found is None:
            return
        kind, ranks, num_bytes = found
        phase = "optimizer" if self.place == "optimizer" else "pass"
        totals = self._sent.setdefault(Collective(phase, kind, ranks), [0, 0])
        totals[0] += 1
        totals[1] += num_bytes

    def follow(self, tensor: torch.Tensor) -> None:
        """Begin to follow the storage of `tensor`, if it is new."""
        storage = tensor.untyped_storage()
        address = storage._cdata
        if address in self._keys:
            return
        key = len(self.component_of)
        self._keys[address] = key
        self.component_of[key] = self.component
        self._num_bytes[key] = 0
        self._set_size(key, storage.nbytes())
        weakref.finalize(storage, self._release, address)

    def assign(self, tensor: torch.Tensor, component: str) -> None:
        """Set the component of a tensor's storage, also when it is followed already."""
        local = tensor._local_tensor if isinstance(tensor, DTensor) else tensor
        self.follow(local)
        self.component_of[self._keys[local.untyped_storage()._cdata]] = component

    @contextlib.contextmanager
    def during(self, *, phase: str | None = None, component: str | None = None) -> Iterator[None]:
        """Allocations inside belong to that phase and component."""
        place, before = self.place, self.component
        self.place, self.component = phase or place, component or before
        try:
            yield
        finally:
            self.component = before
            if phase is not None:
                self.place = place

    def resized(self, storage: torch.UntypedStorage, num_bytes: int) -> None:
        """Record that a storage was resized in place."""
        key = self._keys.get(storage._cdata)
        if key is not None:
            self._set_size(key, num_bytes)

    def _release(self, address: int) -> None:
        self._set_size(self._keys.pop(address), 0)

    def _set_size(self, key: int, num_bytes: int) -> None:
        change = num_bytes - self._num_bytes[key]
        self._num_bytes[key] = num_bytes
        if change:
            self.events.append(SizeChange(self.place, key, change))


_LAYER = re.compile(r"layers\.(\d+)$")


def layer_place(layer: int, num_layers: int) -> str:
    """Name of the place of a layer; -1 is before the first, `num_layers` after the last."""
    if layer in (-1, num_layers):
        return "before the layers" if layer == -1 else "after the layers"
    if layer in (0, num_layers - 1):
        return "first layer" if layer == 0 else "last layer"
    return "a layer between"


@contextlib.contextmanager
def track_layers(tracker: OperatorTracker, layers: nn.ModuleDict) -> Iterator[None]:
    """While open, the place in a forward pass is that of the layer that runs."""
    num_layers = len(layers)

    def starting(layer: int) -> Any:
        def hook(module: nn.Module, inputs: Any) -> None:
            tracker.place = f"forward, {layer_place(layer, num_layers)}"

        return hook

    def ended(module: nn.Module, inputs: Any, output: Any) -> None:
        tracker.place = f"forward, {layer_place(num_layers, num_layers)}"

    hooks = [layer.register_forward_pre_hook(starting(i), prepend=True) for i, layer in enumerate(layers.values())]
    hooks += [layer.register_forward_hook(ended) for layer in list(layers.values())[-1:]]  # a stage may have none
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _layer_of(group: Any) -> int | None:
    """Index of the layer whose weights FSDP handles as this group; None for embedding and head."""
    found = _LAYER.search(group._module_fqn or "")
    return int(found[1]) if found else None


@contextlib.contextmanager
def track_resizes(tracker: OperatorTracker) -> Iterator[None]:
    """While open, resized storages are recorded: FSDP frees and fills gathered weights so, which no operator shows."""
    plain = torch.UntypedStorage.resize_

    def resize(storage: torch.UntypedStorage, num_bytes: int) -> torch.UntypedStorage:
        tracker.resized(storage, num_bytes)
        return plain(storage, num_bytes)

    torch.UntypedStorage.resize_ = resize  # type: ignore[method-assign]
    try:
        yield
    finally:
        torch.UntypedStorage.resize_ = plain  # type: ignore[method-assign]


@contextlib.contextmanager
def track_fsdp(tracker: OperatorTracker, num_layers: int) -> Iterator[None]:
    """While open, gathered weights and reduction buffers of FSDP are components of their own, and the end of a layer's
    backward pass moves the place to the layer below."""
    from torch.distributed.fsdp._fully_shard._fsdp_param_group import FSDPParamGroup

    names = {
        "unshard": "gathered weights",
        "wait_for_unshard": "gathered weights",
        "post_backward": "reduction buffers",
    }
    plain = {name: getattr(FSDPParamGroup, name) for name in names}

    def labelled(name: str) -> Any:
        def method(group: Any, *args: Any, **kwargs: Any) -> Any:
            with tracker.during(component=names[name]):
                result = plain[name](group, *args, **kwargs)
            layer = _layer_of(group) if name == "post_backward" else None
            if layer is not None and tracker.place.startswith("backward"):
                tracker.place = f"backward, {layer_place(layer - 1, num_layers)}"
            return result

        return method

    for name in names:
        setattr(FSDPParamGroup, name, labelled(name))
    try:
        yield
    finally:
        for name in names:
            setattr(FSDPParamGroup, name, plain[name])
