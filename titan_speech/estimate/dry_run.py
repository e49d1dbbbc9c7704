"""Real steps of two layers of full width: the run's trainer, loss, layout and optimizer at its real world size.

In: a configuration and a world size. Out: `DryRun`, a description of what was executed, or an `EstimateError` that says
why not. One process is rank 0 on TorchTitan's fake process group, which computes but exchanges nothing, so losses mean
nothing: it shows that shapes, degrees, heads, chunks and vocabulary fit. Widths, degrees and the optimizer are the
run's. So that a CPU takes seconds, packs have 16 random tokens (128 per rank with context parallelism), and of the text
backbone's rows the first 4,096 are used (the trace has them all). A pipeline has one layer per stage, and its first and
last rank take steps, each in a process of its own.
"""

from __future__ import annotations

import pickle
import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from titan_speech.config.budget import data_parallel_degree
from titan_speech.config.schema import SpeechConfig
from titan_speech.distributed.pipeline import stages_per_rank
from titan_speech.estimate.offline import offline_config, run_shape, run_vocabulary
from titan_speech.estimate.step_trace import TraceJob, global_rank, with_layers, with_stages
from titan_speech.estimate.trace_process import run_in_process
from titan_speech.tokenization.vocabulary import Vocabulary
from titan_speech.utils.text_table import counted

if TYPE_CHECKING:
    import torch

    from titan_speech.trainer import SpeechTrainer


MODULE = "titan_speech.estimate.dry_run"
NUM_LAYERS, NUM_STEPS = 2, 2
TOKENS_PER_PACK = 16
CONTEXT_PARALLEL_TOKENS = 128
"""Per rank: context parallelism splits packs in blocks of so many tokens."""
MAX_BASE_ROWS, MAX_CHUNKS = 4096, 8
WEIGHT = 0.01


@dataclass(frozen=True)
class DryRun:
    """What was executed."""

    num_steps: int
    num_layers: int
    dim: int
    num_rows: int
    num_rows_of_run: int
    seq_len: int
    world_size: int
    ranks: tuple[int, ...]

    def lines(self) -> list[str]:
        rows = f"{self.num_rows:,} of {self.num_rows_of_run:,} rows (codes, special tokens, and the first base rows)"
        return [
            f"took {counted(self.num_steps, 'step')} of {self.num_layers} layers {self.dim:,} wide with {rows},",
            f"as rank {' and rank '.join(map(str, self.ranks))} of {self.world_size:,} on a fake process group, "
            f"packs of {self.seq_len} tokens of random codes",
        ]


def dry_run(config: SpeechConfig, world_size: int) -> DryRun:
    """Take the steps, each rank in a process of its own.

    Raises:
        EstimateError: a step cannot be taken; the message ends with the last lines of the process.
    """
    (shape, _), vocabulary = run_shape(config), run_vocabulary(config).vocabulary
    fewer = Vocabulary(num_base=min(vocabulary.num_base, MAX_BASE_ROWS), bos_id=0, eos_id=1)
    config = shortened(config, world_size)
    job = TraceJob(config, shape, fewer, world_size, accumulates=False)
    layout = config.parallelism
    degree, num_stages = layout.pipeline_parallel_degree, layout.pipeline_parallel_degree * stages_per_rank(layout)
    job = with_layers(job, NUM_LAYERS) if degree == 1 else with_stages(job, 1, num_stages)
    jobs = [replace(job, pipeline_rank=rank) for rank in sorted({0, degree - 1})]
    for one in jobs:
        _run_process(one)
    return DryRun(
        num_steps=NUM_STEPS,
        num_layers=job.shape.num_layers,
        dim=shape.dim,
        num_rows=fewer.num_rows,
        num_rows_of_run=vocabulary.num_rows,
        seq_len=config.training.seq_len,
        world_size=world_size,
        ranks=tuple(global_rank(one) for one in jobs),
    )


def _run_process(job: TraceJob) -> None:
    rank, world_size = str(global_rank(job)), str(job.world_size)
    ranks = {"RANK": rank, "LOCAL_RANK": "0", "WORLD_SIZE": world_size, "NGPU": world_size}
    run_in_process(MODULE, job, f"{job.shape.num_layers} layers cannot take a step at {job.world_size} ranks", ranks)


def shortened(config: SpeechConfig, world_size: int) -> SpeechConfig:
    """The configuration for this machine, with packs that a CPU computes in seconds and one pass per step."""
    config, _ = offline_config(config)
    layout = config.parallelism
    context_ranks = layout.context_parallel_degree
    seq_len = CONTEXT_PARALLEL_TOKENS * context_ranks if context_ranks > 1 else TOKENS_PER_PACK
    passes = layout.pipeline_parallel_degree if layout.pipeline_parallel_degree > 1 else 1
    packs = data_parallel_degree(layout, world_size) * passes
    return replace(
        config,
        parallelism=replace(layout, pipeline_parallel_microbatch_size=1),
        training=replace(
            config.training,
            seq_len=seq_len,
            local_batch_packs=passes,
            global_batch_tokens=packs * seq_len,
            target_tokens=NUM_STEPS * packs * seq_len,
        ),
        loss=replace(config.loss, num_chunks=min(config.loss.num_chunks, MAX_CHUNKS)),
        metrics=replace(config.metrics, tensorboard=False, wandb=False, prometheus=""),
    )


def main(file: Path, out: Path) -> None:
    from titan_speech.utils import cpu
    from titan_speech.utils.logging import silence_library_warnings

    silence_library_warnings()
    cpu.prepare()
    import torch
    from torchtitan.config.configs import CommConfig
    from torchtitan.protocols.module import Module

    from titan_speech.estimate.fake_inputs import fake_inputs

    torch.distributed.broadcast_object_list = _keep_own  # type: ignore[assignment]
    job: TraceJob = pickle.loads(file.read_bytes())  # noqa: S301  (of the parent, in a folder of this user alone)
    tree = fake_inputs(job.config, job.vocabulary, job.shape, job.world_size, out.parent)
    tree.comm = CommConfig(mode="fake_backend")
    assert tree.model_spec is not None
    for _, config, _, _ in tree.model_spec.model.traverse(Module.Config, recurse=True):
        if config.param_init is not None:  # random values for 800 M weights take a minute
            config.param_init = dict.fromkeys(config.param_init, partial(torch.nn.init.constant_, val=WEIGHT))
    trainer = tree.build()
    if trainer.parallel_dims.pp_enabled:
        _initialize_stages(trainer, job)
    for optimizer in trainer.optimizers:
        optimizer.register_step_pre_hook(_zero_gradients)
    try:
        batches = trainer.batch_generator(trainer.dataloader)
        for trainer.step in range(1, NUM_STEPS + 1):
            trainer.train_step(batches)
    finally:
        trainer.close()


def _keep_own(objects: list[Any], *args: Any, **kwargs: Any) -> None:
    """Stands in for a broadcast of objects: every rank keeps its own."""


def _initialize_stages(trainer: SpeechTrainer, job: TraceJob) -> None:
    """Give stages the shapes they exchange; receive buffers are zeros, which keep losses finite."""
    from titan_speech.estimate.pipeline_trace import buffers_of, embedded, embedding_alone, initialize_stages
    from titan_speech.estimate.rank_trace import RankTrace

    rank = RankTrace(trainer.config, replace(job, fused_kernels=False), trainer.parallel_dims)
    initialize_stages(trainer.pp_schedule, *embedded(rank, embedding_alone(rank, rank.meta_model()), 1))
    for buffer in buffers_of(trainer.pp_schedule):
        buffer.zero_()


def _zero_gradients(optimizer: torch.optim.Optimizer, *_: object) -> None:
    """Reduced gradients are uninitialized memory, since nothing is exchanged; zeros keep the next loss finite."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None:
                parameter.grad.zero_()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
