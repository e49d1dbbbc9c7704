"""Two estimates side by side.

In: two estimates. Out: a table: what is compared, one, the other, the second over the first. Equal rows have `=`.
"""

from __future__ import annotations

from collections.abc import Iterator

from titan_speech.estimate.report import short_number
from titan_speech.estimate.result import RunEstimate
from titan_speech.estimate.speed import bytes_sent
from titan_speech.preflight.compatibility import Composition, broken_rules, describe_composition
from titan_speech.utils.text_table import counted, gigabytes, large, table_lines

COMPONENTS = (
    "parameters",
    "gradients",
    "optimizer state",
    "gathered weights",
    "reduction buffers",
    "activations",
    "pipeline buffers",
    "logits and loss",
)


def comparison(one: RunEstimate, other: RunEstimate) -> str:
    names = [estimate.request.name for estimate in (one, other)]
    rows = [("", *names, "second / first")]
    for (label, text, value), (_, other_text, other_value) in zip(_figures(one), _figures(other), strict=True):
        ratio = "" if not value or other_value is None else f"{other_value / value:.3g}"
        rows.append((label, text, other_text, "=" if (text, value) == (other_text, other_value) else ratio))
    head = f"two estimates on {one.request.world_size:,} x {one.request.device.title}; nothing was measured on a GPU"
    composed = [f"{estimate.request.name}: {_composition(estimate)}" for estimate in (one, other)]
    return "\n".join([head, *(f"  {line}" for line in table_lines(rows, "<>")), *composed])


def _composition(estimate: RunEstimate) -> str:
    run = Composition(estimate.request.config, estimate.shape)
    problems = "; ".join(str(finding) for finding in broken_rules(run))
    return f"{describe_composition(run)}; {f'NOT SUPPORTED: {problems}' if problems else 'supported'}"


def _figures(estimate: RunEstimate) -> Iterator[tuple[str, str, float | None]]:
    """What is compared: its name, its value as text, and as a number."""
    steps, memory, speed = estimate.steps, estimate.memory, estimate.speed
    yield "parameters", large(estimate.parameters.total), estimate.parameters.total
    yield "trained parameters", large(estimate.parameters.trained), estimate.parameters.trained
    yield "FLOPs per token", large(estimate.flops_per_token), estimate.flops_per_token
    yield "recomputed", f"{estimate.recomputed:.1%}", estimate.recomputed
    yield "tokens per step", f"{steps.tokens_per_step:,}", steps.tokens_per_step
    yield "steps", f"{steps.num_steps:,}", steps.num_steps
    yield "tokens", large(steps.total_tokens), steps.total_tokens
    yield "accumulation steps", f"{steps.accumulation:,}", steps.accumulation
    yield "padding packs per step", f"{steps.filler_packs:,}", steps.filler_packs
    yield "full checkpoint", gigabytes(estimate.storage.full_bytes), estimate.storage.full_bytes
    yield "checkpoints kept", gigabytes(estimate.storage.kept_bytes), estimate.storage.kept_bytes
    yield "tensors per GPU", gigabytes(memory.tensor_bytes), memory.tensor_bytes
    for name in COMPONENTS:
        size = memory.by_component.get(name, 0)
        yield f"  {name}", gigabytes(size), size
    yield "fits", {True: "yes", False: "NO", None: "?"}[memory.fits], None
    sent = bytes_sent(estimate.trace, steps.accumulation)
    yield "sent per step", gigabytes(sent), sent
    yield (
        "tokens/s/GPU",
        "?" if speed is None else f"{speed.tokens_per_sec_per_gpu:,.0f}",
        speed and speed.tokens_per_sec_per_gpu,
    )
    parts = estimate.by_parts
    yield (
        "tokens/s/GPU by parts",
        "?" if parts is None else f"{parts.tokens_per_sec_per_gpu:,.0f}",
        parts and parts.tokens_per_sec_per_gpu,
    )
    known = {} if speed is None else {"days": speed.run_hours / 24, "GPU hours": speed.gpu_hours, "price": speed.price}
    for name in ("days", "GPU hours", "price"):
        value = known.get(name)
        yield name, "?" if value is None else short_number(value), value
    if estimate.request.dry_run:
        yield (
            "dry run",
            "no" if estimate.dry_run is None else f"{counted(estimate.dry_run.num_steps, 'step')} taken",
            None,
        )
