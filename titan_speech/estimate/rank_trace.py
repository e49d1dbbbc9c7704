"""A rank in an optimizer step, on fake tensors.

In: TorchTitan's configuration tree of a run, meshes of ranks. Out: `StepTrace`. Model, layout, activation checkpointing
and chunked loss are the run's own, built by the code that builds a run; nothing is computed. The trainer's loop reads
values of tensors, which fake ones do not have, so they are repeated here: forward, loss, backward, clip, optimizer.

Kernels that a CPU lacks are replaced so that a trace allocates what a GPU would: attention keeps its inputs, output and
one fp32 number per query and head; a norm its input and one fp32 number per row. Without that, dense attention would
keep L x L scores, and a norm four more copies of its input.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torchtitan.components.loss import ChunkedLossWrapper
from torchtitan.components.optimizer import OptimizersContainer
from torchtitan.config import TORCH_DTYPE_MAP
from torchtitan.distributed import ParallelDims
from torchtitan.distributed import utils as dist_utils
from torchtitan.distributed.spmd_types import annotate_input_spmd_types
from torchtitan.models.common.attention import FlexAttention
from torchtitan.models.common.decoder import Decoder
from torchtitan.models.common.param_init import skip_param_init
from torchtitan.protocols.module import Module
from torchtitan.tools import utils

from titan_speech.estimate.step_trace import StepTrace, TraceJob, peaks
from titan_speech.estimate.tracker import OperatorTracker, track_fsdp, track_layers, track_resizes
from titan_speech.trainer import SpeechTrainer


class FusedAttention(FlexAttention):
    """Keeps what flex and varlen attention keep; borders of documents change no size, so it needs no mask."""

    @dataclass(kw_only=True, slots=True)
    class Config(FlexAttention.Config):
        pass

    def forward(  # type: ignore[override]
        self,
        q_BLNH: torch.Tensor,
        k_BLNH: torch.Tensor,
        v_BLNH: torch.Tensor,
        *,
        attention_masks: object = None,
        scale: float | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        q_BNLH, k_BNLH, v_BNLH = (x.transpose(1, 2) for x in (q_BLNH, k_BLNH, v_BLNH))
        attend = torch.ops.aten._scaled_dot_product_flash_attention
        return attend(q_BNLH, k_BNLH, v_BNLH, 0.0, True, scale=scale)[0].transpose(1, 2)


def _fused_rms_norm(
    x: torch.Tensor, shape: list[int], weight: torch.Tensor | None = None, eps: float | None = None
) -> torch.Tensor:
    return torch.ops.aten._fused_rms_norm(x, shape, weight, eps)[0]


def use_gpu_kernels(model: Decoder.Config) -> None:
    """Give every layer the attention above, and this process the norm; for a process that only traces."""
    for layer in model.layers:
        layer.attention.inner_attention = FusedAttention.Config()
    F.rms_norm = _fused_rms_norm  # type: ignore[assignment]


Batch = tuple[torch.Tensor, torch.Tensor, dict[str, Any]]


class RankTrace:
    """The parts of a trainer that a step needs, on fake tensors; without a pipeline a rank has the whole model."""

    def __init__(self, tree: SpeechTrainer.Config, job: TraceJob, dims: ParallelDims) -> None:
        self.tree, self.job, self.dims, self.tracker = tree, job, dims, OperatorTracker()
        spec = tree.model_spec
        assert spec is not None
        self.spec, self.model_config = spec, cast(Decoder.Config, spec.model)
        if job.fused_kernels:
            use_gpu_kernels(self.model_config)
        self.model_config.update_from_config(config=tree)
        for _, config, _, _ in self.model_config.traverse(Module.Config, recurse=True):
            if config.param_init is not None:  # some are sampled until they fit, which fake values never do
                config.param_init = dict.fromkeys(config.param_init, skip_param_init)
        self.loss = cast(ChunkedLossWrapper, tree.loss.build(compile_config=tree.compile))

    def trace(self) -> StepTrace:
        tracker, num_layers = self.tracker, self.job.shape.num_layers
        parts = self.build_parts()  # meshes are built from tensors with values
        with FakeTensorMode(allow_non_fake_inputs=True), track_resizes(tracker), track_fsdp(tracker, num_layers):
            for part in parts:
                self.allocate(part)
            self.prepare(parts)
            with unset_fake_temporarily():  # finding new rows reads values of tensors
                optimizers = self.tree.optimizer.build(model_parts=parts)
            self._first_optimizer_step(parts, optimizers)
            with tracker:
                self.assign_resident(parts, optimizers)
                self.compute(parts)
                flops = tracker.flops
                for parameter in _parameters(parts):
                    if parameter.grad is not None:
                        tracker.assign(parameter.grad, "gradients")
                with tracker.during(phase="optimizer", component="optimizer work"):
                    self._optimizer_step(parts, optimizers)
        found = peaks(tracker.events, tracker.component_of)
        return StepTrace(
            num_layers=sum(len(part.layers) for part in parts),
            peaks=tuple(peak for peak in found if peak.place != "start"),
            resident=dict(found[0].num_bytes),
            flops=flops,
            traffic=tracker.traffic,
        )

    def build_parts(self) -> list[Decoder]:
        """The parts of the model that this rank has, parallelized, on the meta device."""
        return [self.parallelized(self.meta_model())]

    def meta_model(self) -> Decoder:
        with torch.device("meta"), utils.set_default_dtype(TORCH_DTYPE_MAP[self.tree.training.dtype]):
            return self.model_config.build()

    def parallelized(self, model: Decoder) -> Decoder:
        return cast(Decoder, self.spec.parallelize_fn(model, **self.settings()))

    def settings(self) -> dict[str, Any]:
        """Settings of the run for TorchTitan's functions that distribute a model."""
        tree = self.tree
        return {
            "parallel_dims": self.dims,
            "training": tree.training,
            "parallelism": tree.parallelism,
            "compile_config": tree.compile,
            "ac_config": tree.activation_checkpoint,
            "dump_folder": tree.dump_folder,
        }

    def allocate(self, part: Decoder) -> None:
        part.to_empty(device="cpu")
        with torch.no_grad():
            part.init_weights(buffer_device=None)
        part.train()

    def prepare(self, parts: Sequence[Decoder]) -> None:
        """Give the loss the head, which the model then does not apply."""
        self.loss.set_lm_head(cast(nn.Module, parts[-1].lm_head))
        parts[-1]._skip_lm_head = True

    def compute(self, parts: Sequence[Decoder]) -> None:
        """One forward and backward pass of the rank's packs."""
        tracker, step, [model] = self.tracker, self.context, parts
        inputs, labels_BL, extra = self.batch(model, self.tree.training.local_batch_size)
        with step(), tracker.during(phase="forward"), track_layers(tracker, model.layers):
            hidden_BLD = model(inputs, **extra)
        with step(), tracker.during(phase="loss", component="logits and loss"):
            loss, _ = self.loss(hidden_BLD, labels_BL, torch.tensor(1.0), positions=extra["positions"])
            del hidden_BLD
        with step(), tracker.during(phase="backward", component="backward work"):
            tracker.place = "backward, last layer"
            loss.backward()

    @contextlib.contextmanager
    def context(self) -> Iterator[None]:
        with dist_utils.get_spmd_context(parallel_dims=self.dims, spmd_typechecking=False)():
            yield

    def batch(self, model: Decoder, num_packs: int) -> Batch:
        """A rank's part of that many packs: context parallelism splits them along their length."""
        shape = (num_packs, self.tree.training.seq_len // self.dims.cp)
        with self.tracker.during(phase="forward", component="batch"):
            inputs_BL, positions_BL, labels_BL = (torch.zeros(shape, dtype=torch.int64) for _ in range(3))
            extra: dict[str, Any] = {"positions": positions_BL}
            if not self.job.fused_kernels:
                extra["attention_masks"] = model.get_attention_masks(positions=positions_BL)
            if self.tree.parallelism.spmd_backend == "spmd_types":
                inputs_BL, labels_BL, extra = annotate_input_spmd_types(self.dims, inputs_BL, labels_BL, extra)
        return inputs_BL, labels_BL, extra

    def _first_optimizer_step(self, parts: Sequence[Decoder], optimizers: OptimizersContainer) -> None:
        """Creates the optimizer's state, and lets DTensor find once how each operator is sharded."""
        for parameter in _parameters(parts):
            if parameter.requires_grad:
                parameter.grad = torch.zeros_like(parameter)
        self._optimizer_step(parts, optimizers)
        if not self.job.accumulates:
            optimizers.zero_grad()

    def assign_resident(self, parts: Sequence[Decoder], optimizers: OptimizersContainer) -> None:
        for parameter in _parameters(parts):
            self.tracker.assign(parameter, "parameters")
            if parameter.grad is not None:
                self.tracker.assign(parameter.grad, "gradients")
        for part in parts:
            for buffer in part.buffers():
                self.tracker.assign(buffer, "buffers")
        for optimizer in optimizers:
            for state in optimizer.state.values():
                for value in state.values():
                    if isinstance(value, torch.Tensor):
                        self.tracker.assign(value, "optimizer state")

    def _optimizer_step(self, parts: Sequence[Decoder], optimizers: OptimizersContainer) -> None:
        dist_utils.clip_grad_norm_(
            list(_parameters(parts)),
            self.tree.training.max_norm,
            foreach=True,
            pp_mesh=self.dims.get_optional_mesh("pp"),
            ep_enabled=False,
        )
        optimizers.step()


def _parameters(parts: Sequence[Decoder]) -> Iterator[nn.Parameter]:
    return (parameter for part in parts for parameter in part.parameters())
