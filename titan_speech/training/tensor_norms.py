"""Norms of weights, gradients, updates and activations by layer and by old and new vocabulary rows, at chosen steps.

In: the model's parts during one step. Out: one `tensor_norms` event per chosen step in metrics.jsonl, and
`tensors/QUANTITY/GROUP` in the other backends. Groups are `embedding/old_rows`, `embedding/new_rows`, `layers/0` and so
on, `norm`, `head/old_rows`, `head/new_rows` (a tied head is the embedding). Gradients are those before clipping, so
their squares add up to that of `grad_norm`; an update is what the step changed; an activation is the root mean square
of a layer's output over all positions of the step, padding included (in the first step of a process, a pipeline's
rehearsal too).

Norms are over whole tensors, however they are sharded: each rank adds the squares of its shards, divided by the number
of ranks that hold the same ones, and one all-reduce adds the ranks up. Nothing of it exists in other steps: no hook, no
synchronization. A chosen step holds a copy of this rank's weights (4 bytes per parameter of its shard in fp32) and
waits for the device once.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import nn
from torch.distributed.tensor import DTensor, Partial, Replicate
from torchtitan.models.common.decoder import Decoder

from titan_speech.config.schema_operations import MetricsConfig
from titan_speech.model.new_rows import VOCABULARY_MATRICES, VocabularyMatrix, local_part

TENSOR_NORMS_EVENT = "tensor_norms"
TENSORS_PREFIX = "tensors/"
WEIGHT, GRADIENT, UPDATE = "weight", "gradient", "update"
ACTIVATION = "activation_rms"
QUANTITIES = (WEIGHT, GRADIENT, UPDATE)
OLD, NEW = "old_rows", "new_rows"

Log = Callable[[str, int, Mapping[str, float], Sequence[str], float], None]
"""(event, step, metrics, lines for the console, seconds)"""

# G groups, L layers; Q quantities of QUANTITIES.


class TensorNorms:
    """Measures chosen steps; every rank calls the same methods."""

    def __init__(
        self,
        model_parts: Sequence[nn.Module],
        settings: MetricsConfig,
        *,
        num_old_rows: int,
        num_layers: int,
        pipeline_degree: int,
        records_layers: bool,
        device: torch.device,
        log: Log,
    ) -> None:
        """
        Args:
            model_parts: of this rank.
            settings: which steps are chosen.
            num_old_rows: vocabulary rows that the backbone came with.
            num_layers: of the whole model.
            pipeline_degree: ranks among which layers are split.
            records_layers: false where CUDA graphs are: what is added while a graph is captured, each replay repeats.
            device: of the model.
            log: where the norms go.
        """
        self._parts, self._num_layers = model_parts, num_layers
        self._ranks_of_stage = torch.distributed.get_world_size() // pipeline_degree
        self._settings, self._device, self._log = settings, device, log
        self._records_layers = records_layers
        layers = [f"layers/{number}" for number in range(num_layers)]
        rows = [f"{matrix}/{part}" for matrix in ("embedding", "head") for part in (OLD, NEW)]
        self._groups = {name: index for index, name in enumerate((*rows[:2], *layers, "norm", *rows[2:]))}
        named = [pair for part in model_parts for pair in part.named_parameters()]
        self._matrices = {
            name: VocabularyMatrix.of(p, num_old_rows) for name, p in named if name.endswith(VOCABULARY_MATRICES)
        }
        self._before: list[torch.Tensor] = []
        """Copies of this rank's weights before the update."""

    def _is_due(self, step: int) -> bool:
        """Whether a step, counted from 1, is chosen."""
        every = self._settings.tensor_norms_every_steps
        return step in self._settings.tensor_norms_at_steps or (every > 0 and step % every == 0)

    @contextmanager
    def step(self, step: int) -> Iterator[None]:
        """Around a whole step, from its first forward pass to its update; logs what it measured."""
        if not self._is_due(step):
            yield
            return
        # squares and numbers of tensors, then of elements
        self._sums_Q2G = torch.zeros(len(QUANTITIES), 2, len(self._groups), dtype=torch.float64, device=self._device)
        self._activations_2L = torch.zeros(2, self._num_layers, dtype=torch.float64, device=self._device)
        with self._recorded_layers():
            yield
        began = time.perf_counter()
        self._take_update()
        self._log(TENSOR_NORMS_EVENT, step, self._reduced(), (), time.perf_counter() - began)

    def gradients_complete(self, step: int) -> None:
        """Called when the gradients of the step are complete, before they are clipped."""
        if not self._is_due(step):
            return
        with torch.no_grad():
            for name, parameter in self._parameters():
                if parameter.grad is not None:
                    self._add(GRADIENT, name, parameter.grad)
            self._before = [local_part(parameter).clone() for _, parameter in self._parameters()]

    @torch.no_grad()
    def _take_update(self) -> None:
        for (name, parameter), before in zip(self._parameters(), self._before, strict=True):
            self._add(WEIGHT, name, parameter)
            if parameter.requires_grad:
                self._add(UPDATE, name, parameter, before)
        self._before = []

    def _parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        for part in self._parts:
            yield from part.named_parameters()

    def _add(self, quantity: str, name: str, tensor: torch.Tensor, minus: torch.Tensor | None = None) -> None:
        """Add the squares of this rank's part of a tensor that is distributed as the parameter of this name."""
        if isinstance(tensor, DTensor) and any(isinstance(one, Partial) for one in tensor.placements):
            whole = [Replicate() if isinstance(one, Partial) else one for one in tensor.placements]
            tensor = tensor.redistribute(placements=whole)
        local, copies = local_part(tensor), self._copies(tensor)
        if minus is not None:
            local = local - minus
        if matrix := self._matrices.get(name):
            at = "head" if "lm_head" in name else "embedding"
            parts = {f"{at}/{OLD}": matrix.old(local), f"{at}/{NEW}": matrix.new(local)}
        else:
            parts = {_group(name): local}
        for group, part in parts.items():
            at = self._sums_Q2G[QUANTITIES.index(quantity), :, self._groups[group]]
            at[0] += _sum_of_squares(part) / copies
            at[1] += part.numel() / copies

    def _copies(self, tensor: torch.Tensor) -> int:
        """How many ranks hold the same part of a tensor as this one."""
        if not isinstance(tensor, DTensor):
            return self._ranks_of_stage
        mesh, placements = tensor.device_mesh, tensor.placements
        replicated = math.prod(mesh.size(dim) for dim, one in enumerate(placements) if isinstance(one, Replicate))
        return replicated * self._ranks_of_stage // mesh.size()

    @contextmanager
    def _recorded_layers(self) -> Iterator[None]:
        """Let the models call layers that leave the squares of their outputs here.

        The container is replaced, not the layers: a hook on a compiled layer would not run, or compile it again.
        """
        models = [cast(Decoder, part) for part in self._parts] if self._records_layers else []
        plain = [model.layers for model in models]
        for model in models:
            model.layers = _RecordedLayers(model.layers, self._add_activation)
        try:
            yield
        finally:
            for model, layers in zip(models, plain, strict=True):
                model.layers = layers

    @torch.no_grad()
    def _add_activation(self, layer: int, hidden: torch.Tensor) -> None:
        local = local_part(hidden.detach())
        self._activations_2L[0, layer] += _sum_of_squares(local)
        self._activations_2L[1, layer] += local.numel()

    def _reduced(self) -> dict[str, float]:
        """All norms, the same on every rank; a group without tensors is absent."""
        flat = torch.cat((self._sums_Q2G.flatten(), self._activations_2L.flatten()))
        torch.distributed.all_reduce(flat)
        numbers = flat.cpu()
        sums_Q2G = numbers[: self._sums_Q2G.numel()].view(self._sums_Q2G.shape).tolist()
        squares_L, counts_L = numbers[self._sums_Q2G.numel() :].view(2, -1).tolist()
        found = {
            f"{TENSORS_PREFIX}{quantity}/{group}": math.sqrt(sums_2G[0][index])
            for quantity, sums_2G in zip(QUANTITIES, sums_Q2G, strict=True)
            for group, index in self._groups.items()
            if sums_2G[1][index] and not math.isnan(sums_2G[0][index])
        }
        rms = enumerate(zip(squares_L, counts_L, strict=True))
        found |= {f"{TENSORS_PREFIX}{ACTIVATION}/layers/{at}": math.sqrt(squares / n) for at, (squares, n) in rms if n}
        return found


class _RecordedLayers(nn.ModuleDict):
    """The same layers; what they return is also given to `add`."""

    def __init__(self, layers: nn.ModuleDict, add: Callable[[int, torch.Tensor], None]) -> None:
        super().__init__(dict(layers.items()))
        self._add = add

    def values(self) -> Any:
        for number, layer in self.items():
            yield self._recorded(int(number), layer)

    def _recorded(self, number: int, layer: nn.Module) -> Callable[..., torch.Tensor]:
        def call(*args: Any, **kwargs: Any) -> torch.Tensor:
            hidden = layer(*args, **kwargs)
            self._add(number, hidden)
            return hidden

        return call


def _sum_of_squares(tensor: torch.Tensor) -> torch.Tensor:
    """In fp32 within a row and in fp64 over rows: one sum of millions of squares in fp32 is off by 1e-3 on a CPU."""
    return torch.linalg.vector_norm(tensor, dim=-1, dtype=torch.float32).double().square().sum()


def _group(name: str) -> str:
    """`layers/3` of any parameter of that layer, `norm` of the last norm."""
    head, _, rest = name.partition(".")
    return f"layers/{rest.partition('.')[0]}" if head == "layers" else head
