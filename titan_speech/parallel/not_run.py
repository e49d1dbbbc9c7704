"""What was not run on the machines this project is tested on, why, and what was checked in its place.

In: nothing. Out: rows of docs/parallelism.md. A row goes when somebody ran it and recorded it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class NotRun:
    """One thing nobody has seen run here."""

    what: str
    why: str
    instead: str


NOT_RUN = (
    NotRun(
        "flex attention's kernel, alone and under CP, TP, compile",
        "needs CUDA; on a CPU it has no backward pass",
        "its unfused forward pass equals dense attention, a subclass of it that is given the same masks, cut for CP by "
        "the same code",
    ),
    NotRun(
        "varlen attention",
        "needs CUDA",
        "borders come from the same positions; that its inputs change length from pack to pack",
    ),
    NotRun(
        "CUDA graphs",
        "need CUDA",
        "inputs have one structure whatever is packed, a mask that was captured and written over is that of the new "
        "packs, sums of losses are allocated before capture",
    ),
    NotRun(
        "async tensor parallel",
        "needs CUDA: its collectives go through symmetric memory",
        "tensor parallel with compiled layers, which it speeds up",
    ),
    NotRun(
        "float8 matrix products",
        "need compute capability 8.9",
        "each recipe's rounding, emulated, in the layouts above; which layers are converted",
    ),
    NotRun(
        "NCCL, more than one machine, more than four ranks",
        "no device and one machine",
        "the layouts above over gloo",
    ),
    NotRun(
        "ZB and V pipeline schedules",
        "not offered: they split the backward pass, and the chunked loss computes its part of it in the forward pass",
        "1F1B, GPipe, Interleaved1F1B",
    ),
    NotRun("throughput and memory of any layout", "no device", "nothing"),
)
