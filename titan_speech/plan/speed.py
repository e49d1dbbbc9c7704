"""How long a step takes, from a stated model; a prediction, not a measurement.

In: FLOPs, what the trace sends, the device, the assumptions. Out: `Speed`.

    computing = (FLOPs of the model + recomputed ones) of a pass on one GPU / (peak * efficiency) * (1 + bubble)
    sending   = for each collective, bytes sent / rate of its slowest link
    pass      = computing + sending that cannot hide: at least (1 - overlap) of it, all that is longer than computing
    step      = passes * pass + sending of the optimizer step

Of a pipeline it is the time of its slowest rank, which the others fill the pipeline before and drain it after; what
stages send each other is waited for. A ring over whole nodes leaves each node through all its network cards at once, so
its rate is the cards' sum, at most the link inside; a group with one rank a node has one card.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from titan_speech.config.budget import Budget, data_parallel_degree
from titan_speech.config.tables import SpeechConfig
from titan_speech.parallel.pipeline import bubble
from titan_speech.plan.hardware import Assumptions, Device
from titan_speech.plan.step import StepTrace


@dataclass(frozen=True)
class Speed:
    """Seconds of a step and what follows from them."""

    computing_sec: float
    """Of all passes of a step."""
    sending_sec: float
    """Of all collectives of a step, hidden or not."""
    exposed_sec: float
    """What of it computing waits for."""
    step_sec: float
    tokens_per_sec_per_gpu: float
    """Tokens of the run; fillers are not counted."""
    mfu: float
    """Model FLOPs at full attention length, without recomputation and fillers, over the bf16 peak."""
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
    """None for a device without a peak. `pass_flops`: of one pass on this GPU, recomputed ones included."""
    if not device.bf16_flops:
        return None
    budget, layout = Budget.from_config(config), config.parallelism
    dp_degree = data_parallel_degree(layout, world_size)
    passes = budget.accumulation(dp_degree)
    rate = device.bf16_flops * assumed.efficiency * _factor(config, device, assumed)
    computing = pass_flops / rate * bubble(config)
    hidden, waiting = _sending(config, trace, "pass", device, assumed)
    exposed = max(hidden * (1 - assumed.overlap), hidden - computing) + waiting
    last = sum(_sending(config, trace, "optimizer", device, assumed))
    step_sec = passes * (computing + exposed) + last
    hours = budget.num_steps * step_sec / 3600
    rate_of_tokens = budget.tokens_per_step / step_sec / world_size
    return Speed(
        computing_sec=passes * computing,
        sending_sec=passes * (hidden + waiting) + last,
        exposed_sec=passes * exposed + last,
        step_sec=step_sec,
        tokens_per_sec_per_gpu=rate_of_tokens,
        mfu=rate_of_tokens * model_flops_per_token / device.bf16_flops,
        run_hours=hours,
        gpu_hours=hours * world_size,
        price=None if price_per_gpu_hour is None else hours * world_size * price_per_gpu_hour,
    )


def _factor(config: SpeechConfig, device: Device, assumed: Assumptions) -> float:
    factor = 1.0 if config.compile.enable else assumed.eager_factor
    gains = _uses_float8(config) and config.compile.enable and device.fp8_flops is not None
    return factor * (assumed.float8_factor if gains else 1.0)


def _uses_float8(config: SpeechConfig) -> bool:
    return config.float8.recipe != "none" and not config.float8.emulate


def _sending(
    config: SpeechConfig, trace: StepTrace, when: str, device: Device, assumed: Assumptions
) -> tuple[float, float]:
    """Seconds of what can hide behind computing (weights and gradients), and the rest after its own overlap."""
    hidden = waiting = 0.0
    is_async = config.compile.enable_async_tensor_parallel
    overlap = assumed.async_tensor_parallel_overlap if is_async else assumed.tensor_parallel_overlap
    inner = _ranks_of_a_sequence(config)
    for traffic in trace.traffic:
        phase, kind, ranks = traffic.collective
        if phase != when:
            continue
        between_stages = kind == "point_to_point"
        rate = neighbour_rate(ranks, device) if between_stages else link_rate(ranks, device)
        seconds = traffic.bytes_sent / (rate * assumed.bus_efficiency)
        if between_stages or ranks[-1] - ranks[0] < inner:  # ranks of one sequence are neighbours
            waiting += seconds * (1 - overlap)
        else:
            hidden += seconds
    return hidden, waiting


def _ranks_of_a_sequence(config: SpeechConfig) -> int:
    layout = config.parallelism
    return layout.tensor_parallel_degree * layout.context_parallel_degree


def link_rate(ranks: tuple[int, ...], device: Device) -> float:
    """Bytes a second of a ring over these ranks, numbered node by node."""
    per_node = Counter(rank // device.devices_per_node for rank in ranks)
    if len(per_node) == 1:
        return device.local_bytes
    return min(device.local_bytes, min(per_node.values()) * device.nic_bytes)


def neighbour_rate(ranks: tuple[int, ...], device: Device) -> float:
    """Bytes a second from one rank to the next of a pipeline, where that leaves a node if any step does."""
    nodes = {rank // device.devices_per_node for rank in ranks}
    return device.local_bytes if len(nodes) == 1 else device.nic_bytes


def bytes_sent(trace: StepTrace, passes: int) -> float:
    """Bytes one rank sends in a step of so many passes."""
    return sum(one.bytes_sent * (passes if one.collective.phase == "pass" else 1) for one in trace.traffic)
