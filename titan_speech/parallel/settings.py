"""Our tables as TorchTitan's settings of layout, recomputation and compilation.

In: a checked configuration. Out: TorchTitan's dataclasses. Recomputation does not keep the state of random generators:
no layer draws from one, and reading that state is what a CUDA graph cannot capture.
"""

from __future__ import annotations

from torchtitan.config.configs import CompileConfig, ParallelismConfig
from torchtitan.distributed.activation_checkpoint import (
    ActivationCheckpointingConfig,
    FullAC,
    MemoryBudgetAC,
    SelectiveAC,
)

from titan_speech.config.tables import ActivationCheckpointTable, CompileTable, ParallelismTable


def parallelism(table: ParallelismTable) -> ParallelismConfig:
    balancer = table.context_parallel_load_balancer
    return ParallelismConfig(
        data_parallel_replicate_degree=table.data_parallel_replicate_degree,
        data_parallel_shard_degree=table.data_parallel_shard_degree,
        fsdp_reshard_after_forward=table.fsdp_reshard_after_forward,
        tensor_parallel_degree=table.tensor_parallel_degree,
        pipeline_parallel_degree=table.pipeline_parallel_degree,
        pipeline_parallel_schedule=table.pipeline_parallel_schedule,
        pipeline_parallel_microbatch_size=table.pipeline_parallel_microbatch_size,
        pipeline_parallel_first_stage_less_layers=table.pipeline_parallel_first_stage_less_layers,
        pipeline_parallel_last_stage_less_layers=table.pipeline_parallel_last_stage_less_layers,
        context_parallel_degree=table.context_parallel_degree,
        context_parallel_load_balancer=None if balancer == "none" else balancer,
    )


def recomputation(table: ActivationCheckpointTable) -> ActivationCheckpointingConfig:
    policies = {
        "none": None,
        "selective": SelectiveAC.Config(preserve_rng_state=False),
        "full": FullAC.Config(preserve_rng_state=False),
        "memory_budget": MemoryBudgetAC.Config(memory_budget=table.memory_budget),
    }
    return policies[table.kind]


def compilation(table: CompileTable) -> CompileConfig:
    return CompileConfig(
        enable=table.enable,
        components=list(table.components),
        enable_async_tensor_parallel=table.enable_async_tensor_parallel,
    )
