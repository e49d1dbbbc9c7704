"""What must not be in a step that was compiled, and the numbers of one that is sound.

In: the record of a compiled step (child.py). Out: `Finding`s, none if the step is as it should be, and `Summary`. The
rules are of what a GPU would pay for silently: a region that leaves the compiled graph, a graph that is compiled again
in the second step, an operator that the compiler left to eager code, a value that
Python waits for, shared memory that a block cannot have, registers that spill, a float8 layer that is computed in bf16.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

PRODUCTS = {"mm", "bmm", "addmm", "baddbmm", "_scaled_mm"}
"""Matrix products of cuBLAS, which the compiler calls on purpose."""
COMMUNICATION = ("_c10d_functional.", "_dtensor.", "symm_mem.")
MAX_SPILLED_BYTES = 128
"""Per thread. A few spilled registers cost nothing in a kernel that waits for memory; a flex kernel with more than this
is one whose blocks are too large."""


@dataclass(frozen=True)
class Finding:
    """What is wrong, and where."""

    rule: str
    what: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.what}"


@dataclass(frozen=True)
class Summary:
    """Numbers of a compiled step."""

    num_graphs: int
    num_kernels: int
    """Configurations that were compiled."""
    num_launches: int
    """Kernels and library calls of one layer and one chunk of the loss, forward and backward."""
    max_registers: int
    max_shared_bytes: int
    max_spilled_bytes: int
    layer_bytes: int
    """Moved by the kernels of one layer, forward and backward, as Inductor counts reads and writes."""
    loss_bytes: int
    """The same of one chunk of the loss; the head's matrix products are not compiled with it."""
    extern: dict[str, int]


def judge(record: Mapping[str, Any]) -> list[Finding]:
    """The findings of a record, in the order of the rules."""
    return [*_stopped(record), *_graphs(record), *_kernels(record), *_float8(record)]


def summarize(record: Mapping[str, Any]) -> Summary:
    graphs, kernels = record["graphs"], record["kernels"]
    extern: Counter[str] = Counter()
    for graph in graphs:
        extern.update(graph["extern"])
    moved = {region: sum(g["moved_bytes"] for g in graphs if g["region"] == region) for region in ("layer", "loss")}
    return Summary(
        num_graphs=len(graphs),
        num_kernels=len(kernels),
        num_launches=sum(graph["num_launches"] for graph in graphs),
        max_registers=max((kernel["registers"] for kernel in kernels), default=0),
        max_shared_bytes=max((kernel["shared_bytes"] for kernel in kernels), default=0),
        max_spilled_bytes=max((kernel["spilled_bytes"] for kernel in kernels), default=0),
        layer_bytes=moved["layer"],
        loss_bytes=moved["loss"],
        extern=dict(extern),
    )


def _stopped(record: Mapping[str, Any]) -> Iterator[Finding]:
    breaks = record["counters"].get("graph_break", {})
    for reason in breaks:
        yield Finding("graph break", reason.splitlines()[0])
    if record["error"]:
        yield Finding(
            "graph break" if "Unsupported" in record["error"] else "does not compile", _first(record["error"])
        )
    elif not any(graph["region"] == "layer" for graph in record["graphs"]):
        yield Finding("not compiled", "no graph of a layer was compiled; compile.enable may be off")


def _graphs(record: Mapping[str, Any]) -> Iterator[Finding]:
    for graph in record["graphs"]:
        place = f"{graph['region']}, {graph['direction']}"
        if graph["step"] > 1:
            yield Finding("new graph", f"{place}: compiled again in step {graph['step']}")
        if graph["complex_operators"]:
            yield Finding("fall-back", f"{place}: {graph['complex_operators']} operators on complex numbers")
        if graph["host_syncs"]:
            yield Finding("host sync", f"{place}: Python reads {graph['host_syncs']} values from the device")
        for name, times in graph["extern"].items():
            if name.split(".")[-1] not in PRODUCTS and not name.startswith(COMMUNICATION):
                yield Finding("fall-back", f"{place}: {name} is called {times} times outside of the compiler's kernels")


def _kernels(record: Mapping[str, Any]) -> Iterator[Finding]:
    for kernel in record["kernels"]:
        if kernel["error"]:
            yield Finding("kernel", f"{kernel['name']}: {kernel['error']}")
        if kernel["spilled_bytes"] > MAX_SPILLED_BYTES:
            spilled = f"{kernel['spilled_bytes']} bytes per thread, more than {MAX_SPILLED_BYTES}"
            yield Finding("spills", f"{kernel['name']} spills {spilled}")


def _float8(record: Mapping[str, Any]) -> Iterator[Finding]:
    """Each converted layer has one float8 product forward and two backward, and no product in bf16 forward."""
    sizes = record["sizes"]
    if record["error"] or sizes.get("float8", "none") == "none":
        return
    per_layer = sizes["num_converted"] // record["request"]["num_layers"]
    for direction, expected in (("forward", per_layer), ("backward", 2 * per_layer)):
        graphs = [g for g in record["graphs"] if g["region"] == "layer" and g["direction"] == direction]
        found = sum(graph["extern"].get("_scaled_mm", 0) for graph in graphs)
        if not per_layer or found < expected:
            yield Finding("float8", f"layer, {direction}: {found} float8 products of at least {max(expected, 1)}")
        plain = sum(graph["extern"].get("mm", 0) for graph in graphs)
        if direction == "forward" and plain:
            yield Finding("float8", f"layer, forward: {plain} matrix products in bf16")


def _first(error: str) -> str:
    """The line that says what happened."""
    lines = [line.strip() for line in error.splitlines() if line.strip()]
    return lines[0][:300] if lines else error
