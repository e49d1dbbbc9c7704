"""Where a trace listens to torch: storages that are resized, FSDP's gathers and reductions, the borders of layers.

In: a ledger. Out: context managers in which it is told. Methods of torch are replaced for as long as they are open, in
a process that does nothing but trace.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from titan_speech.plan.ledger import Ledger

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
