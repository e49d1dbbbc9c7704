"""Pipeline parallelism in numbers: layers of each stage, stages of each rank, and the bubble.

In: the [parallelism] settings and the number of layers. Out: closed forms, without torch. Stages are assigned to ranks
round-robin (rank, rank + degree, ...); embedding and head count as layers of the first and the last stage, as the
settings say.
"""

from __future__ import annotations

from dataclasses import dataclass

from titan_speech.config.schema import SpeechConfig
from titan_speech.config.schema_parallelism import ParallelismConfig


@dataclass(frozen=True)
class StagesOfRank:
    """The stages of one pipeline rank."""

    rank: int
    num_layers: tuple[int, ...]
    """Layers of each of its stages."""
    has_embedding: bool
    has_head: bool


def stages_per_rank(parallelism: ParallelismConfig) -> int:
    """Stages on one pipeline rank: two with the interleaved schedule."""
    return 2 if parallelism.pipeline_parallel_schedule == "Interleaved1F1B" else 1


def stage_layers(parallelism: ParallelismConfig, num_layers: int) -> list[int]:
    """Layers of each stage, in order; the first stages take one more if the layers do not divide."""
    first = parallelism.pipeline_parallel_first_stage_less_layers
    last = parallelism.pipeline_parallel_last_stage_less_layers
    num_stages = parallelism.pipeline_parallel_degree * stages_per_rank(parallelism)
    each, more = divmod(num_layers + first + last, num_stages)
    layers = [each + (stage < more) for stage in range(num_stages)]
    layers[0] -= first
    layers[-1] -= last
    return layers


def stages_of_ranks(parallelism: ParallelismConfig, num_layers: int) -> list[StagesOfRank]:
    """The stages of each pipeline rank."""
    layers, degree = stage_layers(parallelism, num_layers), parallelism.pipeline_parallel_degree
    return [
        StagesOfRank(rank, tuple(layers[rank::degree]), has_embedding=rank == 0, has_head=rank == degree - 1)
        for rank in range(degree)
    ]


def num_microbatches(config: SpeechConfig) -> int:
    """Microbatches that a pipeline splits a rank's local batch into; 1 without a pipeline."""
    parallelism = config.parallelism
    if parallelism.pipeline_parallel_degree == 1:
        return 1
    return config.training.local_batch_packs // parallelism.pipeline_parallel_microbatch_size


def bubble(config: SpeechConfig) -> float:
    """Time of a pipeline step over the time its slowest rank computes, at least 1.

    Filling and draining take as long as one microbatch on each other rank, of which a rank with several stages waits
    for one stage.
    """
    parallelism = config.parallelism
    busy = num_microbatches(config) * stages_per_rank(parallelism)
    return (busy + parallelism.pipeline_parallel_degree - 1) / busy
