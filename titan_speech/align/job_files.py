"""Files in the folder of a reward training (OUTPUT.work), which the run page reads, and the steps among them.

settings.json            what the job was begun with
metrics.jsonl            a line per step: `align/NAME` of the reward, its scores, divergence and rate; events between
parity.json              log-probabilities of trainer, transformers and generator before the first step
rollouts/step-N.json     answers to some prompts with rewards and scores; rollouts/step-N/K.wav their sound
breaches.json            where a bound was left and the rate was lowered

In: steps as they end, and the step of the checkpoint that a job resumes from. Out: the steps, each once: those after
the checkpoint are removed, since they are made again. Imports are light.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from titan_speech.align.journal import DAMAGED, damaged, open_lines, read_lines
from titan_speech.utils.files import write_atomically

SETTINGS_NAME, METRICS_NAME, PARITY_NAME, BREACHES_NAME = (
    "settings.json",
    "metrics.jsonl",
    "parity.json",
    "breaches.json",
)
ROLLOUTS_NAME = "rollouts"
MEANS_PREFIX = "align/"
"""Of the names of a step's means in metrics.jsonl."""


def append_step(folder: Path, step: int, means: Mapping[str, float]) -> None:
    """Add a step's line; what is no finite number is left out.

    Args:
        folder: of the job.
        step: counted from 1.
        means: of the reward and of every score.
    """
    finite = {f"{MEANS_PREFIX}{name}": value for name, value in means.items() if math.isfinite(value)}
    append_record(folder, {"step": step, **finite})


def append_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Add a line: a step, or an `event`."""
    with open_lines(folder / METRICS_NAME) as file:
        file.write(json.dumps(record).encode() + b"\n")


def read_steps(folder: Path) -> list[dict[str, float]]:
    """The steps, with the names of their means.

    Raises:
        DataError: a line is no step and no event.
    """
    return [
        {name.removeprefix(MEANS_PREFIX): value for name, value in record.items()}
        for record in _records(folder / METRICS_NAME)
        if "event" not in record
    ]


def cut_steps(folder: Path, done: int) -> None:
    """Remove the steps after a checkpoint, and their answers.

    Args:
        folder: of the job.
        done: step of the checkpoint; 0 without one.

    Raises:
        DataError: a line is no step and no event.
    """
    kept = [record for record in _records(folder / METRICS_NAME) if record["step"] <= done]
    write_atomically(folder / METRICS_NAME, "".join(f"{json.dumps(record)}\n" for record in kept))
    for answers in (folder / ROLLOUTS_NAME).glob("step-*.json"):
        number = answers.stem.removeprefix("step-")
        if number.isdecimal() and int(number) > done:
            shutil.rmtree(answers.with_suffix(""), ignore_errors=True)  # its sound
            answers.unlink()


def _records(path: Path) -> list[dict[str, Any]]:
    """The lines; checked."""
    records = []
    for number, record in read_lines(path):
        try:
            _check(record)
        except DAMAGED as error:
            raise damaged(path, number, error) from None
        records.append(record)
    return records


def _check(record: Any) -> None:
    if type(record["step"]) is not int:
        raise TypeError(f"found the step {record['step']!r:.80}, expected a whole number")
    if "event" in record:
        return
    for name, value in record.items():
        if type(value) not in (int, float) or not math.isfinite(value):
            raise TypeError(f"{name!r:.80}: found {value!r:.80}, expected a finite number")
    if f"{MEANS_PREFIX}reward" not in record:
        raise KeyError(f"{MEANS_PREFIX}reward")
