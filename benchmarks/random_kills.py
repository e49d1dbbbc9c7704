"""Kill a small run at random instants, again and again, and compare it with one that was not killed; JSON on stdout.

    python -m benchmarks.random_kills --kills 30 --worlds 1,2,3 --seed 0 > kills.json

In: the bundled data. Each life of the run has a number of processes drawn from --worlds, and ends by `kill -9` of all
its processes or of one worker (the launcher then ends the rest): during start-up, some steps in, while a checkpoint is
being written, or while one is on its way to a SeaweedFS server on loopback. After the last kill the run goes on to its
end. Out: the lives; what the comparison found (killed_run.py); what counts at the address, each fetched and verified.
The log of the lives goes to stderr.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.killed_run import Comparison, compare
from benchmarks.upload_place import UploadPlace, upload_place
from tests.runs import RunProcess, children, figures, kill, metrics_lines, start_run
from titan_speech.cli.arguments import naturals

STEPS_PER_KILL = 4
STEPS_AFTER = 6
MOST_STEPS = 2_000
"""More than the lives of a run come to whose end is left open."""

MOST_STEPS_OF_A_LIFE = 8
END_TIMEOUT_SEC = 120.0
RUN_TIMEOUT_SEC = 1500.0
ORPHAN_SEC = 1.5
"""An uploader whose trainer was killed ends by itself in this time."""

INSTANTS = {"start-up": 1, "between steps": 2, "in a save": 3, "in an upload": 3}
"""How often each is drawn."""

Start = Callable[..., RunProcess]
"""As `tests.runs.start_run`."""


@dataclass(frozen=True)
class Life:
    """One life of the run and how it ended."""

    world_size: int
    instant: str
    killed: str
    resumed_from: int
    last_step: int
    """The last step it logged; `resumed_from` if none."""

    on_its_way: str = ""
    """What the uploader was sending when it was killed."""

    whole_there: str = ""
    """The newest checkpoint that counted at the address then; it was fetched and is sound."""


@dataclass(frozen=True)
class Killing:
    """What is killed, how often and how."""

    folder: Path
    num_kills: int
    worlds: tuple[int, ...]
    rng: random.Random
    place: UploadPlace | None = None
    start: Start = start_run
    start_up_sec: float = 12.0
    """Kills during start-up are drawn from its first seconds."""

    most_steps: int = 5
    """Other kills come after one to so many steps of a life, and what it then waits for."""

    @property
    def run(self) -> Path:
        return self.folder / "killed"

    is_open_ended: bool = False
    """The run ends some steps after the last kill, at a constant learning rate; else at a step that is known before."""

    @property
    def most_steps_of_lives(self) -> int:
        return MOST_STEPS if self.is_open_ended else STEPS_PER_KILL * self.num_kills + STEPS_AFTER

    def settings(self, num_steps: int) -> tuple[str, ...]:
        """Two packs of 256 a step: with three processes one of them has only a filler pack."""
        return (
            *("--training.global_batch_tokens", "512", "--training.local_batch_packs", "1"),
            *("--training.target_tokens", str(512 * num_steps), "--checkpoint.cadence.0.every", "2"),
            *(("--lr_scheduler.warmup_ratio", "0", "--lr_scheduler.end_lr", "2e-3") if self.is_open_ended else ()),
            *("--checkpoint.keep_last_full", "3", "--checkpoint.keep_last_model_only", "1"),
        )

    @property
    def instants(self) -> tuple[Sequence[str], Sequence[int]]:
        drawn = {name: weight for name, weight in INSTANTS.items() if self.place or name != "in an upload"}
        return list(drawn), list(drawn.values())


def kills(killing: Killing) -> tuple[list[Life], Comparison]:
    """The whole proof; the run that is not killed has the first of the world sizes."""
    lives: list[Life] = []
    while len(lives) < killing.num_kills:
        life = live(killing)
        if life is None:
            log = (killing.run / "log.txt").read_text(errors="replace")
            raise SystemExit(f"the run ended by itself after {len(lives)} kills:\n{log[-4000:]}")
        lives.append(life)
        print(f"{len(lives)}: {life}", file=sys.stderr, flush=True)
    num_steps = killing.most_steps_of_lives
    if killing.is_open_ended:
        num_steps = max(figures(killing.run), default=0) + STEPS_AFTER
    uploads = killing.place.settings if killing.place else ()
    to_the_end(killing, killing.run, num_steps, uploads, killing.rng.choice(killing.worlds))
    to_the_end(killing, killing.folder / "whole", num_steps, (), killing.worlds[0])
    return lives, compare(killing.run, killing.folder / "whole")


def to_the_end(killing: Killing, folder: Path, num_steps: int, uploads: tuple[str, ...], world_size: int) -> None:
    process = killing.start(folder, *killing.settings(num_steps), *uploads, world_size=world_size)
    try:
        process.wait(RUN_TIMEOUT_SEC)
    finally:
        kill(process)
    if process.returncode != 0:
        raise SystemExit(f"code {process.returncode}:\n{(folder / 'log.txt').read_text(errors='replace')[-8000:]}")


def live(killing: Killing) -> Life | None:
    """Start the run and kill it; None if it came to its end first."""
    rng, folder, place = killing.rng, killing.run, killing.place
    world_size, whom = rng.choice(killing.worlds), rng.choice(("all", "one worker"))
    instant = rng.choices(*killing.instants)[0]
    before, on_its_way = len(metrics_lines(folder)), ""
    began_unix_sec = time.time()
    settings = (*killing.settings(killing.most_steps_of_lives), *(place.settings if place else ()))
    process = killing.start(folder, *settings, world_size=world_size)
    try:
        for _ in moments(killing, instant, before, began_unix_sec):
            if process.poll() is not None:
                return None
        if place is not None:
            on_its_way = place.on_its_way(folder, began_unix_sec)
        end(process, whom, rng)
    finally:
        kill(process)
    started = [line for line in metrics_lines(folder)[before:] if line.get("event") == "start"]
    resumed = started[0]["step"] if started else -1
    steps = [line["step"] for line in metrics_lines(folder)[before:] if "event" not in line]
    there = ""
    if place is not None and on_its_way:
        time.sleep(ORPHAN_SEC)
        there = place.newest_that_counts()
    return Life(world_size, instant, whom, resumed, max(steps, default=resumed), on_its_way, there)


def moments(killing: Killing, instant: str, num_lines: int, began_unix_sec: float) -> Iterator[None]:
    """Waits in small parts until the instant has come, but no longer than some steps."""
    rng, folder, place = killing.rng, killing.run, killing.place
    if instant == "start-up":
        yield from pauses(rng.uniform(0.0, killing.start_up_sec))
        return
    num_steps = rng.randint(1, killing.most_steps)
    yield from steps_done(folder, num_lines, 1 if instant == "in an upload" else num_steps)
    if instant == "between steps":
        yield from pauses(rng.uniform(0.0, 1.0))
    elif instant == "in a save":
        known = saves(folder)
        while saves(folder) <= known:
            known &= saves(folder)
            yield from pauses(0.002)
        yield from pauses(rng.uniform(0.0, 0.4))
    elif place is not None:
        last = num_lines + 1 + MOST_STEPS_OF_A_LIFE
        while not place.on_its_way(folder, began_unix_sec) and len(metrics_lines(folder)) < last:
            yield from pauses(0.02)
        yield from pauses(rng.uniform(0.0, 2.0))


def steps_done(folder: Path, num_lines: int, num_steps: int) -> Iterator[None]:
    """Until so many steps of this life are logged; its first line tells of the start."""
    while len(metrics_lines(folder)) < num_lines + 1 + num_steps:
        yield from pauses(0.02)


def pauses(duration_sec: float) -> Iterator[None]:
    deadline = time.monotonic() + duration_sec
    while (left_sec := deadline - time.monotonic()) > 0:
        time.sleep(min(left_sec, 0.05))
        yield


def saves(folder: Path) -> set[str]:
    """Checkpoints that are being written."""
    return {path.name for path in (folder / "checkpoint").glob("step-*.partial")}


def end(process: RunProcess, whom: str, rng: random.Random) -> None:
    """kill -9 of all processes, the uploader included, or of one worker: the launcher must end the others by itself."""
    workers = children(process.pid)
    if whom == "all" or not workers:
        kill(process)
        return
    with suppress(ProcessLookupError):
        os.kill(rng.choice(workers), signal.SIGKILL)
    process.wait(END_TIMEOUT_SEC)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--worlds", type=naturals, default=(1, 2, 3))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-uploads", action="store_true", help="without a server and kills in an upload")
    args = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        place = None if args.no_uploads else stack.enter_context(upload_place(folder))
        killing = Killing(folder, args.kills, args.worlds, random.Random(args.seed), place)
        lives, comparison = kills(killing)
        there = place.all_that_counts() if place else []
    in_uploads = sum(bool(life.on_its_way) for life in lives)
    record = {
        **vars(args),
        "comparison": asdict(comparison),
        "kills_while_something_was_on_its_way": in_uploads,
        "complete_at_the_address_and_sound": there,
        "lives": [asdict(life) for life in lives],
    }
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
