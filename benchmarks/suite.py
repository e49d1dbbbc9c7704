"""Input and output of every suite, and how pairs of windows become metrics and ratios.

In: `Options` of the command. Out: `Found`, which run.py makes a report of. The measure is wall time: a loader that
sleeps costs no CPU time. CPU seconds are given too, since on a shared machine they vary less. How much is measured is
`Rounds`: of 24 pairs the median's 95 % interval is from the 7th to the 18th, of ten from the 2nd to the 9th; with six
variants ten pairs are what fits in minutes.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.record import Better, Case, Figure, Goal, Ratio
from benchmarks.turns import Rounds, Turn, Window

SUITES = ("train_step", "sft_packing", "data_path", "checkpoint_stall", "startup", "memory")
QUICK = Rounds(warmup_steps=2, window_steps=1, num_rounds=7)
QUICK_PAIR = Rounds(warmup_steps=2, window_steps=1, num_rounds=12)
PAIR = Rounds(warmup_steps=4, window_steps=2, num_rounds=24)
MANY = Rounds(warmup_steps=3, window_steps=1, num_rounds=10)


def rounds_of(num_variants: int, is_quick: bool) -> Rounds:
    if num_variants == 2:
        return QUICK_PAIR if is_quick else PAIR
    if is_quick:
        return QUICK
    return PAIR if num_variants == 1 else MANY


OURS = "benchmarks.loops.ours"
NO_GPU = (
    "No GPU was measured: there is none on this machine. Figures in tokens/s are of a CPU and say nothing of a GPU."
)


@dataclass(frozen=True)
class Options:
    """What was asked for."""

    is_quick: bool = False
    """Fewer rounds, smaller data."""
    is_dry_run: bool = False
    """Nothing is measured: shapes, layouts and files are tried, GPU cases on a fake process group."""
    ours: str = OURS
    """Module that is measured as ours: another one stands for another build."""
    only: tuple[str, ...] = ()
    """Cases to run; empty: all that this machine can."""
    world_size: int = 0
    """GPUs of a run; 0: all of this machine."""

    def wants(self, case: str) -> bool:
        return not self.only or case in self.only


@dataclass(frozen=True)
class Found:
    """What a suite found."""

    cases: tuple[Case, ...]
    ratios: tuple[Ratio, ...] = ()
    note: str = ""


_BEGAN = time.monotonic()


def tell(text: str) -> None:
    """Progress, on stderr."""
    print(f"[{time.monotonic() - _BEGAN:6.1f} s] {text}", file=sys.stderr, flush=True)


def step_figures(turn: Turn) -> tuple[Figure, ...]:
    """Of each window of a variant."""
    windows, gpus = turn.windows, turn.variant.world_size

    def of(name: str, unit: str, value: Callable[[Window], float]) -> Figure:
        return Figure.of(name, unit, [value(window) for window in windows])

    return (
        of("step_sec", "s", step_sec),
        of("cpu_sec_per_step", "s", cpu_sec),
        of("tokens_per_sec_per_gpu", "tokens/s", lambda one: one.num_tokens / one.wall_sec / gpus),
        of("trained_tokens_per_sec_per_gpu", "tokens/s", lambda one: trained_rate(one) / gpus),
        of("pad_fraction", "1", lambda one: one.num_pad_tokens / max(one.num_tokens, 1)),
        of("data_wait_fraction", "1", lambda one: one.data_wait_sec / one.wall_sec),
        of("peak_memory_gb", "GB", lambda one: one.peak_memory_bytes / 1e9),
        of("compiled_graphs", "graphs", lambda one: float(one.num_compiled_graphs)),
        Figure.of("start_to_first_step_sec", "s", [turn.ready_sec]),
    )


def step_sec(window: Window) -> float:
    return window.wall_sec / window.num_steps


def cpu_sec(window: Window) -> float:
    """Of all threads, per step."""
    return window.cpu_sec / window.num_steps


def token_rate(window: Window) -> float:
    return window.num_tokens / window.wall_sec


def trained_rate(window: Window) -> float:
    return window.num_trained_tokens / window.wall_sec


def token_cpu_rate(window: Window) -> float:
    return window.num_tokens / window.cpu_sec


def trained_cpu_rate(window: Window) -> float:
    return window.num_trained_tokens / window.cpu_sec


def case_of(turn: Turn, config: Mapping[str, str | float | None]) -> Case:
    """`module` distinguishes another build (--ours) from this one."""
    return Case(turn.variant.name, turn.variant.what, {"module": turn.variant.module, **config}, step_figures(turn))


def ratio_of(
    name: str,
    what: str,
    over: Turn,
    under: Turn,
    value: Callable[[Window], float],
    goal: Goal | None = None,
    better: Better = "higher",
) -> Ratio:
    """`value` of one over that of the other, round by round."""
    pairs = zip(over.windows, under.windows, strict=True)
    return Ratio.of(name, what, [value(one) / value(other) for one, other in pairs], goal, better)


def config_words(config: Path | str, overrides: Mapping[str, str]) -> tuple[str, ...]:
    """As they are written on a command line."""
    flags = [word for key, value in overrides.items() for word in (f"--{key}", value)]
    return ("--job.config_file", str(config), *flags)


def shown(
    config: str, overrides: Mapping[str, str | float | None], rounds: Sequence[tuple[str, float]]
) -> dict[str, str | float | None]:
    """What a case's `config` says: the file, what was changed in it, how much was measured."""
    return {"config": config, **overrides, **dict(rounds)}
