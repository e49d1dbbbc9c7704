"""Write the tables of docs/parallelism.md and docs/status.md from their data; the other text is not changed.

    python scripts/parallelism_page.py

In: the rules (titan_speech/preflight/compatibility.py), the list of untested features below, the measured parity of
layouts (benchmarks/results/parallel_matrix.json), steps compiled without a GPU, heads of the loss and published rates
(benchmarks/). Out: both pages, each table between `<!-- table: NAME -->` and
`<!-- end -->`. A test compares the pages with what this prints.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.deviceless.results import (  # noqa: E402
    LEVER_HEAD,
    LEVER_RESULTS,
    RECIPE_HEAD,
    RESULTS,
    lever_rows,
    read_steps,
    recipe_rows,
)
from benchmarks.loss_head_results import PRECISION_HEAD, VOCABULARIES, head_rows, precision_rows  # noqa: E402
from benchmarks.peers import peer_rows  # noqa: E402
from tests.slow.parallel_rows import LAYOUTS, Gap, Layout, families_of, read_gaps, words  # noqa: E402
from titan_speech.config.budget import data_parallel_degree  # noqa: E402
from titan_speech.preflight.compatibility import (  # noqa: E402  # noqa: E402
    COMPATIBILITY_RULES,
    DDP,
    DENSE,
    FEATURES,
    FSDP,
    HSDP,
    Composition,
    Conflict,
    Feature,
    Requirement,
    enabled_features,
)
from titan_speech.preflight.config_checks import load_config  # noqa: E402

PAGES = {
    ROOT / "docs" / "parallelism.md": ("rules", "pairs", "parity", "peers", "compiled", "levers", "heads", "precision"),
    ROOT / "docs" / "status.md": ("untested",),
}
"""Each page with the names of its tables."""
SMALL = ROOT / "tests" / "assets" / "small.toml"

UNTESTED = (
    (
        "flex attention's kernel, alone and under CP, TP, compile",
        "needs CUDA; on a CPU it has no backward pass",
        "its unfused forward pass equals dense attention, a subclass of it with the same masks, split for CP by the "
        "same code; its Triton kernels are compiled for sm_90 (benchmarks/compile_for_gpu.py); FLASH is passed through",
    ),
    (
        "AdamW's moments in bf16",
        "need CUDA: a CPU's fused AdamW has one type for weights and moments",
        "passed through to TorchTitan; the step compiles for sm_90",
    ),
    (
        "varlen attention",
        "needs CUDA",
        "document boundaries come from the same positions; its inputs change length from pack to pack",
    ),
    (
        "CUDA graphs",
        "need CUDA",
        "inputs have the same structure for any packs; a captured mask that is overwritten equals that of the new "
        "packs; loss sums are allocated before capture",
    ),
    (
        "async tensor parallel",
        "needs CUDA: its collectives go through symmetric memory",
        "tensor parallel with compiled layers, which it speeds up",
    ),
    (
        "FSDP in symmetric memory",
        "needs CUDA and NCCL",
        "passed through to TorchTitan; refused without compute capability 9.0",
    ),
    (
        "float8 matrix products",
        "need compute capability 8.9",
        "each recipe's rounding, emulated, in the layouts above; which layers are converted",
    ),
    (
        "NCCL, more than one machine, more than four ranks",
        "no device and one machine",
        "the layouts above over gloo",
    ),
    (
        "ZB and V pipeline schedules",
        "not supported: they split the backward pass, and the chunked loss computes its part of it in the forward pass",
        "1F1B, GPipe, Interleaved1F1B",
    ),
    ("throughput and memory of any layout", "no device", "nothing"),
)
"""What was not run on the machines this project is tested on, why, and what was checked in its place; a row goes when
it was run and recorded."""


def page(path: Path) -> str:
    """The text of a page with its tables written again."""
    tables = {
        "rules": rules,
        "pairs": pairs,
        "parity": parity,
        "untested": untested,
        "peers": published_rates,
        "compiled": compiled,
        "levers": levers,
        "heads": heads,
        "precision": precision,
    }
    text = path.read_text("utf-8")
    for name in PAGES[path]:
        table = tables[name]
        marks = rf"(<!-- table: {name} -->\n).*?(<!-- end -->)"
        text, count = re.subn(marks, lambda found, of=table: found[1] + of() + found[2], text, flags=re.DOTALL)
        assert count == 1, f"{count} places for the table {name!r} in {path.name}"
    return text


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join("| " + " | ".join(cells) + " |\n" for cells in lines)


def rules() -> str:
    rows = (
        (str(number), str(rule), rule.reason, _code(rule.nearest)) for number, rule in enumerate(COMPATIBILITY_RULES, 1)
    )
    return markdown(("", "incompatible", "why", "instead"), rows)


def _code(nearest: str) -> str:
    """Settings in a sentence, set as code."""
    return re.sub(r"[a-z_0-9]+\.[a-z_0-9]+(?: = (?:\"\w+\"|\w+))?", lambda found: f"`{found[0]}`", nearest)


def pairs() -> str:
    """The compatibility matrix, one row and one column per feature: run in a test, allowed, excluded by a rule."""
    met = _met()
    header = ["", *(str(number) for number in range(1, len(FEATURES) + 1))]
    rows = []
    for number, one in enumerate(FEATURES, 1):
        cells = [_cell(one, other, met) for other in FEATURES[:number]]
        rows.append([f"{number} {one.name}", *cells, *[""] * (len(FEATURES) - number)])
    return markdown(header, rows)


def _cell(one: Feature, other: Feature, met: frozenset[frozenset[Feature]]) -> str:
    for number, rule in enumerate(COMPATIBILITY_RULES, 1):
        if isinstance(rule, Conflict) and {rule.first, rule.second} == {one, other}:
            return f"no ({number})"
        if isinstance(rule, Requirement) and {rule.feature, rule.needed} == {one, other}:
            return f"needs ({number})"
    if one is not other and one.group and one.group == other.group:
        return ""
    return "run" if frozenset((one, other)) in met else "·"


@cache
def _met() -> frozenset[frozenset[Feature]]:
    """Pairs of features that were enabled together in a layout that passed."""
    return frozenset(
        frozenset((one, other)) for gap in read_gaps() if gap.passes for one in _on(gap) for other in _on(gap)
    )


def _on(gap: Gap) -> list[Feature]:
    """Features of a measured layout; sharding over one rank is not counted."""
    start = {"checkpoint.initial_load_path": "seed"}
    overrides = {"model.family": gap.family, "model.attention": "dense", **start, **gap.overrides}
    config = load_config(["--job.config_file", str(SMALL), *words(overrides)]).config
    replicas = config.parallelism.data_parallel_replicate_degree
    shards = data_parallel_degree(config.parallelism, gap.world_size) // replicas
    found = [one for one in enabled_features(Composition.of(config)) if one not in (FSDP, HSDP, DDP)]
    data = {(False, True): [FSDP], (True, True): [HSDP], (True, False): [DDP]}.get((replicas > 1, shards > 1), [])
    assert DENSE in found
    return [*data, *found]


def parity() -> str:
    gaps = {(gap.family, gap.layout): gap for gap in read_gaps()}
    header = [
        "layout",
        "ranks",
        "against",
        "llama3: loss",
        "groups",
        "norm",
        "qwen3: loss",
        "groups",
        "norm",
        "tolerance",
    ]
    return markdown(header, (_parity_row(layout, gaps) for layout in LAYOUTS))


def _parity_row(layout: Layout, gaps: dict[tuple[str, str], Gap]) -> list[str]:
    name = f"{layout.name} ({layout.note})" if layout.note else layout.name
    found = [gaps.get((family, layout.name)) for family in ("llama3", "qwen3")]
    against = next((gap.against.removeprefix("one process in ") for gap in found if gap), "")
    tolerance = "none (difference of the recipe)"
    if layout.loss_tolerance is not None:
        tolerance = f"{layout.loss_tolerance:.0e}, norm {layout.norm_tolerance:.0e}"
    return [
        name,
        str(layout.world_size),
        against,
        *_figures(layout, "llama3", found[0]),
        *_figures(layout, "qwen3", found[1]),
        tolerance,
    ]


def _figures(layout: Layout, family: str, gap: Gap | None) -> list[str]:
    if gap is None:
        return ["not measured" if family in families_of(layout) else "", "", ""]
    figures = [f"{value:.0e}" for value in (gap.loss_gap, gap.group_gap, gap.norm_gap)]
    return figures if gap.passes else [f"**{figure}**" for figure in figures]


def untested() -> str:
    return markdown(("", "why it was not run", "what was checked"), UNTESTED)


def published_rates() -> str:
    head, *rows = peer_rows()
    return markdown(head, rows)


def compiled() -> str:
    return markdown(RECIPE_HEAD, recipe_rows(read_steps(RESULTS)))


def levers() -> str:
    return markdown(LEVER_HEAD, lever_rows(read_steps(LEVER_RESULTS)))


def heads() -> str:
    """Heads of the loss at both vocabularies: counted at full size, measured at a small one."""
    header = ("head", "rows", "launches", "products", "GB moved", "peak GB", "host syncs")
    header += ("error of weight gradients", "loss after the steps")
    return markdown(header, (row for num_rows in VOCABULARIES for row in head_rows(num_rows)))


def precision() -> str:
    """Gradients of the heads of the loss against fp64, and the loss after the same steps."""
    return markdown(PRECISION_HEAD, precision_rows())


if __name__ == "__main__":
    for written in PAGES:
        written.write_text(page(written), encoding="utf-8")
