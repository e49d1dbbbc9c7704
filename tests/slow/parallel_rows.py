"""The layouts that are compared with one process, and what was measured of each.

In: nothing. Out: rows of the parity matrix, as overrides of tests/assets/small.toml, with the run of one process that
each is compared with; and their figures as they are kept in benchmarks/results/parallel_matrix.json.
`parallel_matrix.py` runs them, tests run a few, docs/parallelism.md prints them.
"""

from __future__ import annotations

import fcntl
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "parallel_matrix.json"
NUM_STEPS = 10
LOSS_TOLERANCE = 1e-5
"""Relative, in fp32: the same sums in another order, over ten steps of which each builds on the last."""

NORM_TOLERANCE = 3e-3
"""Relative, of gradient norms: a CPU sums millions of squares in fp32, and by parts gives another rounding."""

FLOAT8_TOLERANCE = 2e-3
"""Relative, of losses in float8. A layout must be nearer to one process in float8 than the recipe itself is to fp32
(2.2e-3 of groups, 0.25 of norms). It has scales of its own where ranks share what is scaled together: a row cut by
tensor parallel (1.4e-3 measured), a matrix of several ranks' tokens with one scale; elsewhere a value near a border of
its 8 bits falls to either side of it (3e-4)."""

FLOAT8_NORM_TOLERANCE = 1e-1
"""The largest measured is 5.2e-2."""


@dataclass(frozen=True)
class Layout:
    """One way to run the small model; the defaults are one process, fp32, eager."""

    name: str
    world_size: int
    overrides: dict[str, str]
    is_untied: bool = False
    float8: str = "none"
    """Recipe, emulated; the run of one process it is compared with has it too, unless `against_fp32`."""

    against_fp32: bool = False
    """Compared with fp32 whatever it does itself: how far a recipe is from fp32, which is no error."""

    loss_tolerance: float | None = LOSS_TOLERANCE
    note: str = ""
    in_both: bool = False
    """Also for qwen3; every layout is for llama3."""

    lora_rank: int = 0
    """Adapters of this rank on the seed checkpoint; the run of one process it is compared with has them too."""

    @property
    def norm_tolerance(self) -> float | None:
        if self.loss_tolerance is None:
            return None
        return NORM_TOLERANCE if self.float8 == "none" else FLOAT8_NORM_TOLERANCE


def families_of(layout: Layout) -> tuple[str, ...]:
    return ("llama3", "qwen3") if layout.in_both else ("llama3",)


def _parallel(**degrees: int | str) -> dict[str, str]:
    names = {"replicate": "data_parallel_replicate", "shard": "data_parallel_shard", "tp": "tensor_parallel"}
    names |= {"cp": "context_parallel", "pp": "pipeline_parallel"}
    keys = {key: f"{names[key]}_degree" if key in names else key for key in degrees}
    return {f"parallelism.{keys[key]}": str(value) for key, value in degrees.items()}


COMPILED = {"compile.enable": "true"}
INTERLEAVED = {"pipeline_parallel_schedule": "Interleaved1F1B", "pipeline_parallel_first_stage_less_layers": 0}
SELECTIVE, FULL = {"activation_checkpoint.kind": "selective"}, {"activation_checkpoint.kind": "full"}
MEMORY_BUDGET = {"activation_checkpoint.kind": "memory_budget"}

LAYOUTS = (
    Layout("FSDP 2", 2, _parallel(shard=2), in_both=True),
    Layout("DDP 2", 2, _parallel(replicate=2, shard=1), in_both=True),
    Layout("TP 2", 2, _parallel(tp=2), in_both=True),
    Layout("CP 2", 2, _parallel(cp=2), in_both=True),
    Layout("PP 2", 2, _parallel(pp=2), is_untied=True, in_both=True),
    Layout("HSDP 2 x 2", 4, _parallel(replicate=2, shard=2) | {"training.local_batch_packs": "1"}, in_both=True),
    Layout("TP 2 + FSDP 2", 4, _parallel(tp=2, shard=2), in_both=True),
    Layout("compiled", 1, COMPILED, in_both=True),
    Layout("full activation checkpointing", 1, FULL, in_both=True),
    Layout("full logits", 1, {"loss.num_chunks": "1"}, in_both=True),
    Layout("accumulation 4", 1, {"training.local_batch_packs": "1"}, note="against 2", in_both=True),
    Layout("accumulation 1", 1, {"training.local_batch_packs": "4"}, note="against 2", in_both=True),
    Layout(
        "FSDP 4",
        4,
        _parallel(shard=4) | {"training.local_batch_packs": "1"},
        note="world size 4 against 1",
        in_both=True,
    ),
    Layout("PP 2 + FSDP 2", 4, _parallel(pp=2, shard=2), is_untied=True, in_both=True),
    Layout(
        "float8 rowwise, FSDP 2", 2, _parallel(shard=2), float8="rowwise", loss_tolerance=FLOAT8_TOLERANCE, in_both=True
    ),
    Layout("selective activation checkpointing", 1, SELECTIVE, in_both=True),
    Layout("memory budget 0.5, compiled", 1, MEMORY_BUDGET | COMPILED, in_both=True),
    Layout("CP 2 + FSDP 2", 4, _parallel(cp=2, shard=2)),
    Layout("CP 2, ptrr", 2, _parallel(cp=2, context_parallel_load_balancer="ptrr")),
    Layout("CP 2, no load balancer", 2, _parallel(cp=2, context_parallel_load_balancer="none")),
    Layout("CP 2 + TP 2", 4, _parallel(cp=2, tp=2)),
    Layout("PP 2, GPipe", 2, _parallel(pp=2, pipeline_parallel_schedule="GPipe"), is_untied=True),
    Layout("PP 2, Interleaved1F1B", 2, _parallel(pp=2, **INTERLEAVED), is_untied=True),
    Layout("PP 2 + TP 2", 4, _parallel(pp=2, tp=2), is_untied=True),
    Layout("PP 2 + CP 2", 4, _parallel(pp=2, cp=2), is_untied=True),
    Layout("FSDP 2, ZeRO-2", 2, _parallel(shard=2, fsdp_reshard_after_forward="never")),
    Layout("FSDP 2, padding packs", 2, {"training.local_batch_packs": "3"}, note="2 of 6 packs per step are padding"),
    Layout("FSDP 2, loader processes", 2, {"data.num_workers": "2"}),
    Layout("FSDP 2, compiled", 2, _parallel(shard=2) | COMPILED),
    Layout("FSDP 2, compiled, selective activation checkpointing", 2, _parallel(shard=2) | COMPILED | SELECTIVE),
    Layout("TP 2, compiled", 2, _parallel(tp=2) | COMPILED),
    Layout("CP 2, compiled", 2, _parallel(cp=2) | COMPILED),
    Layout("PP 2, compiled", 2, _parallel(pp=2) | COMPILED, is_untied=True),
    Layout("PP 2, full logits", 2, _parallel(pp=2) | {"loss.num_chunks": "1"}, is_untied=True),
    Layout("PP 2, full activation checkpointing", 2, _parallel(pp=2) | FULL, is_untied=True),
    Layout("LoRA, FSDP 2", 2, _parallel(shard=2), lora_rank=8, in_both=True),
    Layout("LoRA, TP 2", 2, _parallel(tp=2), lora_rank=8, in_both=True),
    Layout("LoRA, CP 2", 2, _parallel(cp=2), lora_rank=8),
    Layout("LoRA, TP 2 + FSDP 2", 4, _parallel(tp=2, shard=2), lora_rank=8),
    Layout("LoRA, FSDP 2, compiled", 2, _parallel(shard=2) | COMPILED, lora_rank=8),
    Layout("LoRA, TP 2, compiled", 2, _parallel(tp=2) | COMPILED, lora_rank=8),
    Layout("LoRA, selective activation checkpointing", 1, SELECTIVE, lora_rank=8),
    Layout("float8 rowwise, TP 2", 2, _parallel(tp=2), float8="rowwise", loss_tolerance=FLOAT8_TOLERANCE),
    Layout("float8 rowwise, CP 2", 2, _parallel(cp=2), float8="rowwise", loss_tolerance=FLOAT8_TOLERANCE),
    Layout("float8 rowwise, PP 2", 2, _parallel(pp=2), True, "rowwise", loss_tolerance=FLOAT8_TOLERANCE),
    Layout("float8 tensorwise, FSDP 2", 2, _parallel(shard=2), float8="tensorwise", loss_tolerance=FLOAT8_TOLERANCE),
    Layout("float8 rowwise", 1, {}, float8="rowwise", against_fp32=True, loss_tolerance=None),
    Layout("float8 tensorwise", 1, {}, float8="tensorwise", against_fp32=True, loss_tolerance=None),
    Layout("float8 rowwise_with_gw_hp", 1, {}, False, "rowwise_with_gw_hp", True, None),
)


@dataclass(frozen=True)
class Gap:
    """What one layout of one family was found to be off, relative to one process."""

    family: str
    layout: str
    world_size: int
    overrides: dict[str, str]
    against: str
    num_steps: int
    loss_gap: float
    """Largest over the steps, of the loss over all tokens."""

    group_gap: float
    """Largest over the steps and over all groups (token kind, task, language, source)."""

    norm_gap: float
    """Largest over the steps, of the gradient norm."""

    loss_tolerance: float | None
    norm_tolerance: float | None
    last_loss: float
    sec: float

    @property
    def passes(self) -> bool:
        if self.loss_tolerance is None or self.norm_tolerance is None:
            return True
        return max(self.loss_gap, self.group_gap) <= self.loss_tolerance and self.norm_gap <= self.norm_tolerance


def read_gaps(path: Path = RESULTS) -> list[Gap]:
    """What was measured so far."""
    return [Gap(**record) for record in json.loads(path.read_text())["rows"]] if path.exists() else []


def keep(gap: Gap, measured_on: str, path: Path = RESULTS) -> None:
    """Add or replace one row, in the order of the layouts; both families may be measured at once."""
    order = {(family, layout.name): place for place, layout in enumerate(LAYOUTS) for family in families_of(layout)}
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        gaps = {(one.family, one.layout): one for one in (*read_gaps(path), gap)}
        rows = [asdict(gaps[key]) for key in sorted(gaps.keys() & order.keys(), key=lambda key: (key[0], order[key]))]
        record = {"measured_on": measured_on, "config": "tests/assets/small.toml", "rows": rows}
        path.write_text(json.dumps(record, indent=1) + "\n")
    finally:
        os.close(folder)


def flavor(layout: Layout) -> str:
    return "debug_untied" if layout.is_untied else "debug"


def settings(layout: Layout) -> dict[str, str]:
    """All that a layout sets: what was on in it can be read from its record."""
    untied = {"model.flavor": "debug_untied"} if layout.is_untied else {}
    return layout.overrides | variant(layout) | untied


def variant(layout: Layout) -> dict[str, str]:
    """What the run of one process that a layout is compared with sets too, unless it is compared with fp32."""
    return float8_overrides(layout.float8) | ({"lora.rank": str(layout.lora_rank)} if layout.lora_rank else {})


def words(overrides: dict[str, str]) -> list[str]:
    """As they are written on a command line."""
    return [word for key, value in overrides.items() for word in (f"--{key}", value)]


def float8_overrides(recipe: str) -> dict[str, str]:
    return {} if recipe == "none" else {"float8.recipe": recipe, "float8.emulate": "true"}
