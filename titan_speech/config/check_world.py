"""Whether the degrees of parallelism come out at a number of processes, and the nearest that do.

In: the [parallelism] table, processes. Out: at most one finding, which blames a degree that somebody raised and names
processes or a degree that fit.
"""

from __future__ import annotations

from collections.abc import Iterator

from titan_speech.config.budget import ranks_of_one_replica
from titan_speech.config.finding import Finding
from titan_speech.config.tables import ParallelismTable

_DEGREES = (
    "parallelism.data_parallel_replicate_degree",
    "parallelism.data_parallel_shard_degree",
    "parallelism.tensor_parallel_degree",
    "parallelism.context_parallel_degree",
    "parallelism.pipeline_parallel_degree",
)


def check_world_size(parallelism: ParallelismTable, world_size: int) -> Iterator[Finding]:
    """The degrees must multiply to the world size; with a shard degree of -1 the others must divide it."""
    replicate, shard = parallelism.data_parallel_replicate_degree, parallelism.data_parallel_shard_degree
    others = replicate * ranks_of_one_replica(parallelism)
    if min(others, abs(shard)) < 1:
        return  # a range problem already
    keys = tuple(sorted(_DEGREES, key=lambda key: abs(getattr(parallelism, key.partition(".")[2])) == 1))
    if shard == -1 and world_size % others:
        found = f"a product of replicate, tensor, context and pipeline degrees of {others}"
        yield Finding(keys, found, f"a divisor of the world size {world_size}", _nearest_worlds(others, world_size))
    elif shard > 0 and others * shard != world_size:
        found, expected = f"a product of all degrees of {others * shard}", f"the world size {world_size}"
        yield Finding(keys, found, expected, _nearest_degree(parallelism, world_size))


def _nearest_worlds(others: int, world_size: int) -> str:
    below = world_size // others * others
    sizes = [str(size) for size in (below, below + others) if size]
    return f"a world size of {' or '.join(sizes)}"


def _nearest_degree(parallelism: ParallelismTable, world_size: int) -> str | None:
    """More replicas where there are some, else all ranks that are left."""
    replicate, shard = parallelism.data_parallel_replicate_degree, parallelism.data_parallel_shard_degree
    inner = ranks_of_one_replica(parallelism)
    if replicate > 1 and world_size % (inner * shard) == 0:
        return f"{_DEGREES[0]} = {world_size // (inner * shard)}"
    return f"{_DEGREES[1]} = -1" if world_size % (inner * replicate) == 0 else None
