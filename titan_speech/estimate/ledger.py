"""Which operators are collectives, and what each sends.

In: an operator and its arguments. Out: kind, ranks and bytes of the whole buffer, or None. Both ways in which
PyTorch asks for one are known: in place (c10d, which FSDP uses) and functional (tensor and context parallelism).

What a traced step allocates, multiplies and sends, written down as it happens.

In: operators of a forward and backward pass on fake tensors. Out: every allocation and release in order, the FLOPs of
matrix products and attention, and the bytes each collective moves. Storages are followed, not tensors, so views cost
nothing, and a storage that FSDP resizes to zero is free. The price is a call of Python for each operator.

Where a trace listens to torch: storages that are resized, FSDP's gathers and reductions, the borders of layers.

In: a ledger. Out: context managers in which it is told. Methods of torch are replaced for as long as they are open, in
a process that does nothing but trace.
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

from titan_speech.estimate.memory import Collective, Event, Traffic

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


class Ledger(TorchDispatchMode):
    """Follows the storages of one process; `place` and `component` say what allocations belong to."""

    def __init__(self) -> None:
        super().__init__()
        self.place, self.component = "start", "activations"
        self.events: list[Event] = []
        self.component_of: dict[int, str] = {}
        self.flops = 0
        self._sent: dict[Collective, list[int]] = {}
        self._keys: dict[int, int] = {}
        self._num_bytes: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented  # its own dispatch comes back here with the local tensors
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self.follow(tensor)
        count = flop_registry.get(func._overloadpacket)
        if count is not None:
            self.flops += count(*args, **kwargs, out_val=result)
        self._note_collective(func, args)
        return result

    @property
    def traffic(self) -> tuple[Traffic, ...]:
        return tuple(Traffic(one, times, num_bytes) for one, (times, num_bytes) in self._sent.items())

    def _note_collective(self, func: Any, args: Any) -> None:
        found = collective_of(func, args)
        if found is None:
            return
        kind, ranks, num_bytes = found
        phase = "optimizer" if self.place == "optimizer" else "pass"
        totals = self._sent.setdefault(Collective(phase, kind, ranks), [0, 0])
        totals[0] += 1
        totals[1] += num_bytes

    def follow(self, tensor: torch.Tensor) -> None:
        """Write down the storage of `tensor`, if it is new."""
        storage = tensor.untyped_storage()
        address = storage._cdata
        if address in self._keys:
            return
        key = len(self.component_of)
        self._keys[address] = key
        self.component_of[key] = self.component
        self._num_bytes[key] = 0
        self._set(key, storage.nbytes())
        weakref.finalize(storage, self._release, address)

    def assign(self, tensor: torch.Tensor, component: str) -> None:
        """Say what a storage is, also one that was followed before that was known."""
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
        """A storage was given another size in place."""
        key = self._keys.get(storage._cdata)
        if key is not None:
            self._set(key, num_bytes)

    def _release(self, address: int) -> None:
        self._set(self._keys.pop(address), 0)

    def _set(self, key: int, num_bytes: int) -> None:
        change = num_bytes - self._num_bytes[key]
        self._num_bytes[key] = num_bytes
        if change:
            self.events.append(Event(self.place, key, change))


_LAYER = re.compile(r"layers\.(\d+)$")


def position(layer: int, num_layers: int) -> str:
    """Where in the stack a layer stands; -1 is before the first."""
    if layer in (-1, num_layers):
        return "before the layers" if layer == -1 else "after the layers"
    if layer in (0, num_layers - 1):
        return "first layer" if layer == 0 else "last layer"
    return "a layer between"


@contextlib.contextmanager
def telling_layers_apart(ledger: Ledger, layers: nn.ModuleDict) -> Iterator[None]:
    """In a forward pass the place is that of the layer which runs."""
    num_layers = len(layers)

    def starting(layer: int) -> Any:
        def hook(module: nn.Module, inputs: Any) -> None:
            ledger.place = f"forward, {position(layer, num_layers)}"

        return hook

    def ended(module: nn.Module, inputs: Any, output: Any) -> None:
        ledger.place = f"forward, {position(num_layers, num_layers)}"

    hooks = [layer.register_forward_pre_hook(starting(i), prepend=True) for i, layer in enumerate(layers.values())]
    hooks += [layer.register_forward_hook(ended) for layer in list(layers.values())[-1:]]  # a last stage may have none
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _layer_of(group: Any) -> int | None:
    """Number of the layer whose weights FSDP handles as this group; None for embedding and head."""
    found = _LAYER.search(group._module_fqn or "")
    return int(found[1]) if found else None


@contextlib.contextmanager
def following_resizes(ledger: Ledger) -> Iterator[None]:
    """FSDP frees and fills gathered weights by resizing their storage, which no operator tells."""
    plain = torch.UntypedStorage.resize_

    def resize(storage: torch.UntypedStorage, num_bytes: int) -> torch.UntypedStorage:
        ledger.resized(storage, num_bytes)
        return plain(storage, num_bytes)

    torch.UntypedStorage.resize_ = resize  # type: ignore[method-assign]
    try:
        yield
    finally:
        torch.UntypedStorage.resize_ = plain  # type: ignore[method-assign]


@contextlib.contextmanager
def telling_fsdp_apart(ledger: Ledger, num_layers: int) -> Iterator[None]:
    """What FSDP gathers and what it reduces with become components of their own; where it ends a layer's backward pass,
    the layer below comes next."""
    from torch.distributed.fsdp._fully_shard._fsdp_param_group import FSDPParamGroup

    names = {
        "unshard": "gathered weights",
        "wait_for_unshard": "gathered weights",
        "post_backward": "reduction buffers",
    }
    plain = {name: getattr(FSDPParamGroup, name) for name in names}

    def labelled(name: str) -> Any:
        def method(group: Any, *args: Any, **kwargs: Any) -> Any:
            with ledger.during(component=names[name]):
                result = plain[name](group, *args, **kwargs)
            layer = _layer_of(group) if name == "post_backward" else None
            if layer is not None and ledger.place.startswith("backward"):
                ledger.place = f"backward, {position(layer - 1, num_layers)}"
            return result

        return method

    for name in names:
        setattr(FSDPParamGroup, name, labelled(name))
    try:
        yield
    finally:
        for name in names:
            setattr(FSDPParamGroup, name, plain[name])
