"""The plan as JSON, for scripts. docs/plan.md lists the keys.

In: `RunPlan`. Out: plain values; bytes, seconds and FLOPs as numbers, what is not known as null. `format` rises
whenever a key goes or changes its meaning; new keys may come.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from titan_speech.parallel.features import Composition, features_on
from titan_speech.parallel.support import broken_rules, refused_additions
from titan_speech.plan.answer import RunPlan
from titan_speech.plan.hardware import ASSUMED, REFERENCE_SOURCE, REFERENCES
from titan_speech.plan.speed import bytes_sent

FORMAT = 1


def record(plan: RunPlan) -> dict[str, Any]:
    question, memory = plan.question, plan.memory
    run = Composition(question.config, plan.shape)
    return {
        "format": FORMAT,
        "config": question.name,
        "world_size": question.world_size,
        "device": asdict(question.device),
        "measured_on_a_gpu": False,
        "computed": {
            "composition": {
                "features": [feature.name for feature in features_on(run)],
                "problems": [str(finding) for finding in broken_rules(run)],
                "could_not_be_added": refused_additions(run),
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
            "assumptions": asdict(ASSUMED),
            "memory_needed_bytes": memory.needed_bytes,
            "fits": memory.fits,
            "speed": None if plan.speed is None else asdict(plan.speed),
        },
        "dry_run": None if plan.dry_run is None else asdict(plan.dry_run),
        "reference": {"source": REFERENCE_SOURCE, "runs": [asdict(one) for one in REFERENCES]},
    }
