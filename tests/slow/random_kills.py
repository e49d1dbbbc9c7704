"""Kill a small run at random moments, again and again, and compare it with one that was not killed; JSON on stdout.

    python -m tests.slow.random_kills --kills 30 --worlds 1,2,3 --seed 0 > kills.json

In: the bundled data. Each start of the run has a number of processes drawn from --worlds and ends by `kill -9` of all
its processes, of one worker (the launcher then ends the rest), or of the launcher alone (the workers then save and
leave by themselves): during start-up, some steps in, while a checkpoint is written, or while one is uploaded to a
SeaweedFS server on loopback. After the last kill the run trains to its end. With --quick most starts are forked from a
process that has imported everything (tests/support/warm.py), one in four is by torchrun, and the run ends soon after
its last kill.
Out: the starts; whether every step of any of them trained on the same pack in each slot, by digest; the largest gap of
a loss, and whether all metrics are equal to the last bit; and which checkpoints are complete at the address, each
fetched and verified. The log of the starts goes to stderr.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.slow.run_comparison import Comparison, compare
from tests.support.runs import RunProcess, children, figures, kill, metrics_lines, start_run
from tests.support.s3_server import BUCKET, S3Server, credentials, running_server
from tests.support.warm import WarmRun, start_warm
from titan_speech.checkpoint.upload.job import read_status, status_path
from titan_speech.checkpoint.upload.remote import Prefix, newest_full
from titan_speech.checkpoint.upload.transfer import fetch
from titan_speech.checkpoint.verify import verify
from titan_speech.cli.arguments import naturals
from titan_speech.storage.s3 import client_of
from titan_speech.storage.s3_url import S3Url

TO = f"s3://{BUCKET}/killed"
MAX_VOLUMES = 400
"""Of 64 MB: what a run of some hundred steps ever sends."""


@dataclass(frozen=True)
class UploadPlace:
    """The address of the run."""

    server: S3Server
    folder: Path
    """For what is fetched."""

    @property
    def settings(self) -> tuple[str, ...]:
        """At 20 MB/s a checkpoint of 80 MB is on its way for four seconds, in parts of 5.3 MB."""
        return (
            *("--upload.to", TO, "--storage.endpoint_url", self.server.endpoint_url),
            *("--upload.bandwidth_mb_per_sec", "20", "--upload.part_mb", "5.3"),
        )

    def on_its_way(self, run: Path, since_unix_sec: float) -> str:
        """What is being sent, if the uploader's word is not of a life before."""
        path = status_path(run)
        status = read_status(path)
        if status is None or not status.sending or path.stat().st_mtime < since_unix_sec:
            return ""
        return f"{status.sending}, {status.sent_bytes / 1e6:.1f} MB" if status.sent_bytes else ""

    def newest_that_counts(self) -> str:
        name = newest_full(self._prefix())
        return "" if name is None else self._sound(name)

    def all_that_counts(self) -> list[str]:
        return [self._sound(name) for name in self._prefix().names()]

    def _prefix(self) -> Prefix:
        return Prefix(client_of(self.server.settings(Path("unused"))), S3Url.parse(TO))

    def _sound(self, name: str) -> str:
        """Its name, when every byte of it came and is what its marker says."""
        back = self.folder / "back"
        found = verify(fetch(self._prefix(), name, back), checksums=True)
        if not found.is_sound:
            raise SystemExit(f"{name} counts at {TO} and is not sound: {found.problems}")
        shutil.rmtree(back)
        return name


@contextmanager
def upload_place(folder: Path) -> Iterator[UploadPlace]:
    """With the server's credentials in the environment, which the runs inherit."""
    with running_server(folder / "weed", max_volumes=MAX_VOLUMES) as server:
        os.environ |= credentials()
        yield UploadPlace(server, folder)


STEPS_PER_KILL = 4
STEPS_AFTER = 6
MOST_STEPS = 2_000
"""More than the lives of a run come to whose end is left open."""

MOST_STEPS_OF_A_LIFE = 8
END_TIMEOUT_SEC = 120.0
RUN_TIMEOUT_SEC = 1500.0
ORPHAN_SEC = 1.5
"""An uploader whose trainer was killed ends by itself in this time."""

LEAVE_SEC = 60.0
"""Workers whose launcher was killed must have left by then."""

ENTRY = "tests/support/digest_train.py"
TORCHRUN_SHARE = 0.25
WHOM = ("all", "one worker", "launcher alone")

INSTANTS = {"start-up": 1, "between steps": 2, "in a save": 3, "in an upload": 3}
"""How often each is drawn."""

Start = Callable[..., RunProcess]
"""As `tests.support.runs.start_run`."""


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

    launcher: str = "torchrun"
    """Or "forked", which does what torchrun does."""

    left_after_sec: float = 0.0
    """From the kill until no worker was left; with the launcher killed they save first."""

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
        """Three packs of 256 per step: with two or five processes some of them have a padding pack."""
        return (
            *("--training.global_batch_tokens", "768", "--training.local_batch_packs", "1"),
            *("--training.target_tokens", str(768 * num_steps)),
            *("--checkpoint.cadence.0.every", "2"),
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
        os.environ["LIFE"] = str(len(lives) + 1)
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
    os.environ["LIFE"] = str(killing.num_kills + 1)
    process = killing.start(folder, *killing.settings(num_steps), *uploads, world_size=world_size, entry=ENTRY)
    try:
        process.wait(RUN_TIMEOUT_SEC)
    finally:
        kill(process)
    if process.returncode != 0:
        raise SystemExit(f"code {process.returncode}:\n{(folder / 'log.txt').read_text(errors='replace')[-8000:]}")


def live(killing: Killing) -> Life | None:
    """Start the run and kill it; None if it came to its end first."""
    rng, folder, place = killing.rng, killing.run, killing.place
    world_size, whom = rng.choice(killing.worlds), rng.choice(WHOM)
    instant = rng.choices(*killing.instants)[0]
    before, on_its_way = len(metrics_lines(folder)), ""
    began_unix_sec = time.time()
    settings = (*killing.settings(killing.most_steps_of_lives), *(place.settings if place else ()))
    process, left_after_sec = killing.start(folder, *settings, world_size=world_size, entry=ENTRY), 0.0
    try:
        for _ in moments(killing, instant, before, began_unix_sec):
            if process.poll() is not None:
                return None
        if place is not None:
            on_its_way = place.on_its_way(folder, began_unix_sec)
        left_after_sec = end(process, whom, rng)
    finally:
        kill(process)
    started = [line for line in metrics_lines(folder)[before:] if line.get("event") == "start"]
    resumed = started[0]["step"] if started else -1
    steps = [line["step"] for line in metrics_lines(folder)[before:] if "event" not in line]
    there = ""
    if place is not None and on_its_way:
        time.sleep(ORPHAN_SEC)
        there = place.newest_that_counts()
    launcher = "forked" if isinstance(process, WarmRun) else "torchrun"
    last_step = max(steps, default=resumed)
    return Life(world_size, instant, whom, resumed, last_step, on_its_way, launcher, left_after_sec, there)


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


def end(process: RunProcess, whom: str, rng: random.Random) -> float:
    """kill -9 of all processes, the uploader included; of one worker, after which the launcher must end the others by
    itself; or of the launcher, after which the workers must save and leave. Returns how long that took, in seconds."""
    workers, began = children(process.pid), time.monotonic()
    if whom == "all" or not workers:
        kill(process)
        return 0.0
    with suppress(ProcessLookupError):
        os.kill(process.pid if whom == "launcher alone" else rng.choice(workers), signal.SIGKILL)
    process.wait(END_TIMEOUT_SEC)
    while alive := [pid for pid in workers if is_running(pid)]:
        if time.monotonic() - began > LEAVE_SEC:
            for pid in alive:
                os.kill(pid, signal.SIGKILL)
            raise SystemExit(f"{len(alive)} of {len(workers)} workers were still there {LEAVE_SEC:.0f} s after: {whom}")
        time.sleep(0.02)
    return round(time.monotonic() - began, 2)


def is_running(pid: int) -> bool:
    """False for one that has ended and was not waited for, as of orphans in a container without an init process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def start_mixed(rng: random.Random) -> Start:
    """Forks most runs, and starts one in four by torchrun."""

    def start(folder: Path, *overrides: str, world_size: int, entry: str) -> RunProcess:
        chosen = start_run if rng.random() < TORCHRUN_SHARE else start_warm
        return chosen(folder, *overrides, world_size=world_size, entry=entry)

    return start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--worlds", type=naturals, default=(1, 2, 3))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="forked starts, and an end soon after the last kill")
    parser.add_argument("--no-uploads", action="store_true", help="without a server and kills in an upload")
    args = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        place = None if args.no_uploads else stack.enter_context(upload_place(folder))
        rng = random.Random(args.seed)
        quick = {"start": start_mixed(rng), "start_up_sec": 4.0, "most_steps": 4, "is_open_ended": True}
        killing = Killing(folder, args.kills, args.worlds, rng, place, **(quick if args.quick else {}))
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
