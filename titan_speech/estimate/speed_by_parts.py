"""The speed of a run by parts: matrix products by shape, attention, bytes, launches; and what each lever would gain.

In: sizes of a backbone, a pass (tokens, document lengths, what is recomputed, precision), a device, `Efficiencies`.
Out: seconds by part, and `SpeedByParts`. The fitted speed (speed.py) has one efficiency for everything and so gives
back the published runs, but cannot show what a change is worth; this can.

    products    for each matrix K x N and T tokens: 6 K N T FLOPs, at the part of the peak that such a size reaches
    attention   4 and 10 FLOPs per attended position, head and width, forward and backward; a kernel computes whole
                blocks of 128 positions, so documents count with one block more than they hold
    bytes       read and written by the compiled kernels of a layer, the logits, the sums of the head's gradient over
                chunks of the loss, and the optimizer, over the bandwidth

Efficiencies are named data (`efficiencies.py`), assumed until a report of a GPU replaces them (`--calibrate`).
Elementwise bytes are within 15 % of those that Inductor counts for the 1B layer (a test against the recorded proof).

MFU is given twice: over the datasheet's peak with attention at the full length of a pack, as it is usually published,
and over what the chip does in a large matrix product, where that is measured, with attention at the lengths of the
documents. The second is what is left to gain.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from titan_speech.config.schema import SpeechConfig
from titan_speech.estimate.devices import Device
from titan_speech.estimate.efficiencies import MEASURED_CHIPS, Efficiencies
from titan_speech.estimate.loss_head import LossHead, choose_loss_head, loss_head
from titan_speech.model.backbones import BackboneShape
from titan_speech.model.flops import FlopsPerToken

ATTENTION_BLOCK = 128
"""Positions of a block of flex attention."""
COMPILED_LAUNCHES, EAGER_LAUNCHES = 40, 230
"""Kernels of a layer, forward and backward, compiled (benchmarks/results/compile_for_gpu.json) and not (assumed)."""
RECOMPUTED = {"none": (0.0, 0.0), "selective": (0.4, 0.56), "full": (1.0, 1.0), "memory_budget": (0.4, 0.56)}
"""Parts of a layer's products and elementwise bytes that activation checkpointing repeats: selective saves every other
product, and repeats 2 of 5; bytes as in the proof's record of the 1B layer."""


@dataclass(frozen=True)
class Pass:
    """One forward and backward pass of one GPU, and the step it is part of."""

    num_tokens: int
    attended: float
    """Mean positions that a token attends to."""
    recomputation: str
    is_compiled: bool
    is_float8: bool
    num_ranks_per_sequence: int
    num_shards: int
    """Of weights, gradients and optimizer state."""
    passes_per_step: int
    seq_len: int = 2048
    """Positions of a pack on one rank, which the loss splits."""
    num_chunks: int = 1
    """Of the loss."""
    trains_head: bool = True
    """Whether the head has a gradient, which chunks of the loss add up."""
    sending_sec: float = 0.0
    """Communication that a pass waits for."""
    head_again: int = 0
    """Forward products of the head besides those of a cross-entropy: a preference loss has one."""
    forward_again: int = 0
    """Forward passes of the layers besides that of the pass: a live reference has one."""

    @classmethod
    def of(
        cls, config: SpeechConfig, attended: float | None, num_shards: int, passes_per_step: int, sending_sec: float
    ) -> Pass:
        """The pass of a configuration; without known documents a pack is one document."""
        layout, training = config.parallelism, config.training
        is_live = config.preference.has_reference and config.preference.reference == "adapters_off"
        return cls(
            num_tokens=training.local_batch_packs * training.seq_len,
            attended=attended or (training.seq_len + 1) / 2,
            recomputation=config.activation_checkpoint.kind,
            is_compiled=config.compile.enable,
            is_float8=config.float8.recipe != "none" and not config.float8.emulate,
            num_ranks_per_sequence=layout.tensor_parallel_degree * layout.context_parallel_degree,
            num_shards=num_shards,
            passes_per_step=passes_per_step,
            seq_len=training.seq_len // layout.context_parallel_degree,
            num_chunks=config.loss.num_chunks,
            trains_head=not config.lora.is_on or config.lora.train_new_rows,
            sending_sec=sending_sec,
            head_again=config.preference.is_on + is_live,
            forward_again=int(is_live),
        )


def layer_matrices(shape: BackboneShape) -> dict[str, tuple[int, int]]:
    """Inputs and outputs of the matrices of a layer."""
    queries, keys = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
    return {
        "queries, keys, values": (shape.dim, queries + 2 * keys),
        "attention output": (queries, shape.dim),
        "gate": (shape.dim, shape.hidden_dim),
        "up": (shape.dim, shape.hidden_dim),
        "down": (shape.hidden_dim, shape.dim),
    }


def elementwise_bytes(shape: BackboneShape, num_tokens: int) -> tuple[float, float]:
    """Bytes that the fused kernels of a layer read and write in bf16, forward and backward, without recomputation.

    Forward: norms and sums with the residual; the split of queries, keys and values, rotation and layout for attention;
    gate times up. Backward: half as much again.
    """
    queries, keys = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
    per_token = 2 * (8.5 * shape.dim + 3 * (queries + 2 * keys) + 3 * shape.hidden_dim)
    return num_tokens * per_token, 1.5 * num_tokens * per_token


def parts_of_pass(
    shape: BackboneShape, num_rows: int, one: Pass, device: Device, known: Efficiencies
) -> dict[str, float]:
    """Seconds of each part of a pass, and of its share of the optimizer step.

    Args:
        shape: sizes of the backbone.
        num_rows: rows of the vocabulary.
        one: the pass.
        device: with a peak and a bandwidth.
        known: parts of the peaks that are reached.
    """
    tokens, ranks, layers = one.num_tokens, one.num_ranks_per_sequence, shape.num_layers
    again, bytes_again = (part + one.forward_again for part in RECOMPUTED[one.recomputation])
    bandwidth = device.memory_bytes_per_sec * known.memory
    layer_sec = 0.0
    for inputs, outputs in layer_matrices(shape).values():
        layer_sec += (3 + again) * _product_sec(inputs, outputs, tokens, device, known, is_float8=one.is_float8)
    head_sec = (3 + one.head_again) * _product_sec(shape.dim, num_rows, tokens, device, known, is_float8=False)
    touched = one.attended + ATTENTION_BLOCK
    scores = 4 * touched * shape.num_heads * shape.head_dim * tokens * layers
    num_forward = (2 if one.recomputation == "full" else 1) + one.forward_again
    forward_sec = scores / (device.bf16_flops * known.attention_forward)
    backward_sec = 2.5 * scores / (device.bf16_flops * known.attention_backward)
    forward_bytes, backward_bytes = elementwise_bytes(shape, tokens)
    elementwise = layers * (forward_bytes * (1 + bytes_again) + backward_bytes)
    unfused = 1.0 if one.is_compiled else known.eager_bytes
    quantized = 6 * tokens * sum(sum(pair) for pair in layer_matrices(shape).values()) * layers if one.is_float8 else 0
    parameters = shape.num_parameters(num_rows) / one.num_shards
    launches = (COMPILED_LAUNCHES if one.is_compiled else EAGER_LAUNCHES) * layers * (1 + again / 3)
    head = loss_head(one.num_chunks, tokens, num_rows // ranks, shape.dim)
    parts = {
        "products of the layers": layers * layer_sec / ranks,
        "products of the head": head_sec / ranks,
        "attention": (forward_sec * num_forward + backward_sec) / ranks,
        "logits and loss": (8 + 2 * one.head_again)
        * tokens
        * num_rows
        / bandwidth
        / ranks
        * (1.0 if one.is_compiled else known.eager_logits),
        "sums of the head's gradient": head.sum_bytes * one.trains_head / bandwidth,
        "norms, rotation, SwiGLU": elementwise * unfused / bandwidth / ranks,
        "rounding to float8": quantized / bandwidth / ranks,
        "gradients": 12 * parameters / bandwidth,
        "optimizer and clipping": 44 * parameters / bandwidth / one.passes_per_step,
        "launches": launches * known.launch_sec,
    }
    sustained = {name: seconds / known.sustained for name, seconds in parts.items()}
    sustained["waiting for links"] = one.sending_sec
    return {name: seconds for name, seconds in sustained.items() if seconds}


def _product_sec(
    inputs: int, outputs: int, tokens: int, device: Device, known: Efficiencies, *, is_float8: bool
) -> float:
    """Seconds of one product of `tokens` rows."""
    flops = 2.0 * inputs * outputs * tokens
    smallest = min(inputs, outputs, tokens)
    reached = smallest / (smallest + known.half_size)
    if is_float8 and device.fp8_flops is not None:
        return flops / (device.fp8_flops * known.float8_products * reached)
    return flops / (device.bf16_flops * known.products * reached)


def levers(one: Pass, device: Device, num_chunks: int) -> Mapping[str, Pass]:
    """Changes of a pass that a configuration can make, by the key that makes them; only those that change it.

    Args:
        one: the pass.
        device: that it runs on.
        num_chunks: of the loss, by the rule.
    """
    changed = {
        'activation_checkpoint.kind = "none"': replace(one, recomputation="none"),
        "twice the packs per GPU": replace(
            one, num_tokens=2 * one.num_tokens, passes_per_step=max(1, one.passes_per_step // 2)
        ),
        "compile.enable = true": replace(one, is_compiled=True),
        'float8.recipe = "rowwise"': replace(one, is_float8=device.fp8_flops is not None),
        f"loss.num_chunks = {num_chunks}": replace(one, num_chunks=num_chunks),
        "no waiting for links": replace(one, sending_sec=0.0),
    }
    return {name: other for name, other in changed.items() if other != one}


@dataclass(frozen=True)
class SpeedByParts:
    """Seconds of a pass by part, and what follows."""

    parts_sec: dict[str, float]
    tokens_per_sec_per_gpu: float
    mfu: float
    """Over the datasheet's peak, attention at full length."""
    honest_mfu: float
    """Over the chip's own rate in matrix products (the datasheet's peak where it is not known), attention at documents'
    lengths."""
    chip_bf16_flops: float
    """The rate `honest_mfu` is over, FLOP/s."""
    loss_head: LossHead
    """As the run has it."""
    chosen_loss_head: LossHead
    """By the rule; that of the run if the head is frozen, since its chunks have no gradients to add up."""
    levers: dict[str, float]
    """Tokens per second with a change over those without it, by its name, largest first."""
    efficiencies: Efficiencies


def speed_by_parts(
    shape: BackboneShape,
    num_rows: int,
    one: Pass,
    seq_len: int,
    flops: FlopsPerToken,
    device: Device,
    known: Efficiencies,
) -> SpeedByParts | None:
    """Predict by parts.

    Args:
        shape: sizes of the backbone.
        num_rows: rows of the vocabulary.
        one: a pass of the run.
        seq_len: tokens of a pack, for the usual MFU.
        flops: of the model, per token.
        device: what it runs on.
        known: parts of the peaks that are reached.

    Returns:
        None for a device without a peak.
    """
    if not device.bf16_flops:
        return None
    parts = parts_of_pass(shape, num_rows, one, device, known)
    rate = _rate(one, parts)
    chip = known.chip_bf16_flops or MEASURED_CHIPS.get(device.name, device.bf16_flops)
    local_rows = num_rows // one.num_ranks_per_sequence
    current = loss_head(one.num_chunks, one.num_tokens, local_rows, shape.dim)
    chosen = choose_loss_head(one.num_tokens, one.seq_len, local_rows, shape.dim) if one.trains_head else current
    gains = {
        name: _rate(other, parts_of_pass(shape, num_rows, other, device, known)) / rate
        for name, other in levers(one, device, chosen.num_chunks).items()
    }
    return SpeedByParts(
        parts_sec=parts,
        tokens_per_sec_per_gpu=rate,
        mfu=rate * flops.at(seq_len) / device.bf16_flops,
        honest_mfu=rate * flops.at(one.attended) / chip,
        chip_bf16_flops=chip,
        loss_head=current,
        chosen_loss_head=chosen,
        levers=dict(sorted(gains.items(), key=lambda item: -item[1])),
        efficiencies=known,
    )


def _rate(one: Pass, parts: dict[str, float]) -> float:
    return one.num_tokens / one.num_ranks_per_sequence / sum(parts.values())
