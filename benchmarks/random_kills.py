"""Kill a small run at random instants, again and again, and compare it with one that was not killed; JSON on stdout.

    python -m benchmarks.random_kills --kills 30 --worlds 1,2,3 --seed 0 > kills.json

In: the bundled data. Each life of the run has a number of processes drawn from --worlds, and ends by `kill -9` of all
its processes or of one worker (the launcher then ends the rest): during start-up, some steps in, or while a checkpoint
is being written. After the last kill the run goes on to its end. Out: the lives; whether every step that any of them
logged trained on the same tokens of each group as the run that was not killed; the largest relative gap of a loss;
whether all figures are equal to the last bit (what one world size must give). The log of the lives goes to stderr.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.runs import children, figures, kill, losses, metrics_lines, start_run, train_well
from titan_speech.verbs.values import naturals

STEPS_PER_KILL = 4
STEPS_AFTER = 6
END_TIMEOUT_SEC = 120.0


@dataclass(frozen=True)
class Life:
    """One life of the run and how it ended."""

    world_size: int
    instant: str
    killed: str
    resumed_from: int
    last_step: int
    """The last step it logged; `resumed_from` if none."""


@dataclass(frozen=True)
class Comparison:
    """The killed run against the one that was not."""

    num_steps: int
    num_logged_steps_of_all_lives: int
    same_tokens_of_each_group_in_every_step: bool
    largest_relative_gap_of_a_loss: float
    relative_gap_of_the_final_loss: float
    equal_to_the_last_bit: bool


def settings(num_steps: int) -> tuple[str, ...]:
    """Two packs of 256 a step: with three processes one of them has only a filler pack."""
    return (
        *("--training.global_batch_tokens", "512", "--training.local_batch_packs", "1"),
        *("--training.target_tokens", str(512 * num_steps), "--checkpoint.cadence.0.every", "2"),
        *("--checkpoint.keep_last_full", "3", "--checkpoint.keep_last_model_only", "1"),
    )


def live(folder: Path, num_steps: int, rng: random.Random, worlds: tuple[int, ...]) -> Life | None:
    """Start the run and kill it; None if it came to its end first."""
    world_size, whom = rng.choice(worlds), rng.choice(("all", "one worker"))
    instant = rng.choices(("start-up", "between steps", "in a save"), (1, 2, 3))[0]
    before = len(metrics_lines(folder))
    process = start_run(folder, *settings(num_steps), world_size=world_size)
    try:
        for _ in moments(instant, folder, before, rng):
            if process.poll() is not None:
                return None
        end(process, whom, rng)
    finally:
        kill(process)
    started = [line for line in metrics_lines(folder)[before:] if line.get("event") == "start"]
    resumed = started[0]["step"] if started else -1
    steps = [line["step"] for line in metrics_lines(folder)[before:] if "event" not in line]
    return Life(world_size, instant, whom, resumed, max(steps, default=resumed))


def moments(instant: str, folder: Path, num_lines: int, rng: random.Random) -> Iterator[None]:
    """Waits in small parts until the instant has come."""
    if instant == "start-up":
        yield from pauses(rng.uniform(0.0, 12.0))
        return
    num_steps = rng.randint(1, 5)
    while len(metrics_lines(folder)) < num_lines + 1 + num_steps:  # the first line tells of the start
        yield from pauses(0.02)
    if instant == "between steps":
        yield from pauses(rng.uniform(0.0, 1.0))
        return
    known = saves(folder)
    while saves(folder) <= known:
        known &= saves(folder)
        yield from pauses(0.002)
    yield from pauses(rng.uniform(0.0, 0.4))


def pauses(duration_sec: float) -> Iterator[None]:
    deadline = time.monotonic() + duration_sec
    while (left_sec := deadline - time.monotonic()) > 0:
        time.sleep(min(left_sec, 0.05))
        yield


def saves(folder: Path) -> set[str]:
    """Checkpoints that are being written."""
    return {path.name for path in (folder / "checkpoint").glob("step-*.partial")}


def end(process: subprocess.Popen[str], whom: str, rng: random.Random) -> None:
    """kill -9 of all processes, or of one worker, after which the launcher must end the others by itself."""
    workers = children(process.pid)
    if whom == "all" or not workers:
        kill(process)
        return
    with suppress(ProcessLookupError):
        os.kill(rng.choice(workers), signal.SIGKILL)
    process.wait(END_TIMEOUT_SEC)


def compare(killed: Path, whole: Path) -> Comparison:
    expected, found = losses(figures(whole)), losses(figures(killed))
    lines = [line for line in metrics_lines(killed) if "event" not in line]
    gaps = [gap(found[step], of_step) for step, of_step in expected.items()]
    last = max(expected)
    return Comparison(
        num_steps=last,
        num_logged_steps_of_all_lives=len(lines),
        same_tokens_of_each_group_in_every_step=sorted(found) == sorted(expected)
        and all(tokens(line) == tokens(expected[line["step"]]) for line in lines),
        largest_relative_gap_of_a_loss=max(gaps),
        relative_gap_of_the_final_loss=gap({"loss": found[last]["loss"]}, {"loss": expected[last]["loss"]}),
        equal_to_the_last_bit=found == expected,
    )


def tokens(figures_of_step: dict[str, float]) -> dict[str, float]:
    """Trained tokens of each group."""
    return {name: value for name, value in figures_of_step.items() if name.startswith("trained_tokens/")}


def gap(found: dict[str, float], expected: dict[str, float]) -> float:
    """The largest relative gap of a loss, groups included."""
    names = [name for name in expected if name == "loss" or name.startswith("loss/")]
    return max(abs(found[name] - expected[name]) / abs(expected[name]) for name in names)


def kills(folder: Path, num_kills: int, worlds: tuple[int, ...], seed: int) -> tuple[list[Life], Comparison]:
    """The whole proof; the run that is not killed has the first of the world sizes."""
    rng, num_steps = random.Random(seed), STEPS_PER_KILL * num_kills + STEPS_AFTER
    killed, whole = folder / "killed", folder / "whole"
    lives: list[Life] = []
    while len(lives) < num_kills:
        life = live(killed, num_steps, rng, worlds)
        if life is None:
            log = (killed / "log.txt").read_text(errors="replace")
            raise SystemExit(f"the run ended by itself after {len(lives)} kills:\n{log[-4000:]}")
        lives.append(life)
        print(f"{len(lives)}: {life}", file=sys.stderr, flush=True)
    train_well(killed, *settings(num_steps), world_size=rng.choice(worlds))
    train_well(whole, *settings(num_steps), world_size=worlds[0])
    return lives, compare(killed, whole)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--worlds", type=naturals, default=(1, 2, 3))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        lives, comparison = kills(Path(folder), args.kills, args.worlds, args.seed)
    record = {**vars(args), "comparison": asdict(comparison), "lives": [asdict(life) for life in lives]}
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
