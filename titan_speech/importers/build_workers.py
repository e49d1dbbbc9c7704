"""Work on many tasks, in this process or in several.

In: work, tasks, how many processes. Out: results in the order of the tasks, and counts of what is done so far for the
progress line. One process for each worker, spawned; with one worker everything happens here. A worker that is killed
(out of memory, by hand) ends the build with an error that says so; when this process dies, its workers do.

How far a build is: samples, tokens, rates and time left, on stderr.

In: what each task has done so far. Out: one line that is rewritten on a terminal, or a new line every 10 s in a log.
Time left is by bytes of input: of a task under way as many are taken for done as its tokens took in the finished ones.

What a process of a build does: imports one unit, or cuts one shard.

In: a task. Out: files in the build's folder (folder.py), and a record that is in place only when they are whole.
Both kinds of work pickle, so that they run in this process or in others.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from multiprocessing.connection import wait as wait_for
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from titan_speech.errors import DataError
from titan_speech.importers.base import BadSample, Importer, Sample, SpeechSample, TextSample, Unit
from titan_speech.importers.build_folder import UNIT_PROBLEM, UnitRecord, stamp_of, write_record, write_shard_record
from titan_speech.store.external_sort import Recipe, Spill
from titan_speech.store.sample import Found, Problem, Problems, merge_problems
from titan_speech.store.shard_writer import ShardJob, write_shard
from titan_speech.utils.progress import clock

T_contra = TypeVar("T_contra", contravariant=True)
R_co = TypeVar("R_co", covariant=True)
T = TypeVar("T")
R = TypeVar("R")

TICK_SEC = 0.2


class Work(Protocol[T_contra, R_co]):
    def do(self, task: T_contra, advance: Callable[[int, int], None]) -> R_co: ...


Tick = Callable[[NDArray[np.int64], NDArray[np.bool_]], None]
"""Told of samples and tokens of each task (tasks, 2), and which tasks are done."""


def run_all(work: Work[T, R], tasks: Sequence[T], num_workers: int, tick: Tick) -> list[R]:
    if num_workers == 1 or len(tasks) <= 1:
        return _run_here(work, tasks, tick)
    return _run_apart(work, tasks, min(num_workers, len(tasks)), tick)


def _run_here(work: Work[T, R], tasks: Sequence[T], tick: Tick) -> list[R]:
    counts, is_done = np.zeros((len(tasks), 2), np.int64), np.zeros(len(tasks), bool)
    results = []
    for index, task in enumerate(tasks):

        def advance(num_samples: int, num_tokens: int, index: int = index) -> None:
            counts[index] += (num_samples, num_tokens)
            tick(counts, is_done)

        results.append(work.do(task, advance))
        is_done[index] = True
        tick(counts, is_done)
    return results


def _run_apart(work: Work[T, R], tasks: Sequence[T], num_workers: int, tick: Tick) -> list[R]:
    context = multiprocessing.get_context("spawn")
    shared = context.RawArray("q", 2 * len(tasks))
    counts, is_done = np.frombuffer(shared, np.int64).reshape(-1, 2), np.zeros(len(tasks), bool)
    others = set(multiprocessing.active_children())
    executor = ProcessPoolExecutor(num_workers, context, initializer=_begin, initargs=(work, shared))
    try:
        futures: dict[Future, int] = {executor.submit(_do, index, task): index for index, task in enumerate(tasks)}
        pending = set(futures)
        while pending:
            done, pending = wait(pending, timeout=TICK_SEC, return_when=FIRST_COMPLETED)
            for future in done:
                future.result()
                is_done[futures[future]] = True
            tick(counts, is_done)
        executor.shutdown()
    except BaseException as error:
        for child in set(multiprocessing.active_children()) - others:
            child.kill()
        executor.shutdown(wait=False, cancel_futures=True)
        if isinstance(error, BrokenProcessPool):
            raise DataError(
                "a process of the build was killed, perhaps for want of memory; run the same command again to "
                "continue, with fewer --workers if it was memory"
            ) from error
        raise
    return [future.result() for future in futures]


_work: Work
_counts: NDArray[np.int64]


def _begin(work: Work, shared: memoryview) -> None:
    global _work, _counts
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process ends all of them
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
    threading.Thread(target=_die_with_parent, daemon=True).start()
    _work, _counts = work, np.frombuffer(shared, np.int64).reshape(-1, 2)


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait_for([parent.sentinel])
        os._exit(1)


def _do(index: int, task: object) -> object:
    def advance(num_samples: int, num_tokens: int) -> None:
        _counts[index] += (num_samples, num_tokens)

    return _work.do(task, advance)


BYTES_PER_TOKEN = 4.0  # until a task is finished
LOG_SEC, TERMINAL_SEC = 10.0, 0.2


class BuildProgress:
    """One stage of a build; `tick` is called often and prints rarely."""

    def __init__(self, stage: str, what: str, num_bytes: Sequence[int]) -> None:
        self._stage, self._what, self._num_bytes = stage, what, np.asarray(num_bytes, np.float64)
        self._stream, self._began = sys.stderr, time.monotonic()
        self._on_terminal = self._stream.isatty()
        self._due = self._began + (TERMINAL_SEC if self._on_terminal else LOG_SEC)
        self._num_refused = 0
        self._last = np.zeros((len(num_bytes), 2), np.int64), np.zeros(len(num_bytes), bool)

    def tick(self, counts: NDArray[np.int64], is_done: NDArray[np.bool_]) -> None:
        self._last = counts, is_done
        if time.monotonic() >= self._due:
            self._print("" if self._on_terminal else "\n")

    def finish(self, num_refused: int = 0) -> None:
        """The last line stays."""
        self._num_refused = num_refused
        if len(self._last[1]):
            self._print("\n")

    def _print(self, ending: str) -> None:
        now = time.monotonic()
        self._due = now + (TERMINAL_SEC if self._on_terminal else LOG_SEC)
        line = self._line(*self._last, now - self._began)
        print(f"\r{line:<110}" if self._on_terminal else line, end=ending, file=self._stream, flush=True)

    def _line(self, counts: NDArray[np.int64], is_done: NDArray[np.bool_], elapsed_sec: float) -> str:
        num_samples, num_tokens = counts.sum(axis=0).tolist()
        elapsed_sec = max(elapsed_sec, 1e-9)
        share = self._share(counts[:, 1], is_done)
        left = f"{clock(elapsed_sec * (1 - share) / share)} left" if 0 < share < 1 else f"{clock(elapsed_sec)} taken"
        return (
            f"{self._stage} {is_done.sum() - self._num_refused} of {len(is_done)} {self._what}"
            f"{f', refused {self._num_refused}' if self._num_refused else ''}: {num_samples:,} samples "
            f"({num_samples / elapsed_sec:,.0f}/s), {num_tokens / 1e6:,.1f} M tokens "
            f"({num_tokens / elapsed_sec / 1e6:,.2f} M/s), {left}"
        )

    def _share(self, tokens: NDArray[np.int64], is_done: NDArray[np.bool_]) -> float:
        """Of the bytes of input."""
        finished = self._num_bytes[is_done].sum()
        per_token = finished / max(tokens[is_done].sum(), 1) if finished else BYTES_PER_TOKEN
        under_way = np.minimum(tokens[~is_done] * per_token, self._num_bytes[~is_done]).sum()
        return float((finished + under_way) / max(self._num_bytes.sum(), 1.0))


Advance = Callable[[int, int], None]
"""Told of samples and tokens as they are done."""


@dataclass(frozen=True)
class UnitTask:
    unit: Unit
    target: Path


@dataclass(frozen=True)
class ImportWork:
    """Imports units; a bad sample is counted and left out, all others of the unit are still checked."""

    format: Importer
    recipe: Recipe
    normalize: bool

    def do(self, task: UnitTask, advance: Advance) -> UnitRecord:
        temporary = task.target.with_name(f"{task.target.name}.tmp-{os.getpid()}")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        stamp, problems, doubts = stamp_of(task.unit), Problems("", limit=None), Problems("", limit=None)
        told = _Told(task.unit, problems, doubts)
        place, file = task.unit.place, str(task.unit.path)
        spill = Spill(temporary, self.recipe, told.refuse, told.doubt, advance, place, file)
        try:
            for sample in self._samples(task.unit):
                told.row = sample.row
                _add(spill, sample, told)
        except DataError as error:
            line = str(error) if file in str(error) else f"{place}: {error}"
            problems = merge_problems(
                [{UNIT_PROBLEM: Found(line, 1, "units")}, problems.found]
            )  # it may explain the others
        runs = spill.seal()
        counts = sum(run.num_samples for run in runs), sum(run.num_tokens for run in runs)
        record = UnitRecord(task.unit.name, stamp, *counts, problems.found, doubts.found, runs)
        write_record(temporary, record)
        shutil.rmtree(task.target, ignore_errors=True)
        os.rename(temporary, task.target)
        moved = tuple(replace(run, folder=task.target / run.folder.name) for run in runs)
        return replace(record, runs=moved)

    def _samples(self, unit: Unit) -> Iterator[Sample]:
        samples = self.format.samples(unit)
        return map(_normalized, samples) if self.normalize else samples


@dataclass
class _Told:
    """Tells where in the input a bad or doubtful sample lies."""

    unit: Unit
    problems: Problems
    doubts: Problems
    row: int | None = None
    """Of the sample that is being added."""

    def refuse(self, name: str, problem: Problem) -> None:
        self.problems.add(name, problem, place=self._place())

    def doubt(self, name: str, problem: Problem) -> None:
        self.doubts.add(name, problem, place=self._place())

    def _place(self) -> str:
        return self.unit.place if self.row is None else f"{self.unit.path}, row {self.row}"


def _add(spill: Spill, sample: Sample, told: _Told) -> None:
    match sample:
        case SpeechSample(info, codes_T, transcripts, row):
            spill.add_speech(info, codes_T, transcripts, row)
        case TextSample(info, text, user, row):
            spill.add_text(info, text, user, row)
        case BadSample(name, problem):
            told.refuse(name, problem)


def _normalized(sample: Sample) -> Sample:
    from titan_speech.tokenization.normalize import normalize

    match sample:
        case SpeechSample(info, _, transcripts):
            texts = {variant: normalize(text, info.language) for variant, text in transcripts.items()}
            return replace(sample, transcripts=texts)
        case TextSample(info, text, user):
            asked = None if user is None else normalize(user, info.language)
            return replace(sample, text=normalize(text, info.language), user=asked)
    return sample


@dataclass(frozen=True)
class CutWork:
    """Cuts shards into the store to be."""

    store: Path
    records: Path

    def do(self, task: ShardJob, advance: Advance) -> None:
        (self.store / task.key.folder).mkdir(exist_ok=True)
        info = write_shard(task, self.store)
        write_shard_record(self.records, task, info)
        advance(info.num_samples, info.num_tokens)
