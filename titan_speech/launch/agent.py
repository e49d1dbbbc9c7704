"""Starts the ranks of this machine, watches them, passes signals on, and ends with the code that says why they ended.

In: the words of a configuration, a `Launch`. Out: an exit code of docs/checkpoints.md, and what the ranks print.
torch's elastic agent does the work (rendezvous, restarts, nodes that come and go); what it does differently from
torchrun is in `Agent`: codes are kept, ranks get `stop_within_sec` to save, bad input is not tried again, and its own
log goes to a file (rank_logs.py). The cost against starting one rank by hand is a process that has imported torch: 2 s
at the start.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen, TimeoutExpired
from typing import Any, cast

import torch.distributed.elastic.rendezvous as elastic_rendezvous
from torch.distributed.elastic.agent.server import RunResult, WorkerGroup, WorkerSpec, WorkerState
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import SignalException, SubprocessContext
from torch.distributed.elastic.rendezvous import RendezvousParameters
from torch.distributed.elastic.rendezvous.registry import get_rendezvous_handler
from torch.distributed.launcher.api import LaunchConfig

from titan_speech.distributed.last_words import LAUNCHER_VARIABLE, resume_hint, say
from titan_speech.errors import RendezvousError
from titan_speech.exit_codes import EXIT_BAD_INPUT, EXIT_HUNG, EXIT_RESTART, EXIT_UNHEALTHY
from titan_speech.health.signals import describe_kept, is_repeated, signal_text
from titan_speech.launch.rank_logs import AGENT_LOG, RankLogs
from titan_speech.utils.text_table import counted

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1)
PASSED_AS_THEY_ARE = (signal.SIGINT, signal.SIGUSR1)
"""The others, such as SIGHUP of a terminal that is closed, reach the ranks as SIGTERM: save and stop."""

OTHERS_SEC = 10.0
"""After the failure of one rank the others have so long to notice it, report it and end by themselves."""

ASKED_SEC = 30.0
"""Then they are asked to; so much later they are killed: without the one that failed they can hardly save."""

AT_ONCE_SEC = 5.0
"""After a second signal the ranks have so long before they are killed."""

LAST_WORDS_SEC = 5.0
"""A rank that cannot save within `stop_within_sec` says so and ends by itself; so much later it is killed."""

IMPORTS_SEC = 4.0
"""No rank trains so early; until it listens for signals Python would answer SIGINT with a traceback."""


@dataclass(frozen=True)
class Launch:
    """How the ranks of this machine are started."""

    name: str
    """Name of the run; nodes with the same name and endpoint meet."""
    num_processes: int
    """On this machine."""
    min_nodes: int
    max_nodes: int
    endpoint: str
    """host:port of the rendezvous; empty for one machine."""
    local_address: str | None
    max_restarts: int
    stop_within_sec: float
    restarts_after_stop: bool
    """Ranks that leave with EXIT_RESTART by themselves are started again: rollbacks, nodes that come and go."""
    checkpoints: Path
    logs: Path
    """An existing folder of this launch."""
    entry: tuple[str, ...] = ("-m", "titan_speech.train")


def run_ranks(launch: Launch, words: Sequence[str]) -> int:
    """Run all ranks of this machine to their end.

    Args:
        words: of the configuration, for each rank.

    Returns:
        The exit code.

    Raises:
        RendezvousError: the nodes did not find each other.
    """
    os.environ[LAUNCHER_VARIABLE] = str(launch.max_nodes)
    os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = ",".join(one.name for one in SIGNALS)
    if launch.num_processes > 1:  # else each rank would take all cores
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // launch.num_processes)))
    if launch.max_nodes > 1:  # a node that joins later would wait for a shared store until its timeout
        os.environ.setdefault("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    with RankLogs(launch.logs) as logs, _signals_as_exceptions():
        agent = Agent(_worker_spec(launch, words), logs, launch)
        try:
            result = cast("RunResult | None", agent.run())
            agent.spec.rdzv_handler.shutdown()  # not after a signal: other nodes may continue
        except SignalException as caught:
            code = exit_code(agent.codes().values() or [-caught.sigval])
            if code > 128:  # killed by what was passed on, which need not be what was received
                code = 128 + caught.sigval
        except elastic_rendezvous.RendezvousError as error:
            raise _rendezvous_error(launch, str(error)) from error
        else:
            if result is None:
                raise _rendezvous_error(launch, "it is closed, as the run of the other nodes has ended")
            code = exit_code(agent.first_codes.values() or [1]) if result.is_failed() else 0
        if code == EXIT_BAD_INPUT:
            logs.remove()
    if code > 128:
        hint = resume_hint(words, launch.num_processes, launch.max_nodes)
        _say(f"stopped; {describe_kept(launch.checkpoints)}. {hint}")
    return code


def _say(text: str) -> None:
    """One message on stderr, in place of the bar that a rank which was killed has left."""
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr)
    say(text)


def _rendezvous_error(launch: Launch, reason: str) -> RendezvousError:
    return RendezvousError(
        f"the rendezvous {launch.name!r} at {launch.endpoint or 'this machine'} failed: {reason}; look at "
        f"{launch.logs / AGENT_LOG}, start the same command on all nodes, and give a run that starts from the "
        "beginning another --rdzv-id"
    )


def exit_code(codes: Iterable[int]) -> int:
    """The code that says why ranks ended, of codes as `Popen.returncode` has them.

    What a rank found wrong comes first, then what it died of, and last what follows from the end of another rank.
    """
    order = (EXIT_BAD_INPUT, EXIT_UNHEALTHY)
    follows = (EXIT_HUNG, EXIT_RESTART, 0)

    def place(code: int) -> int:
        if code in order:
            return order.index(code)
        return len(order) + 1 + follows.index(code) if code in follows else len(order)

    code = min(codes, key=place)
    return 128 - code if code < 0 else code


def _worker_spec(launch: Launch, words: Sequence[str]) -> WorkerSpec:
    is_alone = launch.max_nodes == 1
    defaults = LaunchConfig(
        launch.min_nodes, launch.max_nodes, launch.num_processes, RankLogs(launch.logs)
    )  # torchrun's
    rendezvous = RendezvousParameters(
        backend="c10d",
        endpoint="localhost:0" if is_alone else launch.endpoint,
        run_id=launch.name,
        min_nodes=launch.min_nodes,
        max_nodes=launch.max_nodes,
        local_addr="127.0.0.1" if is_alone else launch.local_address,
        **defaults.rdzv_configs,
    )
    return WorkerSpec(
        role="rank",
        local_world_size=launch.num_processes,
        entrypoint=sys.executable,
        args=("-u", *launch.entry, *words),
        rdzv_handler=get_rendezvous_handler(rendezvous),
        max_restarts=launch.max_restarts,
        monitor_interval=0.1,
        local_addr=rendezvous.local_addr,
        numa_options=defaults.numa_options,
    )


class Agent(LocalElasticAgent):
    """torch's agent of one machine, with the ends of a run as they are documented."""

    def __init__(self, spec: WorkerSpec, logs: RankLogs, launch: Launch) -> None:
        super().__init__(spec, logs, shutdown_timeout=int(launch.stop_within_sec))
        self.spec, self.logs, self.launch = spec, logs, launch
        self.first_codes: dict[int, int] = {}
        """Exit codes of the ranks that had failed when the first failure of this start was seen."""
        self._failed_at_sec = self._started_at_sec = self._signaled_at_sec = 0.0
        self._are_stopping = False
        """Whether this launcher has asked the ranks to save, since nodes come or go or a rank has failed."""

    def codes(self) -> dict[int, int]:
        """Exit codes of the ranks of this machine that have ended."""
        processes = self._processes()
        return {rank: code for rank, process in processes.items() if (code := process.poll()) is not None}

    def _processes(self) -> dict[int, Popen[bytes]]:
        context, workers = self._pcontext, self.get_worker_group().workers
        handlers = context.subprocess_handlers if isinstance(context, SubprocessContext) else {}
        return {workers[local].global_rank: handler.proc for local, handler in handlers.items()}

    def _start_workers(self, worker_group: WorkerGroup) -> dict[int, Any]:
        self.first_codes, self._started_at_sec, self._are_stopping = {}, time.monotonic(), False
        return super()._start_workers(worker_group)  # pyright: ignore[reportCallIssue]  (of a decorator without types)

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        """As torch's, which ends all ranks at the first failure; here they have a moment to end by themselves."""
        codes = self.codes()
        failed = {rank: code for rank, code in codes.items() if code}
        if failed and not self.first_codes:
            self.first_codes, self._failed_at_sec = failed, time.monotonic()
        is_stop = set(failed.values()) == {EXIT_RESTART}  # the others save, and finish uploads
        grace_sec = self.launch.stop_within_sec if is_stop else OTHERS_SEC
        are_alive = len(codes) < len(self._processes())
        if failed and are_alive and time.monotonic() - self._failed_at_sec < grace_sec:
            return RunResult(state=WorkerState.HEALTHY)
        if failed and are_alive:  # torch would ask them too, and lose a signal to the launcher in the meantime
            self._are_stopping = True
            self._end(self._alive(), signal.SIGTERM, ASKED_SEC)
        result: RunResult = super()._monitor_workers(worker_group)  # pyright: ignore[reportCallIssue]
        if result.is_failed():
            code = exit_code(self.first_codes.values() or self.codes().values())
            if code in (EXIT_BAD_INPUT, EXIT_UNHEALTHY) or (
                code == EXIT_RESTART and not self.launch.restarts_after_stop
            ):
                self._remaining_restarts = 0  # it would end the same way
            self._report(code)
        return result

    def _report(self, code: int) -> None:
        """Say what a failure was if rank 0 has not, and whether the run is started again."""
        failed = sorted(self.first_codes.items())
        if code in (EXIT_BAD_INPUT, EXIT_UNHEALTHY):  # alike on all ranks, and printed by rank 0; or one rank's own
            failed = [] if 0 in self.first_codes else failed[:1]
        for rank, one in failed:
            if one != EXIT_RESTART:
                _say(f"rank {rank} {_end_text(one)}{self.logs.last_words(rank)}")
        for line in self.logs.hang_report() if code == EXIT_HUNG else ():
            print(line, file=sys.stderr, flush=True)
        if self._remaining_restarts > 0:
            left = counted(self._remaining_restarts - 1, "restart")
            _say(f"all ranks start again from the last checkpoint ({left} left after this one)")

    def _stop_workers(self, worker_group: WorkerGroup) -> None:
        """Nodes have come or gone, or a rank has failed: the ranks save if they can."""
        if not self.first_codes:
            _say("nodes come or go: the ranks save and start again")
        self._are_stopping = True
        self._end(self._alive(), signal.SIGTERM, self._shutdown_timeout + LAST_WORDS_SEC)

    def _shutdown(self, death_sig: signal.Signals = signal.SIGTERM, timeout: int = 30) -> None:
        """Signal the ranks, not the processes they started, and kill what has not ended in time.

        A second signal is passed on at once; ranks that do not follow it are killed. The first one is not passed on to
        ranks that save already: to them it would be the second.
        """
        self._signaled_at_sec = time.monotonic()
        passed, within_sec = (None if self._are_stopping else death_sig), timeout + LAST_WORDS_SEC
        while True:
            try:
                return self._end(self._alive(), passed, within_sec)
            except SignalException as again:
                passed = None
                if not is_repeated(again.sigval, time.monotonic() - self._signaled_at_sec):
                    passed, within_sec = again.sigval, AT_ONCE_SEC

    def _alive(self) -> list[Popen[bytes]]:
        return [process for process in self._processes().values() if process.poll() is None]

    def _end(self, alive: Sequence[Popen[bytes]], passed: signal.Signals | None, within_sec: float) -> None:
        """Wait for the end of ranks, then kill them: a signal once more would be a person's second one to them."""
        if passed is not None:
            _pass_on(passed, alive, is_importing=time.monotonic() - self._started_at_sec < IMPORTS_SEC)
        _wait(alive, within_sec)
        super()._shutdown(signal.SIGKILL, 1)


def _pass_on(received: signal.Signals, processes: Iterable[Popen[bytes]], *, is_importing: bool) -> None:
    passed = received if received in PASSED_AS_THEY_ARE and not is_importing else signal.SIGTERM
    for process in processes:
        process.send_signal(passed)


def _wait(processes: Iterable[Popen[bytes]], timeout_sec: float) -> None:
    deadline = time.monotonic() + timeout_sec
    with suppress(TimeoutExpired):
        for process in processes:
            process.wait(max(0.0, deadline - time.monotonic()))


def _end_text(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    killed = " (the machine may have been out of memory)" if code == -signal.SIGKILL else ""
    return f"was killed by {signal.Signals(-code).name}{killed}"


@contextmanager
def _signals_as_exceptions() -> Iterator[None]:
    """As the agent does it once ranks run: signals raise `SignalException`, also while it waits for other nodes."""

    def stop(number: int, _: object) -> None:
        raise SignalException(f"got {signal_text(number)}", signal.Signals(number))

    before: Mapping[signal.Signals, Any] = {one: signal.signal(one, stop) for one in SIGNALS}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
