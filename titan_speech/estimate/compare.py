"""The plan as JSON, for scripts. docs/estimate.md lists the keys.

In: `RunPlan`. Out: plain values; bytes, seconds and FLOPs as numbers, what is not known as null. `format` rises
whenever a key goes or changes its meaning; new keys may come.

Two plans side by side, with what differs.

In: two plans. Out: a table: what, one, the other, the second over the first. Rows that are equal are marked with `=`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from titan_speech.estimate.answer import RunEstimate, bytes_sent
from titan_speech.estimate.devices import DEFAULT_ASSUMPTIONS, REFERENCE_SOURCE, REFERENCES
from titan_speech.preflight.compatibility import (
    Composition,
    broken_rules,
    describe_composition,
    enabled_features,
    excluded_features,
)
from titan_speech.utils.text_table import gigabytes, large, table_lines

RECORD_FORMAT = 1


def plan_record(plan: RunEstimate) -> dict[str, Any]:
    question, memory = plan.question, plan.memory
    run = Composition(question.config, plan.shape)
    return {
        "format": RECORD_FORMAT,
        "config": question.name,
        "world_size": question.world_size,
        "device": asdict(question.device),
        "measured_on_a_gpu": False,
        "computed": {
            "composition": {
                "features": [feature.name for feature in enabled_features(run)],
                "problems": [str(finding) for finding in broken_rules(run)],
                "could_not_be_added": excluded_features(run),
            },
            "backbone": asdict(plan.shape),
            "backbone_origin": plan.shape_origin,
            "vocabulary_origin": plan.vocabulary.origin,
            "parameters": asdict(plan.parameters),
            "flops_per_token": {**asdict(plan.flops), "full": plan.flops.full},
            "recomputed_flops": plan.recomputed,
            "steps": asdict(plan.steps),
            "reading": {**asdict(plan.reading), "audio_hours": plan.reading.audio_hours},
            "storage": {
                **asdict(plan.storage),
                "kept_bytes": plan.storage.kept_bytes,
                "most_bytes": plan.storage.most_bytes,
            },
            "traced_without": list(plan.left_out),
            "memory": {
                "tensor_bytes": memory.tensor_bytes,
                "place": memory.place,
                "by_component": memory.by_component,
                "by_phase": memory.by_phase,
            },
            "pipeline_ranks": [
                {
                    **asdict(one.stages),
                    "tensor_bytes": one.memory.tensor_bytes,
                    "pass_flops": one.pass_flops,
                    "step_sec": None if one.speed is None else one.speed.step_sec,
                }
                for one in plan.ranks
                if one.stages is not None
            ],
            "communication": {
                "bytes_sent_per_step": bytes_sent(plan.trace, plan.steps.accumulation),
                "collectives": [
                    {
                        "phase": one.collective.phase,
                        "kind": one.collective.kind,
                        "num_ranks": len(one.collective.ranks),
                        "times": one.times,
                        "buffer_bytes": one.num_bytes,
                        "bytes_sent": one.bytes_sent,
                    }
                    for one in plan.trace.traffic
                ],
            },
        },
        "predicted": {
            "assumptions": asdict(DEFAULT_ASSUMPTIONS),
            "memory_needed_bytes": memory.needed_bytes,
            "fits": memory.fits,
            "speed": None if plan.speed is None else asdict(plan.speed),
        },
        "dry_run": None if plan.dry_run is None else asdict(plan.dry_run),
        "reference": {"source": REFERENCE_SOURCE, "runs": [asdict(one) for one in REFERENCES]},
    }


COMPONENTS = (
    *("parameters", "gradients", "optimizer state", "gathered weights", "reduction buffers", "activations"),
    *("pipeline buffers", "logits and loss"),
)


def comparison(one: RunEstimate, other: RunEstimate) -> str:
    names = [plan.question.name for plan in (one, other)]
    rows = [("", *names, "second / first")]
    for (label, text, value), (_, other_text, other_value) in zip(_figures(one), _figures(other), strict=True):
        ratio = "" if not value or other_value is None else f"{other_value / value:.3g}"
        rows.append((label, text, other_text, "=" if (text, value) == (other_text, other_value) else ratio))
    head = f"two plans on {one.question.world_size:,} x {one.question.device.title}; nothing was measured on a GPU"
    composed = [f"{plan.question.name}: {_composition(plan)}" for plan in (one, other)]
    return "\n".join([head, *(f"  {line}" for line in table_lines(rows, "<>")), *composed])


def _composition(plan: RunEstimate) -> str:
    run = Composition(plan.question.config, plan.shape)
    problems = "; ".join(str(finding) for finding in broken_rules(run))
    return f"{describe_composition(run)}; {f'NOT SUPPORTED: {problems}' if problems else 'supported'}"


def _figures(plan: RunEstimate) -> Iterator[tuple[str, str, float | None]]:
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
