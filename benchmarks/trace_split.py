"""Step-time breakdown of a profiler trace: `python -m benchmarks.trace_split TRACE [--json OUT]`.

In: a trace of [profiler] (titan_speech/training/profiler.py), or any of torch's with the marks of that file. Out:
seconds per step and shares of data, forward, backward, optimizer, communication and other. The trainer's thread is
walked through in time; what it does at a moment is:

    communication   inside a collective (c10d, gloo, nccl, or FSDP waiting for one)
    backward        inside an operator of the autograd engine; the chunked loss has its own inside the forward pass
    forward         else, inside the mark of a microbatch
    data            inside the mark of waiting for a batch
    optimizer       between the last microbatch and the end of the optimizer's step: gradient norm and update
    other           the rest of the step: logging, checkpoints, bookkeeping

On a GPU its time is split the same way: a kernel belongs to the part that launched it, NCCL's to communication, and
time without kernels is idle. If the thread runs ahead, a step is as long as its kernels. Communication that overlaps
with other kernels is listed separately, and counts once.
"""

from __future__ import annotations

import argparse
import gzip
import json
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.machine import write_results

PARTS = ("data", "forward", "backward", "optimizer", "communication", "other")
DATA, PASS = "titan_speech::data", "titan_speech::forward_backward"
_COLLECTIVES = (
    "c10d::",
    "nccl:",
    "gloo:",
    "record_param_comms",
    "_c10d_functional::wait_tensor",
    "FSDP::all_gather_wait",
)
_ENGINE, _OPTIMIZER, _STEP = "autograd::engine::evaluate_function", "Optimizer.step#", "ProfilerStep#"


class Span(NamedTuple):
    """An event of a thread; microseconds."""

    name: str
    begin: float
    end: float


@dataclass(frozen=True)
class Split:
    """Of one trace."""

    num_steps: int
    step_sec: float
    host_sec: Mapping[str, float]
    """Seconds per step of the trainer's thread, by part."""
    device_sec: Mapping[str, float]
    """Seconds per step in which a GPU ran kernels of a part; empty on a CPU."""
    device_idle_sec: float
    hidden_communication_sec: float
    """NCCL kernels while others ran."""

    @property
    def shares(self) -> dict[str, float]:
        """Parts of the step: of the device's time where there is one, with idle, else of the trainer's thread."""
        seconds = {**self.device_sec, "idle": self.device_idle_sec} if self.device_sec else self.host_sec
        return {name: value / self.step_sec for name, value in seconds.items()}


def split(trace: Path) -> Split:
    """Raises ValueError for a file that is no trace, and for one without steps."""
    try:
        with gzip.open(trace, "rt") if trace.suffix == ".gz" else trace.open() as file:
            events = [event for event in json.load(file)["traceEvents"] if event.get("ph") == "X"]
    except (EOFError, KeyError, TypeError, gzip.BadGzipFile, json.JSONDecodeError) as error:
        raise ValueError(f"{trace}: found no trace ({error!r}); expected one that [profiler] wrote") from error
    return split_events(events)


def split_events(events: Sequence[Mapping[str, Any]]) -> Split:
    steps = [event for event in events if event["name"].startswith(_STEP) and event.get("cat") != "gpu_user_annotation"]
    if not steps:
        raise ValueError(f"found no {_STEP} in the trace; expected one of torch.profiler with steps")
    thread = steps[0]["tid"]
    spans = sorted((_span(event) for event in steps), key=lambda span: span.begin)
    on_host = [event for event in events if event.get("cat") in ("cpu_op", "user_annotation", "cpu_instant_event")]
    timeline = _Timeline(spans, [_span(event) for event in on_host if event["tid"] == thread])
    kernels = [event for event in events if event.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset")]
    count, whole = len(spans), max(sum(span.end - span.begin for span in spans), _extent(kernels))
    # backward kernels are launched by the engine's own thread
    engine = [_span(event) for event in on_host if event["tid"] != thread and event["name"].startswith(_ENGINE)]
    device, idle, hidden = _device(kernels, events, timeline, engine, whole)
    return Split(
        num_steps=count,
        step_sec=whole / count / 1e6,
        host_sec={name: value / count / 1e6 for name, value in timeline.totals().items()},
        device_sec={name: value / count / 1e6 for name, value in device.items()},
        device_idle_sec=idle / count / 1e6,
        hidden_communication_sec=hidden / count / 1e6,
    )


def _extent(kernels: Sequence[Mapping[str, Any]]) -> float:
    """From the first kernel to the end of the last: the thread may be a step ahead, and be done before its kernels."""
    spans = [_span(kernel) for kernel in kernels]
    return max(span.end for span in spans) - min(span.begin for span in spans) if spans else 0.0


def _span(event: Mapping[str, Any]) -> Span:
    return Span(event["name"], float(event["ts"]), float(event["ts"]) + float(event["dur"]))


class _Timeline:
    """Parts of one thread, as stretches that follow each other."""

    def __init__(self, steps: Sequence[Span], spans: Iterable[Span]) -> None:
        marked: list[tuple[int, str, Span]] = []
        by_name = list(spans)
        for span in by_name:
            if span.name.startswith(_COLLECTIVES):
                marked.append((0, "communication", span))
            elif span.name.startswith(_ENGINE):
                marked.append((1, "backward", span))
            elif span.name == DATA:
                marked.append((2, "data", span))
            elif span.name == PASS:
                marked.append((3, "forward", span))
        for step in steps:
            marked += ((4, "optimizer", span) for span in self._optimizer(step, by_name))
            marked.append((5, "other", step))
        self._begins, self._parts = self._stretches(marked)
        self._end = max(step.end for step in steps)

    @staticmethod
    def _optimizer(step: Span, spans: Sequence[Span]) -> Iterable[Span]:
        inside = [span for span in spans if step.begin <= span.begin and span.end <= step.end]
        passes = [span.end for span in inside if span.name == PASS]
        updates = [span.end for span in inside if span.name.startswith(_OPTIMIZER)]
        if passes and updates:
            yield Span("optimizer", max(passes), max(updates))

    @staticmethod
    def _stretches(marked: Sequence[tuple[int, str, Span]]) -> tuple[list[float], list[str | None]]:
        """At each moment the innermost of what is open: lowest rank."""
        changes = [(span.begin, 1, rank, part) for rank, part, span in marked]
        changes += [(span.end, -1, rank, part) for rank, part, span in marked]
        open_ranks: dict[int, int] = {}
        names: dict[int, str] = {}
        begins: list[float] = []
        parts: list[str | None] = []
        for at, change, rank, part in sorted(changes):
            open_ranks[rank] = open_ranks.get(rank, 0) + change
            names[rank] = part
            now = min((one for one, count in open_ranks.items() if count), default=None)
            begins.append(at)
            parts.append(None if now is None else names[now])
        return begins, parts

    def at(self, moment: float) -> str:
        index = bisect_right(self._begins, moment) - 1
        return "other" if index < 0 else self._parts[index] or "other"

    def totals(self) -> dict[str, float]:
        totals: dict[str, float] = dict.fromkeys(PARTS, 0.0)
        for begin, end, part in zip(self._begins, [*self._begins[1:], self._end], self._parts, strict=True):
            if part is not None:
                totals[part] += end - begin
        return totals


def _device(
    kernels: Sequence[Mapping[str, Any]],
    events: Sequence[Mapping[str, Any]],
    timeline: _Timeline,
    engine: Sequence[Span],
    whole: float,
) -> tuple[dict[str, float], float, float]:
    """Microseconds by part of a GPU's time, idle, and hidden communication; nothing where there are no kernels."""
    if not kernels:
        return {}, 0.0, 0.0
    launched = {
        event["args"]["correlation"]: float(event["ts"])
        for event in events
        if event.get("cat") in ("cuda_runtime", "cuda_driver") and "correlation" in event.get("args", {})
    }
    by_part: dict[str, list[Span]] = {}
    ordered = sorted(engine, key=lambda span: span.begin)
    begins = [span.begin for span in ordered]
    for kernel in kernels:
        at = launched.get(kernel.get("args", {}).get("correlation"))
        part = "other" if at is None else timeline.at(at)
        place = bisect_right(begins, at) - 1 if at is not None else -1
        if place >= 0 and at is not None and at <= ordered[place].end:
            part = "backward"
        if "nccl" in kernel["name"].lower():
            part = "communication"
        by_part.setdefault(part, []).append(_span(kernel))
    busy = covered([span for spans in by_part.values() for span in spans])
    rest = covered([span for part, spans in by_part.items() if part != "communication" for span in spans])
    sent = covered(by_part.get("communication", []))
    hidden = sent + rest - busy
    found = {part: covered(by_part.get(part, [])) for part in PARTS}
    found["communication"] = sent - hidden
    return found, max(whole - busy, 0.0), hidden


def covered(spans: Sequence[Span]) -> float:
    """Time in which at least one of them is open."""
    total, end = 0.0, float("-inf")
    for span in sorted(spans, key=lambda span: span.begin):
        total += max(span.end - max(span.begin, end), 0.0)
        end = max(end, span.end)
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trace", type=Path)
    parser.add_argument("--json", type=Path, help="file to write")
    args = parser.parse_args()
    try:
        found = split(args.trace)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    if args.json:
        write_results(args.json, {**asdict(found), "shares": found.shares})
    print(f"{found.num_steps} steps of {found.step_sec:.4f} s")
    for name, share in found.shares.items():
        print(f"  {name:14} {share:6.1%}  {share * found.step_sec:.4f} s")
    if found.device_sec:
        print(f"  communication hidden behind other kernels: {found.hidden_communication_sec:.4f} s")


if __name__ == "__main__":
    main()
