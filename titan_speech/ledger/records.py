"""Records of the ledger of time: the format of RUN/ledger/rank-N.jsonl, and reading it.

In: a run folder. Out: one `Process` per process that worked on the run. Each rank appends to its own file; nodes
without a shared file system have the files of their own ranks. Lines of a file, in order, for each process:

    {"kind": "begin", "rank": 1, "start": 0, "world_size": 2, "node": "n17", "pid": 47, "from_step": 0, "at": 179.25}
    {"kind": "span", "start": 0, "first_step": 1, "last_step": 30, "until": 211.5, "sec": {"start": 6.1, ...}}
    {"kind": "end", "start": 0, "until": 300.2, "how": "complete"}

`start` numbers the starts of the run (0, 1, ...), the same on all ranks of one start. `at` is when the operating system
created the process, `until` when the line was written; both are Unix times. A span covers the time since the line
before it; `sec` has its seconds by class, and what is missing in them is unclassified. Steps first_step to last_step
ended in the span: none if last_step < first_step. A span ends at every save, and about every half minute, so the steps
between a save and a kill are spans of their own. The last line may be cut or half rewritten; it is then ignored. A
process without an `end` was killed, or failed at its last `until`.

Classes in `sec`: start, compile, step, data_wait, collective_wait, validation, save_stall, idle. `restart` and
`lost_work` follow from several processes (goodput.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from titan_speech.utils.json_text import is_number, parse_json

LEDGER_DIR = "ledger"
MAX_NUMBER = 1e15
"""Largest time or step; a greater number is neither."""

START, COMPILE, STEP, DATA_WAIT, COLLECTIVE_WAIT = "start", "compile", "step", "data_wait", "collective_wait"
VALIDATION, SAVE_STALL, IDLE = "validation", "save_stall", "idle"
RESTART, LOST_WORK = "restart", "lost_work"

MEASURED = (START, COMPILE, STEP, DATA_WAIT, COLLECTIVE_WAIT, VALIDATION, SAVE_STALL, IDLE)
"""Classes that a process measures."""

CLASSES = {
    STEP: "forward, backward and update, with the log steps: the time that counts as goodput",
    START: "from the creation of a process to its first step, in the first start of the run",
    COMPILE: "compiling, whenever it happens",
    DATA_WAIT: "waiting for a batch",
    COLLECTIVE_WAIT: "waiting for other ranks (on CUDA at step boundaries only: inside a step the device waits)",
    VALIDATION: "validation and generation checks",
    SAVE_STALL: "waiting for checkpoints",
    RESTART: "the same in later starts, with the time since the last sign of life of a process not asked to stop",
    LOST_WORK: "steps after the checkpoint that the next start resumed from",
    IDLE: "suspended, or waiting after the last step for uploads, exports and other ranks",
}
"""All ten classes, with what belongs to them."""

COMPLETE, STOPPED, FAILED, KILLED = "complete", "stopped", "failed", ""
"""How a process ended, in its own words; one that was killed left none."""


@dataclass(frozen=True)
class LedgerSpan:
    """A stretch of one process's time."""

    from_sec: float
    """Unix time."""
    until_sec: float
    first_step: int
    last_step: int
    """Steps first_step to last_step ended in it; last_step < first_step: none."""
    seconds: dict[str, float]
    """Seconds by class."""

    @property
    def num_steps(self) -> int:
        return max(0, self.last_step - self.first_step + 1)


@dataclass(frozen=True)
class Process:
    """One process of a run."""

    rank: int
    start: int
    """Number of the start of the run."""
    world_size: int
    node: str
    from_step: int
    """Steps that were done before."""
    began_sec: float
    """Unix time of its creation."""
    ended_sec: float
    """Unix time of its last sign of life."""
    how: str
    """How it ended: complete, stopped, failed, or "" if it was killed or still runs."""
    spans: tuple[LedgerSpan, ...] = ()


def ledger_file(run_folder: Path, rank: int) -> Path:
    """The file of a rank."""
    return run_folder / LEDGER_DIR / f"rank-{rank}.jsonl"


def read_ledger(run_folder: Path) -> list[Process]:
    """All processes of a run whose files are in this folder, by rank and start; lines that are cut are left out."""
    files = sorted((run_folder / LEDGER_DIR).glob("rank-*.jsonl"))
    processes = (process for file in files for process in _processes(_lines(file)))
    return sorted(processes, key=lambda one: (one.rank, one.start, one.began_sec))  # a clock may go back


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    with file.open("rb") as lines:
        for line in lines:
            try:
                record = parse_json(line)
            except ValueError:
                continue
            if isinstance(record, dict):
                yield record


def _processes(records: Iterator[dict[str, Any]]) -> Iterator[Process]:
    """The processes of one rank. Lines that are no records of this format are left out."""
    begun: Process | None = None
    spans: list[LedgerSpan] = []
    for record in records:
        try:
            if record["kind"] == "begin":
                another = _begun(record)
                if begun is not None:
                    yield replace(begun, spans=tuple(spans))
                begun, spans = another, []
            elif begun is not None and record["start"] == begun.start:
                until_sec = _number(record["until"])
                if record["kind"] == "end":
                    begun = replace(begun, how=str(record["how"]))
                else:
                    spans.append(_span(record, begun.ended_sec, until_sec))
                begun = replace(begun, ended_sec=until_sec)
        except (KeyError, TypeError, ValueError, AttributeError):
            continue
    if begun is not None:
        yield replace(begun, spans=tuple(spans))


def _begun(record: dict[str, Any]) -> Process:
    at_sec = _number(record["at"])
    names = ("rank", "start", "world_size", "from_step")
    rank, start, world_size, from_step = (int(_number(record[name])) for name in names)
    return Process(rank, start, world_size, str(record["node"]), from_step, at_sec, at_sec, how=KILLED)


def _span(record: dict[str, Any], from_sec: float, until_sec: float) -> LedgerSpan:
    seconds = {name: _number(value) for name, value in record["sec"].items() if name in MEASURED}
    first_step, last_step = (int(_number(record[name])) for name in ("first_step", "last_step"))
    return LedgerSpan(from_sec, until_sec, first_step, last_step, seconds)


def _number(value: Any) -> float:
    """A time, a number of seconds or of steps, as others may have written it."""
    if not (is_number(value) and abs(value) < MAX_NUMBER):
        raise ValueError(f"found {value!r:.80}, expected a number up to {MAX_NUMBER:g}")
    return float(value)
