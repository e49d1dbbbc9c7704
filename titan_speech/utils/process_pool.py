"""Run one function over many tasks, in this process or in several.

In: a function, its tasks, the number of processes. Out: the results in the order of the tasks, and while they run the
samples and tokens that each task has finished. The function is sent to every process once, so it may be large; with one
process everything happens in this one. A worker process that is killed (out of memory, or by hand) ends the run with an
error that says so; when this process dies, its workers exit too.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait as wait_for_sentinels
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from titan_speech.errors import DataError

REPORT_SEC = 0.2
Advance = Callable[[int, int], None]
"""Called by a task with the samples and tokens it has finished since its last call."""
Report = Callable[[NDArray[np.int64], NDArray[np.bool_]], None]
"""Called with the samples and tokens of each task [tasks, 2], and which tasks are finished [tasks]."""
Task = TypeVar("Task")
Result = TypeVar("Result")
Function = Callable[[Task, Advance], Result]
"""What is run; must pickle."""


def run_tasks(
    function: Function[Task, Result], tasks: Sequence[Task], num_processes: int, report: Report
) -> list[Result]:
    """Run `function` on all tasks.

    Args:
        function: called with a task and a function that takes the progress of it.
        num_processes: at most one per task is started.
        report: called often: every 0.2 s, or with one process whenever a task reports progress.

    Returns:
        The results in the order of the tasks.

    Raises:
        DataError: a worker process was killed.
        Exception: what `function` raised, at the first task that fails; the other workers are then killed.
    """
    if num_processes == 1 or len(tasks) <= 1:
        return _run_here(function, tasks, report)
    return _run_in_processes(function, tasks, min(num_processes, len(tasks)), report)


def _run_here(function: Function[Task, Result], tasks: Sequence[Task], report: Report) -> list[Result]:
    counts, is_done = np.zeros((len(tasks), 2), np.int64), np.zeros(len(tasks), bool)
    results = []
    for index, task in enumerate(tasks):

        def advance(num_samples: int, num_tokens: int, index: int = index) -> None:
            counts[index] += (num_samples, num_tokens)
            report(counts, is_done)

        results.append(function(task, advance))
        is_done[index] = True
        report(counts, is_done)
    return results


def _run_in_processes(
    function: Function[Task, Result], tasks: Sequence[Task], num_processes: int, report: Report
) -> list[Result]:
    context = multiprocessing.get_context("spawn")
    shared = context.RawArray("q", 2 * len(tasks))
    counts, is_done = np.frombuffer(shared, np.int64).reshape(-1, 2), np.zeros(len(tasks), bool)
    other_children = set(multiprocessing.active_children())
    executor = ProcessPoolExecutor(num_processes, context, initializer=_start_worker, initargs=(function, shared))
    try:
        futures: dict[Future, int] = {executor.submit(_run_task, *pair): pair[0] for pair in enumerate(tasks)}
        pending = set(futures)
        while pending:
            done, pending = wait(pending, timeout=REPORT_SEC, return_when=FIRST_COMPLETED)
            for future in done:
                future.result()
                is_done[futures[future]] = True
            report(counts, is_done)
        executor.shutdown()
    except BaseException as error:
        for child in set(multiprocessing.active_children()) - other_children:
            child.kill()
        executor.shutdown(wait=False, cancel_futures=True)
        if isinstance(error, BrokenProcessPool):
            raise DataError(
                f"a worker process was killed, one of {num_processes}, possibly because memory ran out; run the same "
                "command again. If it was memory, use fewer processes: lower --workers; a command without that option "
                "starts one process per core that it may run on, which taskset limits"
            ) from error
        raise
    return [future.result() for future in futures]


_worker_state: tuple[Function[Any, Any], NDArray[np.int64]]
"""In a worker process: what `_start_worker` was given, as an executor's initializer cannot return it."""


def _start_worker(function: Function[Any, Any], shared: memoryview) -> None:
    global _worker_state
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process ends all of them
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    _worker_state = function, np.frombuffer(shared, np.int64).reshape(-1, 2)


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait_for_sentinels([parent.sentinel])
        os._exit(1)


def _run_task(index: int, task: object) -> object:
    function, counts = _worker_state

    def advance(num_samples: int, num_tokens: int) -> None:
        counts[index] += (num_samples, num_tokens)

    return function(task, advance)
