"""How a pipeline shares a backbone out: layers by stage, stages by rank, and the time its ranks wait for each other.

In: the [parallelism] table, layers. Out: closed forms, without torch. Stages are dealt to ranks in turn (rank, rank +
degree, ...); embedding and head are counted as layers of the first and the last stage, as the table says.
"""

from __future__ import annotations

from dataclasses import dataclass

from titan_speech.config.schema import SpeechConfig
from titan_speech.config.schema_parallelism import ParallelismConfig


@dataclass(frozen=True)
class StagesOfRank:
    """What one rank of a pipeline holds."""

    rank: int
    num_layers: tuple[int, ...]
    """Of each of its stages."""
    has_embedding: bool
    has_head: bool


def stages_per_rank(table: ParallelismConfig) -> int:
    return 2 if table.pipeline_parallel_schedule == "Interleaved1F1B" else 1


def stage_layers(table: ParallelismConfig, num_layers: int) -> list[int]:
    """Layers of each stage, in order; the first stages take one more where they do not divide."""
    first, last = table.pipeline_parallel_first_stage_less_layers, table.pipeline_parallel_last_stage_less_layers
    num_stages = table.pipeline_parallel_degree * stages_per_rank(table)
    each, more = divmod(num_layers + first + last, num_stages)
    layers = [each + (stage < more) for stage in range(num_stages)]
    layers[0] -= first
    layers[-1] -= last
    return layers


def stages_of_ranks(table: ParallelismConfig, num_layers: int) -> list[StagesOfRank]:
    """What each rank holds."""
    layers, degree = stage_layers(table, num_layers), table.pipeline_parallel_degree
    return [
        StagesOfRank(rank, tuple(layers[rank::degree]), has_embedding=rank == 0, has_head=rank == degree - 1)
        for rank in range(degree)
    ]


def passes(config: SpeechConfig) -> int:
    """Parts in which a pipeline takes the packs of a rank; 1 without a pipeline."""
    table = config.parallelism
    if table.pipeline_parallel_degree == 1:
        return 1
    return config.training.local_batch_packs // table.pipeline_parallel_microbatch_size


def bubble(config: SpeechConfig) -> float:
    """Time of a pipeline over the time its slowest rank computes: filling and draining take as long as one pass of each
    other rank, of which a rank with several stages waits for one stage."""
    table = config.parallelism
    busy = passes(config) * stages_per_rank(table)
    return (busy + table.pipeline_parallel_degree - 1) / busy
