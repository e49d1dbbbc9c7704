"""Counts what a loss head launches, moves and holds, operator by operator.

In: operators and Triton kernels of a forward and backward pass, on real or on fake tensors. Out: launches, matrix
products, bytes, host syncs, and the peak of what was allocated. A compiled graph counts as its own kernels; an operator
that torch implements in Python (`torch.library.custom_op`) is opened, since its inside would be invisible. Bytes are
those of each operator's inputs and outputs, once each; what caches save is not known.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from titan_speech.estimate.step_trace import SizeChange
from titan_speech.estimate.tracker import OperatorTracker

_ATEN = torch.ops.aten
PRODUCTS = {_ATEN.mm, _ATEN.addmm, _ATEN.addmm_, _ATEN.bmm, _ATEN.baddbmm, _ATEN.baddbmm_}
_ALLOCATIONS = {torch.ops.aten.empty, torch.ops.aten.empty_like, torch.ops.aten.empty_strided, torch.ops.aten.new_empty}


class HeadCounter(OperatorTracker):
    """A mode; open it around a pass."""

    def __init__(self, num_tokens: int) -> None:
        super().__init__()
        self.num_tokens = num_tokens
        self.num_launches = self.num_products = self.num_host_syncs = self.moved_bytes = 0
        self._opened = _python_operators()
        self._in_graph = False

    @classmethod
    def is_infra_mode(cls) -> bool:
        """So that the compiler still compiles under it."""
        return True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in self._opened:
            with self:
                return self._opened[func](*args, **kwargs)
        if func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.equal.default):
            self.num_host_syncs += 1
            if any(_is_fake(leaf) for leaf in tree_leaves(args)):  # a count of tokens, or whether a gradient is one
                return self.num_tokens if func is torch.ops.aten._local_scalar_dense.default else True
        if self._in_graph:
            return func(*args, **kwargs)
        result = super().__torch_dispatch__(func, types, args, kwargs)
        if _computes(func):
            self.num_launches += 1
            self.num_products += func.overloadpacket in PRODUCTS
            self.moved_bytes += _bytes(tree_leaves((args, kwargs, result)))
        return result

    @property
    def peak_bytes(self) -> int:
        """Of what was allocated while the mode was open."""
        return peak_bytes(self.events)

    @contextlib.contextmanager
    def graph(self, graph: Any, results: list[Any]) -> Iterator[None]:
        """A compiled graph runs: its kernels are counted, and of its tensors only the results.

        Args:
            graph: as kernels.py records it.
            results: filled while this is open.
        """
        self._in_graph = True
        try:
            yield
        finally:
            self._in_graph = False
        self.num_launches += graph.num_launches
        self.num_products += sum(times for name, times in graph.extern.items() if name in ("mm", "addmm", "bmm"))
        self.moved_bytes += graph.moved_bytes
        for tensor in tree_leaves(results):
            if isinstance(tensor, torch.Tensor):
                self.follow(tensor)

    def kernel(self, arguments: Iterator[Any], overwritten: int = 0) -> None:
        """A Triton kernel runs.

        Args:
            arguments: all that it is called with.
            overwritten: bytes of those that it reads and writes.
        """
        self.num_launches += 1
        self.moved_bytes += _bytes(list(arguments)) + overwritten


def peak_bytes(events: Iterable[SizeChange]) -> int:
    """The most that was held at once."""
    return max(accumulate(event.change for event in events), default=0)


def _python_operators() -> dict[Any, Any]:
    """Operators of torch's chunked head, with the functions that they are."""
    try:
        from torch.nn.modules import linear_cross_entropy as of_torch
    except ImportError:  # torch before 2.14
        return {}
    found = (of_torch._linear_cross_entropy_batch_chunked, of_torch._linear_cross_entropy_batch_chunked_no_reduction)
    return {operator._opoverload: operator._init_fn for operator in found}


def _computes(func: Any) -> bool:
    """Whether an operator starts a kernel: views, allocations and questions do not."""
    if func.namespace == "prim" or func.overloadpacket in _ALLOCATIONS or func.is_view:
        return False
    return func.overloadpacket not in (torch.ops.aten._unsafe_view, torch.ops.aten._reshape_alias)


def _bytes(leaves: list[Any]) -> int:
    tensors = {id(leaf): leaf for leaf in leaves if isinstance(leaf, torch.Tensor)}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def _is_fake(leaf: Any) -> bool:
    from torch._subclasses.fake_tensor import FakeTensor

    return isinstance(leaf, FakeTensor)
