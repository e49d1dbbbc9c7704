"""A trace of a run in Chrome's trace event format, which Perfetto (https://ui.perfetto.dev) and chrome://tracing open.

In: the span files and the ledger of a run folder. Out: JSON. Each rank is a process with a track per thread: the spans
of its steps, nested as they were, and a track of its starts; a counter shows the share of its time in each class of the
ledger. Uploads of a node are a process of their own. Without span files (`profiler.spans = false`) starts and the
counter remain.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from titan_speech.errors import DataError
from titan_speech.ledger.records import Process, read_ledger
from titan_speech.ledger.span_file import SPANS_DIR, Span, read_spans
from titan_speech.utils.printable import printable

STARTS_TRACK = 0
UPLOADS_FROM = 1_000_000
"""Process numbers of nodes that upload; ranks have their own numbers."""
_SPAN_FILE = re.compile(r"(rank|uploads)-(\d{1,6})\.jsonl")

TraceEvent = dict[str, Any]


def trace(run_folder: Path) -> Iterator[str]:
    """The JSON text of the trace, in parts.

    Raises:
        DataError: the run has neither spans nor a ledger.
    """
    found = [path for path in (run_folder / SPANS_DIR).glob("*.jsonl") if path.is_file() and not path.is_symlink()]
    files = sorted((match, path) for path in found if (match := _process_of(path)) is not None)
    try:
        processes = read_ledger(run_folder)
    except OSError as error:
        raise DataError(f"the ledger of {run_folder} cannot be read: {error}") from error
    if not files and not processes:
        raise DataError(
            f"{run_folder} has neither {SPANS_DIR} nor a ledger; expected the folder of a run that has begun"
        )
    from_sec = min((process.began_sec for process in processes), default=0.0)
    yield '{"displayTimeUnit": "ms", "traceEvents": [\n'
    separator = ""
    for event in (*_of_ledger(processes, from_sec), *_names(files, processes)):
        yield separator + json.dumps(event)
        separator = ",\n"
    for number, path in files:
        for event in _of_spans(number, path, from_sec):
            yield separator + json.dumps(event)
            separator = ",\n"
    yield "\n]}\n"


def _process_of(path: Path) -> int | None:
    match = _SPAN_FILE.fullmatch(path.name)
    return None if match is None else int(match[2]) + (UPLOADS_FROM if match[1] == "uploads" else 0)


def _names(files: list[tuple[int, Path]], processes: list[Process]) -> Iterator[TraceEvent]:
    """What the tracks are called."""
    nodes = {process.rank: process.node for process in processes}
    for number in sorted({number for number, _ in files} | set(nodes)):
        node = f" on {printable(nodes[number])}" if number in nodes else ""
        name = f"uploads of node {number - UPLOADS_FROM}" if number >= UPLOADS_FROM else f"rank {number}{node}"
        yield {"ph": "M", "name": "process_name", "pid": number, "args": {"name": name}}
        yield {"ph": "M", "name": "process_sort_index", "pid": number, "args": {"sort_index": number}}
        yield {"ph": "M", "name": "thread_name", "pid": number, "tid": STARTS_TRACK, "args": {"name": "starts"}}


def _of_ledger(processes: list[Process], from_sec: float) -> Iterator[TraceEvent]:
    """Starts, and the share of each class in the time of each span of the ledger."""
    for process in processes:
        yield {
            "ph": "X",
            "name": f"start {process.start}, {process.world_size} processes",
            "pid": process.rank,
            "tid": STARTS_TRACK,
            "ts": _micros(process.began_sec - from_sec),
            "dur": _micros(process.ended_sec - process.began_sec),
            "args": {"ended": process.how or "killed or running", "from_step": process.from_step},
        }
        for span in process.spans:
            length = max(span.until_sec - span.from_sec, 1e-6)
            yield {
                "ph": "C",
                "name": "time by class",
                "pid": process.rank,
                "ts": _micros(span.from_sec - from_sec),
                "args": {name: round(seconds / length, 4) for name, seconds in span.seconds.items()},
            }


def _of_spans(number: int, path: Path, from_sec: float) -> Iterator[TraceEvent]:
    tracks: dict[str, int] = {}
    try:
        for span in read_spans(path):
            if span.thread not in tracks:
                tracks[span.thread] = len(tracks) + STARTS_TRACK + 1
                name = {"name": printable(span.thread)}
                yield {"ph": "M", "name": "thread_name", "pid": number, "tid": tracks[span.thread], "args": name}
            if math.isfinite(span.at_sec) and (span.duration_sec is None or math.isfinite(span.duration_sec)):
                yield _event(span, number, tracks[span.thread], from_sec)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def _event(span: Span, number: int, track: int, from_sec: float) -> TraceEvent:
    event: TraceEvent = {
        "ph": "i" if span.duration_sec is None else "X",
        "name": printable(span.name),
        "pid": number,
        "tid": track,
        "ts": _micros(span.at_sec - from_sec),
    }
    event |= {"s": "p"} if span.duration_sec is None else {"dur": _micros(span.duration_sec)}
    return event if span.step is None else event | {"args": {"step": span.step}}


def _micros(seconds: float) -> float:
    return round(seconds * 1e6, 1)
