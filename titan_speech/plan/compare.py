"""Two plans side by side, with what differs.

In: two plans. Out: a table: what, one, the other, the second over the first. Rows that are equal are marked with `=`.
"""

from __future__ import annotations

from collections.abc import Iterator

from titan_speech.parallel.features import Composition
from titan_speech.parallel.support import broken_rules, describe_composition
from titan_speech.plan.answer import RunPlan
from titan_speech.plan.speed import bytes_sent
from titan_speech.plan.units import gigabytes, large, table

COMPONENTS = (
    *("parameters", "gradients", "optimizer state", "gathered weights", "reduction buffers", "activations"),
    *("pipeline buffers", "logits and loss"),
)


def comparison(one: RunPlan, other: RunPlan) -> str:
    names = [plan.question.name for plan in (one, other)]
    rows = [("", *names, "second / first")]
    for (label, text, value), (_, other_text, other_value) in zip(_figures(one), _figures(other), strict=True):
        ratio = "" if not value or other_value is None else f"{other_value / value:.3g}"
        rows.append((label, text, other_text, "=" if (text, value) == (other_text, other_value) else ratio))
    head = f"two plans on {one.question.world_size:,} x {one.question.device.title}; nothing was measured on a GPU"
    composed = [f"{plan.question.name}: {_composition(plan)}" for plan in (one, other)]
    return "\n".join([head, *(f"  {line}" for line in table(rows)), *composed])


def _composition(plan: RunPlan) -> str:
    run = Composition(plan.question.config, plan.shape)
    problems = "; ".join(str(finding) for finding in broken_rules(run))
    return f"{describe_composition(run)}; {f'NOT SUPPORTED: {problems}' if problems else 'supported'}"


def _figures(plan: RunPlan) -> Iterator[tuple[str, str, float | None]]:
    """What is compared: its name, as text, as a number."""
    steps, memory, speed = plan.steps, plan.memory, plan.speed
    yield "parameters", large(plan.parameters.total), plan.parameters.total
    yield "FLOPs a token", large(plan.flops.full), plan.flops.full
    yield "recomputed", f"{plan.recomputed:.1%}", plan.recomputed
    yield "tokens a step", f"{steps.tokens_per_step:,}", steps.tokens_per_step
    yield "steps", f"{steps.num_steps:,}", steps.num_steps
    yield "tokens", large(steps.total_tokens), steps.total_tokens
    yield "passes a step", f"{steps.accumulation:,}", steps.accumulation
    yield "filler packs a step", f"{steps.filler_packs:,}", steps.filler_packs
    yield "full checkpoint", gigabytes(plan.storage.full_bytes), plan.storage.full_bytes
    yield "checkpoints kept", gigabytes(plan.storage.kept_bytes), plan.storage.kept_bytes
    yield "tensors of a GPU", gigabytes(memory.tensor_bytes), memory.tensor_bytes
    for name in COMPONENTS:
        size = memory.by_component.get(name, 0)
        yield f"  {name}", gigabytes(size), size
    yield "fits", {True: "yes", False: "NO", None: "?"}[memory.fits], None
    sent = bytes_sent(plan.trace, steps.accumulation)
    yield "sent in a step", gigabytes(sent), sent
    yield (
        "tokens/s/GPU",
        "?" if speed is None else f"{speed.tokens_per_sec_per_gpu:,.0f}",
        speed and speed.tokens_per_sec_per_gpu,
    )
    yield "days", *_short(speed and speed.run_hours / 24)
    yield "GPU hours", *_short(speed and speed.gpu_hours)
    yield "price", *_short(speed and speed.price)
    if plan.question.dry_run:
        yield "dry run", "no" if plan.dry_run is None else f"{plan.dry_run.num_steps} steps taken", None


def _short(value: float | None) -> tuple[str, float | None]:
    """As text and number: whole numbers from 100 on, three digits below."""
    return "?" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.3g}", value
