"""The steps of a rank on fake CUDA tensors, with the compiler on.

In: TorchTitan's configuration tree of a run, meshes on a fake process group, a recorder of compilations. Out: nothing;
the recorder has what was compiled, by step and region. Parts of the trainer that a step needs are those of the
estimate's trace (`RankTrace`); here they are on the device `cuda`, with documents' masks, and what Inductor makes is
kept.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.distributed.fsdp._fully_shard._fsdp_param_group import FSDPParamGroup
from torchao.float8.float8_linear import Float8Linear
from torchtitan.distributed import ParallelDims
from torchtitan.models.common.decoder import Decoder

from benchmarks.deviceless.head_counter import HeadCounter
from benchmarks.deviceless.kernels import Recorder, no_tracking
from titan_speech.estimate.rank_trace import RankTrace
from titan_speech.estimate.step_trace import TraceJob
from titan_speech.trainer import SpeechTrainer

DEVICE = torch.device("cuda", 0)


class CudaStep(RankTrace):
    """The whole model of a rank without a pipeline."""

    def __init__(self, tree: SpeechTrainer.Config, job: TraceJob, dims: ParallelDims, recorder: Recorder) -> None:
        super().__init__(tree, job, dims)
        self.recorder = recorder
        self.num_converted = 0
        """Linear layers in float8."""
        self.head = HeadCounter(0)
        """Head and loss of the last step: products, logits, sums of the head's gradient over chunks."""

    def run(self, num_steps: int) -> None:
        mode = FakeTensorMode(allow_non_fake_inputs=True)
        with _empty_buffers_of_fsdp(mode):
            parts = self.build_parts()
        self.num_converted = sum(isinstance(module, Float8Linear) for part in parts for module in part.modules())
        with mode:
            for part in parts:
                self.allocate(part)
            self.prepare(parts)
            with unset_fake_temporarily():  # finding new rows reads values of tensors
                optimizers = self.tree.optimizer.build(model_parts=list[nn.Module](parts))
            for step in range(1, num_steps + 1):
                self.recorder.step = step
                self.compute(parts)
                self.recorder.region = "optimizer"
                self._optimizer_step(parts, optimizers)
                optimizers.zero_grad()

    def allocate(self, part: Decoder) -> None:
        part.to_empty(device=DEVICE)
        with torch.no_grad():
            part.init_weights(buffer_device=None)
        part.train()

    def prepare(self, parts: Sequence[Decoder]) -> None:
        super().prepare(parts)
        loss_fn: Any = self.loss.loss_fn
        loss_fn.groups.keep_in(parts[-1], DEVICE)

    def compute(self, parts: Sequence[Decoder]) -> None:
        [model] = parts
        shape = (self.tree.training.local_batch_size, self.tree.training.seq_len // self.dims.cp)
        inputs_BL, positions_BL, labels_BL = (torch.zeros(shape, dtype=torch.int64, device=DEVICE) for _ in range(3))
        extra: dict[str, Any] = {"positions": positions_BL}
        extra["attention_masks"] = model.get_attention_masks(positions=positions_BL)
        if self.tree.parallelism.spmd_backend == "spmd_types":
            from torchtitan.distributed.spmd_types import annotate_input_spmd_types

            inputs_BL, labels_BL, extra = annotate_input_spmd_types(self.dims, inputs_BL, labels_BL, extra)
        self.recorder.region = "layer"
        with self.context():
            hidden_BLD = model(inputs_BL, **extra)
        self.recorder.region = "loss"
        with self.context():
            count = torch.tensor(1.0, device=DEVICE)
            self.head = HeadCounter(labels_BL.numel())
            self.recorder.running = self.head.graph
            with self.head:
                loss, _ = self.loss(hidden_BLD, labels_BL, count, positions=positions_BL)
            self.recorder.running = no_tracking
        self.recorder.region = "layer"
        with self.context():
            loss.backward()


@contextlib.contextmanager
def _empty_buffers_of_fsdp(mode: FakeTensorMode) -> Iterator[None]:
    """While open, FSDP makes the empty buffers it begins with on fake CUDA memory; the rest of a model is on meta."""
    plain = FSDPParamGroup.__init__

    def initialize(group: FSDPParamGroup, *args: Any, **kwargs: Any) -> None:
        with mode:
            plain(group, *args, **kwargs)

    FSDPParamGroup.__init__ = initialize  # type: ignore[method-assign]
    try:
        yield
    finally:
        FSDPParamGroup.__init__ = plain  # type: ignore[method-assign]
