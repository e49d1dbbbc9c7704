"""The identity of a batch that was skipped: RUN/health/skipped-step-N.json.

In: what is known of the step, the plan, and which slots each rank computed. Out: a JSON file with the slots, the
samples in them and the command that prints them. Where the loss of single ranks was not finite, only theirs are named.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from titan_speech.data.plan import DataPlan
from titan_speech.data.slots import StepShape, slots_text
from titan_speech.health.guard import StepReading

FOLDER = "health"


@dataclass(frozen=True)
class BatchFinder:
    """Which slots a rank computed in a step."""

    plan: DataPlan
    shape: StepShape
    ranks_per_sequence: int
    """Ranks that compute the same packs (tensor and context parallel)."""

    def slots(self, step: int) -> range:
        """All slots of a step, steps counted from 1 as the trainer does."""
        return self.plan.phase.slots(step - 1)

    def slots_of(self, step: int, rank: int) -> list[int]:
        slots = self.slots(step)
        dp_rank = rank // self.ranks_per_sequence % self.shape.dp_degree
        places = self.plan.places(slots.start, len(slots))
        return sorted(slots.start + i for i in self.shape.run(places, dp_rank))

    def suspects(self, reading: StepReading) -> list[int]:
        """Slots of the ranks whose loss was not finite; all slots where that does not tell."""
        of_ranks = {slot for rank in reading.bad_ranks for slot in self.slots_of(reading.step, rank)}
        return sorted(of_ranks) or list(self.slots(reading.step))

    def samples(self, slots: list[int]) -> list[dict[str, Any]]:
        """What each slot is made of; reads sidecars."""
        packs = [self.plan.pack(slot) for slot in slots]
        return [
            {
                "slot": pack.slot,
                "stream": self.plan.streams[pack.stream].name,
                "samples": [f"{ref.part}/{'+'.join(ref.sample_ids)}" for ref in self.plan.sample_refs(pack)],
            }
            for pack in packs
        ]


def write_skipped(folder: Path, finder: BatchFinder, reading: StepReading) -> Path:
    """Write down a skipped step of the run in `folder`; figures that are not finite are text."""
    slots = finder.slots(reading.step)
    suspects = finder.suspects(reading)
    record = {
        "step": reading.step,
        "loss": repr(reading.loss),
        "gradient": "finite" if reading.gradient_is_finite else "not finite",
        "ranks": list(reading.bad_ranks),
        "slots": [slots.start, slots.stop - 1],
        "suspect_slots": suspects,
        "show": f"titan-speech data show --job.config_file {folder}/config.toml --slots {slots_text(suspects)}",
        "packs": finder.samples(suspects),
    }
    path = folder / FOLDER / f"skipped-step-{reading.step}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path
