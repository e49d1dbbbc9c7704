"""An estimate as JSON, for scripts; docs/formats.md lists the keys.

In: `RunEstimate`. Out: plain values; bytes, seconds and FLOPs as numbers, what is not known as null. `format` rises
whenever a key is removed or changes its meaning; new keys may be added.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from titan_speech.estimate.devices import DEFAULT_ASSUMPTIONS, PUBLISHED_RUNS, REFERENCE_SOURCE
from titan_speech.estimate.result import RunEstimate
from titan_speech.estimate.speed import bytes_sent
from titan_speech.preflight.compatibility import Composition, broken_rules, enabled_features, excluded_features

RECORD_FORMAT = 1


def estimate_record(estimate: RunEstimate) -> dict[str, Any]:
    """The keys of the JSON, with what is computed and what is predicted apart."""
    request = estimate.request
    return {
        "format": RECORD_FORMAT,
        "config": request.name,
        "world_size": request.world_size,
        "device": asdict(request.device),
        "measured_on_a_gpu": False,
        "computed": _computed(estimate),
        "predicted": _predicted(estimate),
        "dry_run": None if estimate.dry_run is None else asdict(estimate.dry_run),
        "reference": {"source": REFERENCE_SOURCE, "runs": [asdict(one) for one in PUBLISHED_RUNS]},
    }


def _computed(estimate: RunEstimate) -> dict[str, Any]:
    memory, run = estimate.memory, Composition(estimate.request.config, estimate.shape)
    return {
        "composition": {
            "features": [feature.name for feature in enabled_features(run)],
            "problems": [str(finding) for finding in broken_rules(run)],
            "could_not_be_added": excluded_features(run),
        },
        "backbone": asdict(estimate.shape),
        "backbone_origin": estimate.shape_origin,
        "vocabulary_origin": estimate.vocabulary.origin,
        "parameters": asdict(estimate.parameters),
        "flops_per_token": {
            "matrices": estimate.flops.matrices,
            **{f"attention_{name}": value for name, value in estimate.attention_flops.items()},
            "full": estimate.flops_per_token,
        },
        "recomputed_flops": estimate.recomputed,
        "steps": asdict(estimate.steps),
        "reading": {**asdict(estimate.data), "audio_hours": estimate.data.audio_hours},
        "storage": {
            **asdict(estimate.storage),
            "kept_bytes": estimate.storage.kept_bytes,
            "most_bytes": estimate.storage.most_bytes,
        },
        "traced_without": list(estimate.left_out),
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
            for one in estimate.ranks
            if one.stages is not None
        ],
        "communication": {
            "bytes_sent_per_step": bytes_sent(estimate.trace, estimate.steps.accumulation),
            "collectives": [
                {
                    "phase": one.collective.phase,
                    "kind": one.collective.kind,
                    "num_ranks": len(one.collective.ranks),
                    "times": one.times,
                    "buffer_bytes": one.num_bytes,
                    "bytes_sent": one.bytes_sent,
                }
                for one in estimate.trace.traffic
            ],
        },
    }


def _predicted(estimate: RunEstimate) -> dict[str, Any]:
    return {
        "assumptions": asdict(DEFAULT_ASSUMPTIONS),
        "memory_needed_bytes": estimate.memory.needed_bytes,
        "fits": estimate.memory.fits,
        "speed": None if estimate.speed is None else asdict(estimate.speed),
        "reference_pass": None if estimate.reference is None else asdict(estimate.reference),
        "speed_by_parts": None if estimate.by_parts is None else asdict(estimate.by_parts),
    }
