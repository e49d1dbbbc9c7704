"""What a traced step allocates, multiplies and sends, written down as it happens.

In: operators of a forward and backward pass on fake tensors. Out: every allocation and release in order, the FLOPs of
matrix products and attention, and the bytes each collective moves. Storages are followed, not tensors, so views cost
nothing, and a storage that FSDP resizes to zero is free. The price is a call of Python for each operator.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator
from typing import Any

import torch
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from titan_speech.plan.collectives import collective_of
from titan_speech.plan.step import Collective, Traffic
from titan_speech.plan.timeline import Event


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
