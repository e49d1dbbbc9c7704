"""Work on many tasks, in this process or in several.

In: work, tasks, how many processes. Out: results in the order of the tasks, and counts of what is done so far for the
progress line. One process for each worker, spawned; with one worker everything happens here. A worker that is killed
(out of memory, by hand) ends the build with an error that says so; when this process dies, its workers do.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait as wait_for
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from titan_speech.errors import DataError

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
