"""How long a step takes, from a stated model (a roofline); a prediction, not a measurement.

In: FLOPs, what the trace sends, the device, the assumptions. Out: `Speed`.

    computing = (FLOPs of the model + recomputed ones) of a pass on one GPU / (peak * efficiency) * (1 + bubble)
    sending   = for each collective, bytes sent / rate of its slowest link
    pass      = computing + sending that cannot overlap: at least (1 - overlap) of it, and all that takes longer than
                computing
    step      = passes * pass + sending of the optimizer step

For a pipeline it is the time of its slowest rank, which the others fill before and drain after; what stages send each
other never overlaps. A ring over whole nodes leaves each node through all its network cards at once, so its rate is the
sum of the cards, at most that of the link inside; a group with one rank per node has one card. It gives back the
published pretraining runs within 5 % (a test).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from titan_speech.config.budget import Budget, data_parallel_degree
from titan_speech.config.schema import SpeechConfig
from titan_speech.distributed.pipeline import bubble
from titan_speech.estimate.devices import Assumptions, Device
from titan_speech.estimate.step_trace import StepTrace


@dataclass(frozen=True)
class Speed:
    """Seconds of a step, and what follows from them."""

    computing_sec: float
    """Of all passes of a step."""
    sending_sec: float
    """Of all collectives of a step, overlapped or not."""
    exposed_sec: float
    """The part of it that does not overlap with computing."""
    step_sec: float
    tokens_per_sec_per_gpu: float
    """Tokens of the run; padding packs are not counted."""
    mfu: float
    """Model FLOPs at full attention length, without recomputation and padding packs, over the bf16 peak."""
    run_hours: float
    gpu_hours: float
    price: float | None


def predict(
    config: SpeechConfig,
    world_size: int,
    trace: StepTrace,
    model_flops_per_token: float,
    pass_flops: float,
    device: Device,
    assumed: Assumptions,
    price_per_gpu_hour: float | None,
) -> Speed | None:
    """Predict the time of a step.

    Args:
        config: of the run.
        world_size: number of GPUs.
        trace: of one rank; its collectives are used.
        model_flops_per_token: for the MFU.
        pass_flops: of one pass on this GPU, recomputed ones included.
        device: what it runs on.
        assumed: what turns FLOPs and bytes into seconds.
        price_per_gpu_hour: in any currency; None: no price.

    Returns:
        None for a device without a peak.
    """
    if not device.bf16_flops:
        return None
    budget = Budget.from_config(config)
    passes = budget.accumulation(data_parallel_degree(config.parallelism, world_size))
    rate = device.bf16_flops * assumed.efficiency * _speed_factor(config, device, assumed)
    computing = pass_flops / rate * bubble(config)
    overlapping, blocking = _sending(config, trace, "pass", device, assumed)
    exposed = max(overlapping * (1 - assumed.overlap), overlapping - computing) + blocking
    optimizer = sum(_sending(config, trace, "optimizer", device, assumed))
    step_sec = passes * (computing + exposed) + optimizer
    hours = (budget.num_steps - config.stage.num_done) * step_sec / 3600
    tokens_per_sec_per_gpu = budget.tokens_per_step / step_sec / world_size
    return Speed(
        computing_sec=passes * computing,
        sending_sec=passes * (overlapping + blocking) + optimizer,
        exposed_sec=passes * exposed + optimizer,
        step_sec=step_sec,
        tokens_per_sec_per_gpu=tokens_per_sec_per_gpu,
        mfu=tokens_per_sec_per_gpu * model_flops_per_token / device.bf16_flops,
        run_hours=hours,
        gpu_hours=hours * world_size,
        price=None if price_per_gpu_hour is None else hours * world_size * price_per_gpu_hour,
    )


def _speed_factor(config: SpeechConfig, device: Device, assumed: Assumptions) -> float:
    """Speed over that of compiled bf16 layers."""
    if not config.compile.enable:
        return assumed.eager_factor
    uses_float8 = config.float8.recipe != "none" and not config.float8.emulate
    return assumed.float8_factor if uses_float8 and device.fp8_flops is not None else 1.0


def _sending(
    config: SpeechConfig, trace: StepTrace, phase: str, device: Device, assumed: Assumptions
) -> tuple[float, float]:
    """Seconds of collectives that can overlap with computing (weights and gradients), and of those it waits for."""
    overlapping = blocking = 0.0
    layout = config.parallelism
    is_async = config.compile.enable_async_tensor_parallel
    overlap = assumed.async_tensor_parallel_overlap if is_async else assumed.tensor_parallel_overlap
    ranks_per_sequence = layout.tensor_parallel_degree * layout.context_parallel_degree
    for traffic in trace.traffic:
        collective = traffic.collective
        if collective.phase != phase:
            continue
        ranks, is_between_stages = collective.ranks, collective.kind == "point_to_point"
        rate = neighbour_rate(ranks, device) if is_between_stages else link_rate(ranks, device)
        seconds = traffic.bytes_sent / (rate * assumed.bus_efficiency)
        if is_between_stages or ranks[-1] - ranks[0] < ranks_per_sequence:  # ranks of one sequence are neighbours
            blocking += seconds * (1 - overlap)
        else:
            overlapping += seconds
    return overlapping, blocking


def link_rate(ranks: tuple[int, ...], device: Device) -> float:
    """Bytes per second of a ring over these ranks, numbered node by node."""
    per_node = Counter(rank // device.devices_per_node for rank in ranks)
    if len(per_node) == 1:
        return device.local_bytes
    return min(device.local_bytes, min(per_node.values()) * device.nic_bytes)


def neighbour_rate(ranks: tuple[int, ...], device: Device) -> float:
    """Bytes per second from one rank of a pipeline to the next; that of a network card if any two are on two nodes."""
    nodes = {rank // device.devices_per_node for rank in ranks}
    return device.local_bytes if len(nodes) == 1 else device.nic_bytes


def bytes_sent(trace: StepTrace, passes: int) -> float:
    """Bytes that one rank sends in a step with so many passes."""
    return sum(one.bytes_sent * (passes if one.collective.phase == "pass" else 1) for one in trace.traffic)
