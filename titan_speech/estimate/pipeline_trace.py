"""A rank of a pipeline in an optimizer step, on fake tensors.

In: as for any rank (rank_trace.py). Out: its trace. The split into stages is TorchTitan's; the order of forward and
backward passes, what is kept between them, sends and receives are torch's own schedule, which steps on a fake process
group once it knows the shapes that stages exchange. Those are found with the embedding alone: hidden states have one
shape all the way through. Weights stay gathered and gradients unsharded until the last backward pass, as torch's stages
do under FSDP.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch.distributed.pipelining import PipelineStage
from torch.distributed.pipelining._utils import _StageMeta, extract_tensor_meta
from torch.distributed.pipelining.schedules import PipelineScheduleMulti, PipelineScheduleSingle
from torchtitan.components.optimizer import OptimizersContainer
from torchtitan.distributed.pipeline_parallel import _split_module
from torchtitan.models.common.decoder import Decoder

from titan_speech.estimate.rank_trace import RankTrace
from titan_speech.estimate.tracker import track_layers

Schedule = PipelineScheduleSingle | PipelineScheduleMulti


def stages_of(schedule: Schedule) -> list[PipelineStage]:
    """The stages of this rank."""
    stages = schedule._stages if isinstance(schedule, PipelineScheduleMulti) else [schedule._stage]
    return cast(list[PipelineStage], stages)


def buffers_of(schedule: Schedule) -> Iterator[torch.Tensor]:
    """The buffers a rank receives into: one per pass and direction."""
    for stage in stages_of(schedule):
        for of_pass in (*stage.args_recv_info.values(), *stage.grad_recv_info.values()):
            for received in of_pass:
                if received.buffer is not None:
                    yield received.buffer


def initialize_stages(
    schedule: Schedule, ids_BL: torch.Tensor, labels_BL: torch.Tensor, hidden_BLD: torch.Tensor
) -> None:
    """Give stages the shapes they exchange, and initialize them as a schedule does before its first pass.

    Ranks of a real pipeline send each other the shapes; a fake process group exchanges nothing. Initializing makes the
    buffers a rank receives into, and drops gradients.

    Args:
        schedule: of the rank.
        ids_BL: token ids of one pass.
        labels_BL: its labels.
        hidden_BLD: hidden states that the first layer takes.
    """
    hidden = extract_tensor_meta(hidden_BLD)
    gradient = extract_tensor_meta(torch.empty_like(hidden_BLD, requires_grad=False))
    for stage in stages_of(schedule):
        stage.has_backward = True
        stage._mesh_cache.update_from_tensors((hidden_BLD,))
        stage._user_meta = _StageMeta(
            inputs=(extract_tensor_meta(ids_BL) if stage.is_first else hidden,),
            outputs=(hidden,),
            input_grads=(None if stage.is_first else gradient,),
            output_grads=(gradient,),
        )
    if isinstance(schedule, PipelineScheduleMulti):
        schedule._initialize_stages((ids_BL,), {}, labels_BL, {})
    else:
        schedule._initialize_stage((ids_BL,), {}, labels_BL, {})


def embedding_alone(rank: RankTrace, model: Decoder) -> Decoder:
    """The embedding without layers, distributed as in the run."""
    return rank.parallelized(cast(Decoder, _split_module(model, ["tok_embeddings"])))


def embedded(rank: RankTrace, embedding: Decoder, num_packs: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Token ids and labels [packs, length] of one pass, and the hidden states that the first layer takes."""
    rank.allocate(embedding)
    with rank.context():
        ids_BL, labels_BL, extra = rank.batch(embedding, num_packs)
        return ids_BL, labels_BL, embedding(ids_BL, **extra)


class PipelineRankTrace(RankTrace):
    """The stages of one rank, and the schedule that runs them."""

    schedule: Schedule
    embedding: Decoder
    """The embedding alone, for the shape of hidden states."""

    def build_parts(self) -> list[Decoder]:
        tree, layers = self.tree, self.job.layers_per_stage
        model = self.meta_model()
        self.embedding = embedding_alone(self, model)
        if layers is not None:
            names = _even_stages(layers, len(model.layers) // layers)
            tree.parallelism = replace(tree.parallelism, module_fqns_per_model_part=names)
        pipeline = self.spec.pipelining_fn
        assert pipeline is not None
        self.schedule, parts, _, self.has_last_stage = pipeline(
            model,
            **self.settings(),
            device=torch.device("cpu"),
            model_config=self.model_config,
            parallelize_fn=self.spec.parallelize_fn,
            loss_fn=self.loss,
        )
        return cast(list[Decoder], parts)

    def prepare(self, parts: Sequence[Decoder]) -> None:
        if self.has_last_stage:
            super().prepare(parts)
        initialize_stages(self.schedule, *embedded(self, self.embedding, self._packs_per_pass))
        del self.embedding

    def assign_resident(self, parts: Sequence[Decoder], optimizers: OptimizersContainer) -> None:
        super().assign_resident(parts, optimizers)
        for buffer in buffers_of(self.schedule):
            self.tracker.assign(buffer, "pipeline buffers")

    @property
    def _packs_per_pass(self) -> int:
        return self.tree.parallelism.pipeline_parallel_microbatch_size

    def compute(self, parts: Sequence[Decoder]) -> None:
        stages = stages_of(self.schedule)
        num_passes = self.tree.training.local_batch_size // self._packs_per_pass
        batches = [self.batch(parts[0], self._packs_per_pass) for _ in range(num_passes)]
        self._label_passes(stages)
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.context())
            for part in parts:
                stack.enter_context(track_layers(self.tracker, part.layers))
            self.schedule.step(
                arg_mbs=[(ids_BL,) for ids_BL, _, _ in batches] if stages[0].is_first else None,
                kwarg_mbs=[extra for _, _, extra in batches],
                target_mbs=[labels_BL for _, labels_BL, _ in batches] if self.has_last_stage else None,
                losses=[] if self.has_last_stage else None,
                loss_kwargs={"global_valid_tokens": torch.tensor(1.0)},
                return_outputs=False,
            )
            for stage in stages:  # a run overwrites them in its next step
                stage.clear_runtime_states()

    def _label_passes(self, stages: Sequence[PipelineStage]) -> None:
        """Passes of the schedule set phase and component of the tracker."""
        for stage in stages:
            self._label(stage, "forward_one_chunk", "forward", "activations")
            self._label(stage, "backward_one_chunk", "backward, last layer", "backward work")
            self._label(stage, "perform_reduce_grad", "backward, reduction", "reduction buffers")
        self._label(self.schedule, "_maybe_compute_loss", "loss", "logits and loss")

    def _label(self, owner: Any, name: str, place: str, component: str) -> None:
        plain: Callable[..., Any] = getattr(owner, name)

        def labelled(*args: Any, **kwargs: Any) -> Any:
            with self.tracker.during(phase=place, component=component):
                return plain(*args, **kwargs)

        setattr(owner, name, labelled)


def _even_stages(layers_per_stage: int, num_stages: int) -> list[list[str]]:
    """Names of the modules of each stage."""
    names = [
        [f"layers.{layer}" for layer in range(stage * layers_per_stage, (stage + 1) * layers_per_stage)]
        for stage in range(num_stages)
    ]
    names[0].insert(0, "tok_embeddings")
    names[-1] += ["norm", "lm_head"]
    return names
