"""Published rates next to the estimate by parts, with MFU counted the same way for all: `python -m benchmarks.peers`.

In: peers.json. Out: a table with the MFU that each publication states, the one at documents' lengths, the rate that the
parts give (titan_speech/estimate/speed_by_parts.py, nothing fitted to these rows, communication left out), and the gap.
A publication that counts attention over a whole window of short documents states more than twice what it computes. Runs
whose publication has too few facts have a reason in place of numbers.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from titan_speech.estimate.devices import DEVICES
from titan_speech.estimate.efficiencies import DEFAULT_EFFICIENCIES
from titan_speech.estimate.speed_by_parts import Pass, parts_of_pass
from titan_speech.model.backbones import BackboneShape, published_shape
from titan_speech.model.flops import count_flops
from titan_speech.utils.text_table import table_lines

FILE = Path(__file__).parent / "peers.json"


@dataclass(frozen=True, kw_only=True)
class Peer:
    """One published run."""

    name: str
    source: str
    device: str
    family: str
    flavor: str
    num_rows: int
    num_tokens: int
    """Of a pass of one GPU."""
    attended: float
    recomputation: str
    is_compiled: bool
    is_float8: bool
    num_shards: int
    tokens_per_sec_per_gpu: float
    stated_mfu: float | None
    shape: dict[str, Any] = field(default_factory=dict[str, Any])
    """Sizes of a backbone that this project does not have; empty for its own."""

    @property
    def backbone(self) -> BackboneShape:
        if not self.shape:
            return published_shape(self.family, self.flavor)
        return BackboneShape.from_record({"family": self.family, "rope_scaling": None, **self.shape})

    @property
    def honest_mfu(self) -> float:
        """At documents' lengths, over the datasheet's bf16 peak."""
        flops = count_flops(self.backbone, self.num_rows).at(self.attended)
        return self.tokens_per_sec_per_gpu * flops / DEVICES[self.device].bf16_flops

    @property
    def estimated(self) -> float:
        """Tokens per second per GPU by parts, without communication."""
        one = Pass(
            num_tokens=self.num_tokens,
            attended=self.attended,
            recomputation=self.recomputation,
            is_compiled=self.is_compiled,
            is_float8=self.is_float8,
            num_ranks_per_sequence=1,
            num_shards=self.num_shards,
            passes_per_step=1,
        )
        parts = parts_of_pass(self.backbone, self.num_rows, one, DEVICES[self.device], DEFAULT_EFFICIENCIES)
        return self.num_tokens / sum(parts.values())

    @property
    def gap(self) -> float:
        """Of the estimate, over the published rate."""
        return self.estimated / self.tokens_per_sec_per_gpu - 1


def peers() -> list[Peer]:
    return [Peer(**run) for run in json.loads(FILE.read_text(encoding="utf-8"))["runs"]]


def peer_rows() -> list[tuple[str, ...]]:
    """A head and a row for each published run."""
    head = ("published", "tokens/s/GPU", "stated MFU", "at documents' length", "by parts", "gap")
    left_out = json.loads(FILE.read_text(encoding="utf-8"))["not_computed"]
    rows = [
        (
            one.name,
            f"{one.tokens_per_sec_per_gpu:,.0f}",
            "" if one.stated_mfu is None else f"{one.stated_mfu:.0%}",
            f"{one.honest_mfu:.0%}",
            f"{one.estimated:,.0f}",
            f"{one.gap:+.0%}",
        )
        for one in peers()
    ]
    reasons = [
        (one["name"], f"{rate:,}" if (rate := one["tokens_per_sec_per_gpu"]) else "", "", "", "", one["reason"])
        for one in left_out
    ]
    return [head, *rows, *reasons]


if __name__ == "__main__":
    print("\n".join(table_lines(peer_rows(), "<>>>>>")))
