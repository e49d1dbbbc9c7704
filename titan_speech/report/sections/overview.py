"""The state of each run in one line or a few tiles: how far it came, how well, how fast, what went wrong."""

from __future__ import annotations

import math
from collections.abc import Sequence

from titan_speech.report.blocks import Block, Cell, Section, Table, Tile, Tiles, Tone
from titan_speech.report.chart import value_text
from titan_speech.report.run import Run
from titan_speech.report.sections.ledger import account_of
from titan_speech.utils.progress import clock
from titan_speech.utils.text_table import amount, counted

STATES: dict[str, Tone] = {"complete": "good", "running": "good", "stopped": "warn"}


def overview(runs: Sequence[Run]) -> Section | None:
    """The first thing to see."""
    blocks: list[Block] = [Tiles(list(tiles(runs[0])))] if len(runs) == 1 else [_table(runs)]
    return Section("overview", "Overview", "", blocks)


def tiles(run: Run) -> list[Tile]:
    """The numbers of one run."""
    log = run.log
    share = min(1.0, log.last_step / run.num_steps) if run.num_steps else 0.0
    found = [
        Tile(
            "Progress",
            f"{share:.0%}" if run.num_steps else f"step {log.last_step:,}",
            f"step {log.last_step:,} of {run.num_steps:,}" if run.num_steps else "",
        )
    ]
    tokens = log.last_step * run.tokens_per_step
    if tokens:
        found.append(Tile("Tokens", amount(tokens), _time_left(run)))
    loss = log.column("loss")
    if loss.steps:
        found.append(Tile("Training loss", f"{loss.last:.4f}", f"nats per token; first {loss.values[0]:.4f}"))
    for name in sorted({one.split("/")[0] for one in log.names("validation/")}):
        column = log.column(f"validation/{name}/loss")
        if column.steps:
            perplexity = log.column(f"validation/{name}/perplexity").at(column.steps[-1])
            note = "" if perplexity is None else f"perplexity {value_text(perplexity)} "
            note += f"at step {column.steps[-1]:,}"
            found.append(Tile(f"Loss on {name}", f"{column.last:.4f}", note))
    stop = log.column("generation/stop_failure")
    if stop.steps:
        tone = "good" if stop.last < 0.2 else "warn" if stop.last < 0.8 else "bad"
        found.append(Tile("Generation stops", f"{1 - stop.last:.0%}", f"of prompts at step {stop.steps[-1]:,}", tone))
    rate, mfu = log.column("tokens_per_sec_per_gpu"), log.column("mfu")
    if rate.steps:
        note = "tokens per second and GPU" + (f"; MFU {mfu.last:.1%}" if mfu.steps else "")
        found.append(Tile("Throughput", f"{rate.last:,.0f}", note))
    time = account_of(run)
    if time is not None:
        found.append(Tile("Goodput", f"{time.goodput:.1%}", f"of {clock(time.total_sec)} of all processes"))
    restarts = len(log.starts) - 1
    warnings = len(run.messages)
    found.append(
        Tile(
            "Checkpoints",
            f"{len(run.checkpoints):,}",
            f"newest at step {run.checkpoints[-1].step:,}" if run.checkpoints else "none is complete",
        )
    )
    found.append(
        Tile(
            "Warnings",
            f"{warnings:,}",
            f"{counted(max(restarts, 0), 'restart')}; see the list below",
            "warn" if warnings or restarts > 0 else "good",
        )
    )
    return found


def _time_left(run: Run) -> str:
    step_sec = run.log.column("step_time_sec")
    left_sec = (run.num_steps - run.log.last_step) * step_sec.last if step_sec.steps else math.inf
    if run.state != "running" or not run.num_steps or not left_sec < math.inf:
        return f"{run.tokens_per_step:,} per step"
    return f"{clock(left_sec)} left at this rate"


def _table(runs: Sequence[Run]) -> Table:
    rows = []
    for run in runs:
        log = run.log
        sets = sorted({one.split("/")[0] for one in log.names("validation/")})
        validation = log.column(f"validation/{sets[0]}/loss") if sets else log.column("")
        loss, rate = log.column("loss"), log.column("tokens_per_sec_per_gpu")
        mfu, stop = log.column("mfu"), log.column("generation/stop_failure")
        rows.append(
            (
                Cell(run.name, color=f"c{run.color}"),
                Cell(run.state, STATES[run.state]),
                f"{log.last_step:,}" + (f" of {run.num_steps:,}" if run.num_steps else ""),
                amount(log.last_step * run.tokens_per_step),
                f"{loss.last:.4f}" if loss.steps else "–",
                f"{validation.last:.4f}" if validation.steps else "–",
                f"{1 - stop.last:.0%}" if stop.steps else "–",
                f"{rate.last:,.0f}" if rate.steps else "–",
                f"{mfu.last:.1%}" if mfu.steps else "–",
                f"{len(run.checkpoints):,}",
                f"{max(0, len(log.starts) - 1):,}",
                Cell(f"{len(run.messages):,}", "warn" if run.messages else ""),
            )
        )
    heads = (
        "Run",
        "State",
        "Step",
        "Tokens",
        "Loss",
        "Validation loss",
        "Generation stops",
        "Tokens/s/GPU",
        "MFU",
        "Checkpoints",
        "Restarts",
        "Warnings",
    )
    return Table(heads, rows, num_words=2)
