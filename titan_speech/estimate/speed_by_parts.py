"""The speed of a run by parts, its honest MFU, and what each lever would gain.

In: an estimate's counts, the waiting for links from its trace, efficiencies. Out: `SpeedByParts`. MFU is given twice:
over the datasheet's peak with attention at the full length of a pack, as it is usually published, and over what the
chip does in a large matrix product, where that is measured, with attention at the lengths of the documents. The second
is what is left to gain.
"""

from __future__ import annotations

from dataclasses import dataclass

from titan_speech.estimate.devices import Device
from titan_speech.estimate.efficiencies import MEASURED_CHIPS, Efficiencies
from titan_speech.estimate.loss_head import LossHead, choose_loss_head, loss_head
from titan_speech.estimate.parts import Pass, levers, parts_of_pass
from titan_speech.model.backbones import BackboneShape
from titan_speech.model.flops import FlopsPerToken


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
