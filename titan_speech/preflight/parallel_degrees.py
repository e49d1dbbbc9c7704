"""Sizes that degrees of parallelism must divide.

In: a configuration and, where its flavor says them, the sizes of the backbone. Out: a `Finding` for each division that
does not come out. With `flavor = "initial"` heads and layers are known only once the folder is read: `start.py` asks
again then.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from titan_speech.config.problem import Finding
from titan_speech.config.schema import SpeechConfig
from titan_speech.distributed.pipeline import stages_per_rank
from titan_speech.model.backbones import BackboneShape
from titan_speech.preflight.compatibility import Composition

MASK_BLOCK = 128
"""Tokens of a block of an attention mask: a context-parallel rank holds whole blocks."""

FLOAT8_MULTIPLE = 16
"""Both widths of a matrix in float8 are multiples of it."""


def check_sizes(config: SpeechConfig) -> Iterator[Finding]:
    """Every size that does not come out even."""
    yield from _sequence(config)
    yield from _microbatches(config)
    shape = Composition.of(config).shape
    if shape is not None:
        yield from check_shape(config, shape)


def check_shape(config: SpeechConfig, shape: BackboneShape) -> Iterator[Finding]:
    """Those of the backbone's sizes."""
    yield from _length(config, shape)
    yield from _heads(config, shape)
    yield from _float8(config, shape)
    yield from _stages(config, shape)


def _sequence(config: SpeechConfig) -> Iterator[Finding]:
    """Context parallel ranks take whole blocks of the mask, in two halves; tensor parallel ranks cut these halves,
    the loss's chunks what a context parallel rank keeps."""
    length = config.training.seq_len
    cp = max(1, config.parallelism.context_parallel_degree)
    tp = max(1, config.parallelism.tensor_parallel_degree)
    chunks = max(1, config.loss.num_chunks)
    divisor = math.lcm(cp * MASK_BLOCK, 2 * cp * tp) if cp > 1 else tp
    if length % divisor:
        keys = (
            "training.seq_len",
            "parallelism.tensor_parallel_degree",
            "parallelism.context_parallel_degree",
        )
        blocks = f" (in blocks of {MASK_BLOCK})" if cp > 1 else ""
        why = f"for tensor parallel {tp} and context parallel {cp}{blocks}"
        yield Finding(keys, str(length), f"a multiple of {divisor} {why}")
    elif (length // cp) % chunks:
        keys = ("loss.num_chunks", "training.seq_len", "parallelism.context_parallel_degree")
        local = f"the local sequence, {length} / {cp} = {length // cp}"
        yield Finding(keys, str(chunks), f"a divisor of {local}")


def _length(config: SpeechConfig, shape: BackboneShape) -> Iterator[Finding]:
    if config.training.seq_len > shape.max_positions:
        expected = f"at most {shape.max_positions}, the positions of this backbone"
        yield Finding(("training.seq_len", "model.flavor"), str(config.training.seq_len), expected)


def _heads(config: SpeechConfig, shape: BackboneShape) -> Iterator[Finding]:
    """Tensor-parallel ranks share the heads out; the fewer key and value heads decide."""
    degree = max(1, config.parallelism.tensor_parallel_degree)
    if shape.num_kv_heads % degree:
        keys = ("parallelism.tensor_parallel_degree", "model.flavor")
        divisor = max(n for n in range(1, degree) if shape.num_kv_heads % n == 0)
        whose = f"the {shape.num_kv_heads} key and value heads of this {shape.family}"
        yield Finding(keys, str(degree), f"a divisor of {whose}", str(divisor))


def _float8(config: SpeechConfig, shape: BackboneShape) -> Iterator[Finding]:
    """Hardware multiplies float8 matrices only if both widths, of a rank's part, are multiples of 16."""
    if config.float8.recipe == "none" or config.float8.emulate:
        return
    degree = max(1, config.parallelism.tensor_parallel_degree)
    queries, keys_values = shape.num_heads * shape.head_dim, 2 * shape.num_kv_heads * shape.head_dim
    for name, width in {"attention": queries, "qkv": queries + keys_values, "feed-forward": shape.hidden_dim}.items():
        if width % (degree * FLOAT8_MULTIPLE):
            keys = ("float8.recipe", "parallelism.tensor_parallel_degree", "model.flavor")
            found = f'"{config.float8.recipe}" with a {name} width of {width} / {degree} a rank'
            yield Finding(keys, found, f"a multiple of {FLOAT8_MULTIPLE} a rank; lower the tensor parallel degree")


def _microbatches(config: SpeechConfig) -> Iterator[Finding]:
    """A pipeline passes the packs of a rank in equal parts."""
    table, packs = config.parallelism, config.training.local_batch_packs
    size, degree = max(1, table.pipeline_parallel_microbatch_size), table.pipeline_parallel_degree
    if degree <= 1 or packs < 1:
        return
    if packs % size:
        keys = ("parallelism.pipeline_parallel_microbatch_size", "training.local_batch_packs")
        yield Finding(keys, str(size), f"a divisor of training.local_batch_packs = {packs}")
        return
    passes = packs // size
    if table.pipeline_parallel_schedule == "1F1B" and passes < degree:
        keys = ("training.local_batch_packs", "parallelism.pipeline_parallel_degree")
        found = f"{packs}, which is {passes} passes of {size}"
        expected = f"at least one pass a stage of a 1F1B pipeline, {degree * size} packs"
        yield Finding(keys, found, expected, f"{degree * size}, or the schedule GPipe")
        return
    rounds = max(1, passes // degree)
    if table.pipeline_parallel_schedule == "Interleaved1F1B" and passes % rounds:
        keys = ("training.local_batch_packs", "parallelism.pipeline_parallel_schedule")
        found = f"{packs}, which is {passes} passes in rounds of {degree}"
        yield Finding(
            keys, found, f"passes that {rounds} rounds share evenly, such as {passes // degree * degree * size}"
        )


def _stages(config: SpeechConfig, shape: BackboneShape) -> Iterator[Finding]:
    """Layers, with embedding and head weighing some, are shared out over the stages; the first needs one of its own."""
    table = config.parallelism
    if table.pipeline_parallel_degree <= 1:
        return
    stages = table.pipeline_parallel_degree * stages_per_rank(table)
    first, last = table.pipeline_parallel_first_stage_less_layers, table.pipeline_parallel_last_stage_less_layers
    each, more = divmod(shape.num_layers + first + last, stages)  # the first stages take one more
    if each < max(first, last, 1) or each + (more > 0) == first:
        keys = ("parallelism.pipeline_parallel_degree", "model.flavor")
        found = f"{stages} stages for {shape.num_layers} layers, {first} more for the embedding and {last} for the head"
        yield Finding(keys, found, f"fewer stages or lighter ends: {each} a stage is not enough")
