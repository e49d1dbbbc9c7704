"""From the run's configuration to TorchTitan's.

In: the checked `SpeechConfig`, the budget derived from it, the data plan and the number of processes. Out: the
`SpeechTrainer.Config` that builds the run. This is the only file that knows the field names of both configurations:
TorchTitan moves fast, and a change of its field names ends here.

Activation checkpointing does not preserve the state of random generators: no layer uses one, and reading that state is
what a CUDA graph cannot capture.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torchtitan.components.checkpoint import DATALOADER, LR_SCHEDULER, TRAIN_STATE
from torchtitan.components.loss import ChunkedLossWrapper
from torchtitan.components.optimizer import ParamGroupConfig
from torchtitan.components.tokenizer import BaseTokenizer
from torchtitan.config.configs import CommConfig, CompileConfig, DebugConfig, ParallelismConfig, TrainingConfig
from torchtitan.distributed.activation_checkpoint import (
    ActivationCheckpointingConfig,
    FullAC,
    MemoryBudgetAC,
    SelectiveAC,
)

from titan_speech.checkpoint.choose_start import Start
from titan_speech.checkpoint.lora_base import Base
from titan_speech.checkpoint.manager import SpeechCheckpointManager
from titan_speech.checkpoint.provenance import Provenance
from titan_speech.config import schema
from titan_speech.config.budget import Budget, data_parallel_degree
from titan_speech.config.schema import SpeechConfig
from titan_speech.data.generation_prompts import GenerationPrompt
from titan_speech.data.loader import SpeechDataLoader
from titan_speech.data.plan import DataPlan
from titan_speech.data.validation_set import ValidationSet
from titan_speech.distributed import pipeline
from titan_speech.model.backbones import BackboneShape
from titan_speech.model.spec import model_spec
from titan_speech.preflight.compatibility import Composition
from titan_speech.preflight.machine_checks import refuse_unsupported_run
from titan_speech.run_callbacks import build_callbacks
from titan_speech.tokenization.text_tokenizer import TextTokenizer
from titan_speech.trainer import SpeechTrainer
from titan_speech.training.loss import GroupedCrossEntropy
from titan_speech.training.lr_schedule import TokenBudgetSchedule
from titan_speech.training.metrics import SpeechMetricsProcessor
from titan_speech.training.optimizer import SpeechOptimizers
from titan_speech.training.preference_loss import AnswerCrossEntropy, PreferenceLoss
from titan_speech.training.profiler import SpeechProfiler


def parallelism(config: schema.ParallelismConfig) -> ParallelismConfig:
    balancer = config.context_parallel_load_balancer
    return ParallelismConfig(
        data_parallel_replicate_degree=config.data_parallel_replicate_degree,
        data_parallel_shard_degree=config.data_parallel_shard_degree,
        fsdp_reshard_after_forward=config.fsdp_reshard_after_forward,
        enable_fsdp_symm_mem=config.enable_fsdp_symm_mem,
        tensor_parallel_degree=config.tensor_parallel_degree,
        pipeline_parallel_degree=config.pipeline_parallel_degree,
        pipeline_parallel_schedule=config.pipeline_parallel_schedule,
        pipeline_parallel_microbatch_size=config.pipeline_parallel_microbatch_size,
        pipeline_parallel_first_stage_less_layers=config.pipeline_parallel_first_stage_less_layers,
        pipeline_parallel_last_stage_less_layers=config.pipeline_parallel_last_stage_less_layers,
        context_parallel_degree=config.context_parallel_degree,
        context_parallel_load_balancer=None if balancer == "none" else balancer,
    )


def activation_checkpointing(config: schema.ActivationCheckpointConfig) -> ActivationCheckpointingConfig:
    policies = {
        "none": None,
        "selective": SelectiveAC.Config(preserve_rng_state=False),
        "full": FullAC.Config(preserve_rng_state=False),
        "memory_budget": MemoryBudgetAC.Config(memory_budget=config.memory_budget),
    }
    return policies[config.kind]


def compilation(config: schema.CompileConfig) -> CompileConfig:
    return CompileConfig(
        enable=config.enable,
        components=list(config.components),
        enable_async_tensor_parallel=config.enable_async_tensor_parallel,
    )


NO_DECAY_PATTERN = r"norm|bias"
"""Norms and biases get no weight decay; every other parameter is a matrix."""


class RunTokenizer(BaseTokenizer):
    """The run's text tokenizer as TorchTitan's tokenizer class."""

    @dataclass(kw_only=True, slots=True)
    class Config(BaseTokenizer.Config):
        text: TextTokenizer

    def __init__(self, config: Config, *, tokenizer_path: str) -> None:
        super().__init__()
        self.text = config.text
        self.eos_id = config.text.eos_id

    def encode(self, *args: Any, **kwargs: Any) -> list[int]:
        return self.text.encode(*args, **kwargs)

    def decode(self, *args: Any, **kwargs: Any) -> str:
        return self.text.decode(*args, **kwargs)

    def get_vocab_size(self) -> int:
        return self.text.num_base


def trainer_config(
    config: SpeechConfig,
    *,
    plan: DataPlan,
    validation_sets: tuple[ValidationSet, ...],
    generation_prompts: tuple[GenerationPrompt, ...],
    budget: Budget,
    tokenizer: TextTokenizer,
    provenance: Provenance,
    world_size: int,
    shape: BackboneShape,
    start: Start,
    hf_initial: Path | None = None,
    base: Base | None = None,
) -> SpeechTrainer.Config:
    """The configuration from which TorchTitan builds the run.

    Args:
        config: the checked configuration of the run.
        plan: which packs every step reads.
        validation_sets: held-out samples as packs.
        generation_prompts: what is generated from while training.
        budget: steps, warmup and learning rates derived from `config`.
        tokenizer: the text tokenizer of `plan`.
        provenance: what checkpoints record of how they were made.
        world_size: number of processes.
        shape: sizes of the backbone.
        start: the checkpoint to load, and how.
        hf_initial: the Hugging Face folder to load initial weights from, if `start` is one.
        base: the frozen weights of a LoRA run.

    Raises:
        ConfigError: the backbone or this device does not support what the configuration asks for.
    """
    refuse_unsupported_run(config, shape)
    dp_degree = data_parallel_degree(config.parallelism, world_size)
    vocabulary = plan.vocabulary
    accumulation = budget.accumulation(dp_degree)
    return SpeechTrainer.Config(
        speech=config,
        budget=budget,
        plan=plan,
        validation_sets=validation_sets,
        generation_prompts=generation_prompts,
        callbacks=build_callbacks,
        model_spec=model_spec(
            shape,
            config.model.attention,
            vocabulary.num_rows,
            config.float8,
            config.lora,
            compiles_layers=Composition(config, shape).compiles_layers,
        ),
        hf_assets_path=config.tokenizer.path,
        dump_folder=config.job.dump_folder,
        tokenizer=RunTokenizer.Config(text=tokenizer),
        dataloader=SpeechDataLoader.Config(
            plan=plan,
            packs_per_step=budget.packs_per_step,
            num_workers=config.data.num_workers,
            num_prefetch_batches=config.data.num_prefetch_batches,
            passes=pipeline.num_microbatches(config),
        ),
        optimizer=_optimizer(config, budget, vocabulary.num_base),
        lr_scheduler=TokenBudgetSchedule.Config(budget=budget),
        loss=_loss(config, plan),
        training=TrainingConfig(
            local_batch_size=config.training.local_batch_packs,
            global_batch_size=config.training.local_batch_packs * dp_degree * accumulation,
            seq_len=config.training.seq_len,
            max_norm=config.training.max_norm,
            steps=budget.num_steps,
            dtype=config.training.dtype,
            mixed_precision_param=config.training.mixed_precision_param,
            disable_cuda_graphs=not (config.training.cuda_graphs and torch.cuda.is_available()),
        ),
        parallelism=parallelism(config.parallelism),
        checkpoint=_checkpoint(config, provenance, plan, start, hf_initial, base),
        activation_checkpoint=activation_checkpointing(config.activation_checkpoint),
        compile=compilation(config.compile),
        comm=CommConfig(
            init_timeout_seconds=config.comm.init_timeout_seconds,
            train_timeout_seconds=config.comm.train_timeout_seconds,
            trace_buf_size=20_000 if torch.cuda.is_available() else 0,
        ),
        metrics=SpeechMetricsProcessor.Config(
            log_freq=config.metrics.log_every_steps,
            group_table_every=config.metrics.group_table_every,
            table=config.metrics,
            from_step=max(start.step, 0) if start.is_resume else 0,
        ),
        profiler=SpeechProfiler.Config(table=config.profiler),
        debug=DebugConfig(seed=config.job.seed, deterministic=config.debug.deterministic),
    )


def _loss(config: SpeechConfig, plan: DataPlan) -> ChunkedLossWrapper.Config:
    vocabulary, chunks = plan.vocabulary, config.loss.num_chunks
    shared: dict[str, Any] = {
        "num_rows": vocabulary.num_rows,
        "num_streams": len(plan.streams),
        "kind_boundaries": vocabulary.kind_boundaries,
    }
    if not config.preference.is_on:
        return ChunkedLossWrapper.Config(num_chunks=chunks, loss_fn=GroupedCrossEntropy.Config(**shared))
    answers = AnswerCrossEntropy.Config(**shared, seq_len=plan.seq_len)
    return PreferenceLoss.Config(num_chunks=chunks, loss_fn=answers, settings=config.preference)


def _optimizer(config: SpeechConfig, budget: Budget, num_old_rows: int) -> SpeechOptimizers.Config:
    settings = config.optimizer
    shared = {"lr": settings.lr, "betas": settings.betas, "eps": settings.eps}
    without_decay = ParamGroupConfig(
        pattern=NO_DECAY_PATTERN, optimizer_name="AdamW", optimizer_kwargs={**shared, "weight_decay": 0.0}
    )
    with_decay = ParamGroupConfig(
        pattern=".*", optimizer_name="AdamW", optimizer_kwargs={**shared, "weight_decay": settings.weight_decay}
    )
    return SpeechOptimizers.Config(
        num_old_rows=num_old_rows,
        new_rows_lr_factor=settings.new_rows_lr_factor,
        frozen_steps=budget.frozen_steps,
        implementation=settings.implementation,
        keeps_old_rows=config.lora.is_on,
        param_groups=[with_decay] if config.lora.is_on else [without_decay, with_decay],
    )


def _checkpoint(
    config: SpeechConfig,
    provenance: Provenance,
    plan: DataPlan,
    start: Start,
    hf_initial: Path | None,
    base: Base | None,
) -> SpeechCheckpointManager.Config:
    settings = config.checkpoint
    initial = None if start.is_resume and not start.is_branch else start.checkpoint
    is_new_stage = start.with_optimizer and not start.is_branch
    return SpeechCheckpointManager.Config(
        enable=settings.enable or settings.create_seed_checkpoint,
        folder=settings.folder,
        keep_latest_k=0,  # retention and overlapping saves are those of `settings`, not TorchTitan's
        load_step=settings.load_step,
        initial_load_path=str(initial.absolute()) if initial else None,
        initial_load_in_hf=hf_initial is not None,
        initial_load_model_only=not start.with_optimizer,
        exclude_from_loading=[LR_SCHEDULER, DATALOADER, TRAIN_STATE] if is_new_stage else [],
        start=start,
        lora=config.lora,
        base=base,
        last_save_model_only=settings.create_seed_checkpoint,  # a finished run can be extended; a seed is weights only
        create_seed_checkpoint=settings.create_seed_checkpoint,
        settings=settings,
        upload=config.upload,
        comm=config.comm,
        provenance=provenance,
        phases=plan.phases,
    )
