"""One optimizer step of one rank, traced on fake tensors at the run's real shape and world size.

In: `TraceJob`: configuration, backbone, vocabulary, ranks, layers. Out: `StepTrace`: memory peaks by place and
component, FLOPs and collectives. Model, layout, recomputation and chunked loss are the run's own, built by the code
that builds a run; nothing is computed. The trainer's loop itself asks tensors for their values, which fake ones have
not, so the steps it takes are repeated here: forward, loss, backward, clip, optimizer.

It runs in a process of its own (trace_process.py), since process groups and devices are global.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torchtitan.components.loss import ChunkedLossWrapper
from torchtitan.components.optimizer import OptimizersContainer
from torchtitan.config import TORCH_DTYPE_MAP
from torchtitan.distributed import ParallelDims
from torchtitan.distributed import utils as dist_utils
from torchtitan.distributed.spmd_types import annotate_input_spmd_types
from torchtitan.models.common.decoder import Decoder
from torchtitan.models.common.param_init import skip_param_init
from torchtitan.protocols.module import Module
from torchtitan.tools import utils

from titan_speech.errors import PlanError
from titan_speech.plan.kernels import as_on_a_gpu
from titan_speech.plan.ledger import Ledger
from titan_speech.plan.seams import following_resizes, telling_fsdp_apart, telling_layers_apart
from titan_speech.plan.stand_in import stand_in
from titan_speech.plan.step import StepTrace, TraceJob
from titan_speech.plan.timeline import peaks
from titan_speech.trainer import SpeechTrainer


def trace_steps(jobs: Sequence[TraceJob]) -> list[StepTrace]:
    """Trace steps of one layout and world size; this process has no process group yet."""
    world_size = jobs[0].world_size
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": str(world_size), "NGPU": str(world_size)}
    torch.autograd.set_multithreading_enabled(False)
    dist_utils.init_fake_mode(world_size)
    dims: ParallelDims | None = None
    traces = []
    for job in jobs:
        with tempfile.TemporaryDirectory(prefix="titan-speech-plan-") as folder:
            tree = stand_in(job.config, job.vocabulary, job.shape, world_size, Path(folder)).trainer
            if dims is None:
                dims = _layout(tree, world_size)
            traces.append(_Rank(tree, job, dims).trace())
    return traces


def _layout(tree: SpeechTrainer.Config, world_size: int) -> ParallelDims:
    """Meshes of ranks; made once in a process, which FSDP insists on."""
    dims = ParallelDims.from_config(tree.parallelism, world_size)
    if dims.pp_enabled:
        raise PlanError("a pipeline's step is not traced; plan a layout without pipeline_parallel_degree")
    dims.build_mesh()
    dist_utils.set_spmd_backend(tree.parallelism.spmd_backend)
    return dims


class _Rank:
    """The parts of a trainer that a step needs, on fake tensors."""

    def __init__(self, tree: SpeechTrainer.Config, job: TraceJob, dims: ParallelDims) -> None:
        self.tree, self.job, self.dims, self.ledger = tree, job, dims, Ledger()
        spec = tree.model_spec
        assert spec is not None
        self.spec, self.model_config = spec, cast(Decoder.Config, spec.model)
        if job.fused_kernels:
            as_on_a_gpu(self.model_config)
        self.model_config.update_from_config(config=tree)
        for _, config, _, _ in self.model_config.traverse(Module.Config, recurse=True):
            if config.param_init is not None:  # some initial values are drawn until they fit, which fake ones never do
                config.param_init = dict.fromkeys(config.param_init, skip_param_init)

    def trace(self) -> StepTrace:
        ledger = self.ledger
        model = self._meta_model()  # its meshes are built from tensors with values
        with FakeTensorMode(allow_non_fake_inputs=True), _fake_step(ledger, self.job.shape.num_layers):
            model.to_empty(device="cpu")
            with torch.no_grad():
                model.init_weights(buffer_device=None)
            loss = self._loss(model)
            with unset_fake_temporarily():  # which rows of a matrix are new is worked out from tensors with values
                optimizers = self.tree.optimizer.build(model_parts=[model])
            self._first_optimizer_step(model, optimizers)
            with ledger:
                self._follow_what_stays(model, optimizers)
                self._pass(model, loss)
                flops = ledger.flops
                for parameter in model.parameters():
                    if parameter.grad is not None:
                        ledger.assign(parameter.grad, "gradients")
                with ledger.during(phase="optimizer", component="optimizer work"):
                    self._optimizer_step(model, optimizers)
        found = peaks(ledger.events, ledger.component_of)
        return StepTrace(
            num_layers=self.job.shape.num_layers,
            peaks=tuple(peak for peak in found if peak.place != "start"),
            resident=dict(found[0].num_bytes),
            flops=flops,
            traffic=ledger.traffic,
        )

    def _meta_model(self) -> Decoder:
        training = self.tree.training
        with torch.device("meta"), utils.set_default_dtype(TORCH_DTYPE_MAP[training.dtype]):
            model = self.model_config.build()
        model = self.spec.parallelize_fn(
            model,
            parallel_dims=self.dims,
            training=training,
            parallelism=self.tree.parallelism,
            compile_config=self.tree.compile,
            ac_config=self.tree.activation_checkpoint,
            dump_folder=self.tree.dump_folder,
        )
        return cast(Decoder, model.train())

    def _loss(self, model: Decoder) -> ChunkedLossWrapper:
        loss = cast(ChunkedLossWrapper, self.tree.loss.build(compile_config=self.tree.compile))
        loss.set_lm_head(cast(nn.Module, model.lm_head))
        model._skip_lm_head = True
        return loss

    def _first_optimizer_step(self, model: nn.Module, optimizers: OptimizersContainer) -> None:
        """Makes the optimizer's state, and lets DTensor work out once how each operator is split."""
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        self._optimizer_step(model, optimizers)
        if not self.job.accumulates:
            optimizers.zero_grad()

    def _follow_what_stays(self, model: nn.Module, optimizers: OptimizersContainer) -> None:
        for parameter in model.parameters():
            self.ledger.assign(parameter, "parameters")
            if parameter.grad is not None:
                self.ledger.assign(parameter.grad, "gradients")
        for buffer in model.buffers():
            self.ledger.assign(buffer, "buffers")
        for optimizer in optimizers:
            for state in optimizer.state.values():
                for value in state.values():
                    if isinstance(value, torch.Tensor):
                        self.ledger.assign(value, "optimizer state")

    def _pass(self, model: Decoder, loss_fn: ChunkedLossWrapper) -> None:
        ledger, step = self.ledger, self._context
        with ledger.during(phase="forward", component="batch"):
            inputs, labels_BL, extra = self._batch(model)
        with step(), ledger.during(phase="forward"), telling_layers_apart(ledger, model.layers):
            hidden_BLD = model(inputs, **extra)
        with step(), ledger.during(phase="loss", component="logits and loss"):
            loss, _ = loss_fn(hidden_BLD, labels_BL, torch.tensor(1.0), positions=extra["positions"])
            del hidden_BLD
        with step(), ledger.during(phase="backward", component="backward work"):
            ledger.place = "backward, last layer"
            loss.backward()

    @contextlib.contextmanager
    def _context(self) -> Iterator[None]:
        with dist_utils.get_spmd_context(parallel_dims=self.dims, spmd_typechecking=False)():
            yield

    def _batch(self, model: Decoder) -> tuple[torch.Tensor, torch.Tensor, dict[str, Any]]:
        """A rank's part of its packs: context parallelism cuts them along their length."""
        training = self.tree.training
        shape = (training.local_batch_size, training.seq_len // self.dims.cp)
        inputs_BL, positions_BL, labels_BL = (torch.zeros(shape, dtype=torch.int64) for _ in range(3))
        extra: dict[str, Any] = {"positions": positions_BL}
        if not self.job.fused_kernels:
            extra["attention_masks"] = model.get_attention_masks(positions=positions_BL)
        if self.tree.parallelism.spmd_backend == "spmd_types":
            inputs_BL, labels_BL, extra = annotate_input_spmd_types(self.dims, inputs_BL, labels_BL, extra)
        return inputs_BL, labels_BL, extra

    def _optimizer_step(self, model: nn.Module, optimizers: OptimizersContainer) -> None:
        dist_utils.clip_grad_norm_(
            list(model.parameters()), self.tree.training.max_norm, foreach=True, pp_mesh=None, ep_enabled=False
        )
        optimizers.step()


@contextlib.contextmanager
def _fake_step(ledger: Ledger, num_layers: int) -> Iterator[None]:
    with following_resizes(ledger), telling_fsdp_apart(ledger, num_layers):
        yield
