"""Degrees of parallelism: the sizes they must divide, and the world size they must multiply to.

In: a configuration; the sizes of the backbone where its flavor has them; the world size where it is known. Out: a
finding for each division with a remainder, with the nearest degree or world size that fits. With `flavor = "initial"`
heads and layers are known only once the folder is read; `machine_checks.py` checks them then.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from titan_speech.config.budget import ranks_per_replica
from titan_speech.config.problem import Finding
from titan_speech.config.schema import SpeechConfig
from titan_speech.config.schema_parallelism import ParallelismConfig
from titan_speech.distributed.pipeline import stages_per_rank
from titan_speech.model.backbones import BackboneShape
from titan_speech.preflight.compatibility import Composition
from titan_speech.preflight.lora_checks import check_lora_widths

MASK_BLOCK = 128
"""Block size of an attention mask, in tokens: a context-parallel rank holds whole blocks."""

FLOAT8_MULTIPLE = 16
"""Both dimensions of a float8 matrix are multiples of it."""


_DEGREES = (
    "parallelism.data_parallel_replicate_degree",
    "parallelism.data_parallel_shard_degree",
    "parallelism.tensor_parallel_degree",
    "parallelism.context_parallel_degree",
    "parallelism.pipeline_parallel_degree",
)


def check_world_size(parallelism: ParallelismConfig, world_size: int) -> Iterator[Finding]:
    """The degrees multiply to the world size; with a shard degree of -1 the others divide it."""
    replicate, shard = parallelism.data_parallel_replicate_degree, parallelism.data_parallel_shard_degree
    others = replicate * ranks_per_replica(parallelism)
    if min(others, abs(shard)) < 1:
        return  # out of its bounds, which is a finding of its own
    keys = tuple(sorted(_DEGREES, key=lambda key: abs(getattr(parallelism, key.partition(".")[2])) == 1))
    if shard == -1 and world_size % others:
        found = f"a product of replicate, tensor, context and pipeline degrees of {others}"
        yield Finding(
            keys, found, f"a divisor of the world size {world_size}", _nearest_world_sizes(others, world_size)
        )
    elif shard > 0 and others * shard != world_size:
        found, expected = f"a product of all degrees of {others * shard}", f"the world size {world_size}"
        yield Finding(keys, found, expected, _nearest_degree(parallelism, world_size))


def _nearest_world_sizes(others: int, world_size: int) -> str:
    below = world_size // others * others
    sizes = [str(size) for size in (below, below + others) if size]
    return f"a world size of {' or '.join(sizes)}"


def _nearest_degree(parallelism: ParallelismConfig, world_size: int) -> str | None:
    """More replicas where there are several, otherwise sharding over all ranks that are left."""
    replicate, shard = parallelism.data_parallel_replicate_degree, parallelism.data_parallel_shard_degree
    inner = ranks_per_replica(parallelism)
    if replicate > 1 and world_size % (inner * shard) == 0:
        return f"{_DEGREES[0]} = {world_size // (inner * shard)}"
    return f"{_DEGREES[1]} = -1" if world_size % (inner * replicate) == 0 else None


def check_divisibility(config: SpeechConfig) -> Iterator[Finding]:
    """Every size that its degrees do not divide; those of the backbone where its flavor has them."""
    yield from _check_seq_len(config)
    yield from _check_microbatches(config)
    shape = Composition.of(config).shape
    if shape is not None:
        yield from check_backbone(config, shape)


def check_backbone(config: SpeechConfig, shape: BackboneShape) -> Iterator[Finding]:
    """The sizes of the backbone: positions, heads, widths, layers."""
    if config.training.seq_len > shape.max_positions:
        expected = f"at most {shape.max_positions}, the positions of this backbone"
        yield Finding(("training.seq_len", "model.flavor"), str(config.training.seq_len), expected)
    yield from _check_heads(config, shape)
    yield from _check_float8_widths(config, shape)
    yield from _check_pipeline_stages(config, shape)
    yield from check_lora_widths(config, shape)


def _check_seq_len(config: SpeechConfig) -> Iterator[Finding]:
    """Context-parallel ranks hold whole blocks of the mask, in two halves; tensor-parallel ranks split these halves,
    the chunks of the loss split what one context-parallel rank holds."""
    length = config.training.seq_len
    cp = max(1, config.parallelism.context_parallel_degree)
    tp = max(1, config.parallelism.tensor_parallel_degree)
    chunks = max(1, config.loss.num_chunks)
    divisor = math.lcm(cp * MASK_BLOCK, 2 * cp * tp) if cp > 1 else tp
    if length % divisor:
        keys = ("training.seq_len", "parallelism.tensor_parallel_degree", "parallelism.context_parallel_degree")
        blocks = f" (in blocks of {MASK_BLOCK})" if cp > 1 else ""
        why = f"for tensor parallel {tp} and context parallel {cp}{blocks}"
        yield Finding(keys, str(length), f"a multiple of {divisor} {why}")
    elif (length // cp) % chunks:
        keys = ("loss.num_chunks", "training.seq_len", "parallelism.context_parallel_degree")
        local = f"the local sequence, {length} / {cp} = {length // cp}"
        yield Finding(keys, str(chunks), f"a divisor of {local}")


def _check_heads(config: SpeechConfig, shape: BackboneShape) -> Iterator[Finding]:
    """Tensor-parallel ranks divide the heads; key and value heads are fewer, so they decide."""
    degree = max(1, config.parallelism.tensor_parallel_degree)
    if shape.num_kv_heads % degree:
        keys = ("parallelism.tensor_parallel_degree", "model.flavor")
        divisor = max(n for n in range(1, degree) if shape.num_kv_heads % n == 0)
        whose = f"the {shape.num_kv_heads} key and value heads of this {shape.family}"
        yield Finding(keys, str(degree), f"a divisor of {whose}", str(divisor))


def _check_float8_widths(config: SpeechConfig, shape: BackboneShape) -> Iterator[Finding]:
    """Hardware multiplies float8 matrices only if both dimensions, of a rank's part, are multiples of 16."""
    if config.float8.recipe == "none" or config.float8.emulate:
        return
    degree = max(1, config.parallelism.tensor_parallel_degree)
    queries, keys_values = shape.num_heads * shape.head_dim, 2 * shape.num_kv_heads * shape.head_dim
    for name, width in {"attention": queries, "qkv": queries + keys_values, "feed-forward": shape.hidden_dim}.items():
        if width % (degree * FLOAT8_MULTIPLE):
            keys = ("float8.recipe", "parallelism.tensor_parallel_degree", "model.flavor")
            found = f'"{config.float8.recipe}" with a {name} width of {width} / {degree} per rank'
            yield Finding(keys, found, f"a multiple of {FLOAT8_MULTIPLE} per rank; lower the tensor parallel degree")


def _check_microbatches(config: SpeechConfig) -> Iterator[Finding]:
    """A pipeline splits the packs of a rank into microbatches of equal size."""
    parallelism, packs = config.parallelism, config.training.local_batch_packs
    size, degree = max(1, parallelism.pipeline_parallel_microbatch_size), parallelism.pipeline_parallel_degree
    if degree <= 1 or packs < 1:
        return
    if packs % size:
        keys = ("parallelism.pipeline_parallel_microbatch_size", "training.local_batch_packs")
        yield Finding(keys, str(size), f"a divisor of training.local_batch_packs = {packs}")
        return
    passes = packs // size
    if parallelism.pipeline_parallel_schedule == "1F1B" and passes < degree:
        keys = ("training.local_batch_packs", "parallelism.pipeline_parallel_degree")
        found = f"{packs}, which is {passes} passes of {size}"
        expected = f"at least one pass per stage of a 1F1B pipeline, {degree * size} packs"
        yield Finding(keys, found, expected, f"{degree * size}, or the schedule GPipe")
        return
    rounds = max(1, passes // degree)
    if parallelism.pipeline_parallel_schedule == "Interleaved1F1B" and passes % rounds:
        keys = ("training.local_batch_packs", "parallelism.pipeline_parallel_schedule")
        found = f"{packs}, which is {passes} passes in rounds of {degree}"
        expected = f"a number of passes divisible by {rounds} rounds, such as {passes // degree * degree * size} packs"
        yield Finding(keys, found, expected)


def _check_pipeline_stages(config: SpeechConfig, shape: BackboneShape) -> Iterator[Finding]:
    """Layers, and embedding and head at their cost in layers, are divided among the stages; each stage needs a layer or
    the head, the first stage a layer."""
    parallelism = config.parallelism
    if parallelism.pipeline_parallel_degree <= 1:
        return
    stages = parallelism.pipeline_parallel_degree * stages_per_rank(parallelism)
    first, last = (
        parallelism.pipeline_parallel_first_stage_less_layers,
        parallelism.pipeline_parallel_last_stage_less_layers,
    )
    each, more = divmod(shape.num_layers + first + last, stages)  # the first stages take one more
    if each < max(first, last, 1) or each + (more > 0) == first:
        keys = ("parallelism.pipeline_parallel_degree", "model.flavor")
        found = f"{stages} stages for {shape.num_layers} layers, {first} more for the embedding and {last} for the head"
        yield Finding(keys, found, f"fewer stages or lighter ends: {each} per stage is not enough")
