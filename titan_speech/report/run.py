"""A run folder as the page needs it, read without torch, without its stores and without loading a checkpoint.

In: a run folder, of this machine or copied from another one. Out: `Run`: its metrics, the resolved configuration as
plain TOML, checkpoints with what made them, and the warnings of its logs. What is missing or damaged is left out and
named in `problems`: a page of a broken run matters most.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import tomli

from titan_speech.align.job_files import PARITY_NAME, SETTINGS_NAME
from titan_speech.checkpoint.commit import Commit, committed_checkpoints, read_commit
from titan_speech.config.resolved import RESOLVED_NAME
from titan_speech.config.schema_operations import CheckpointConfig
from titan_speech.errors import CheckpointError, DataError
from titan_speech.report.metrics_log import MetricsLog
from titan_speech.utils.json_text import read_json_file, read_small_file
from titan_speech.utils.locks import LOCK_NAME, WATCH_SEC

METRICS_NAME = "metrics.jsonl"
MAX_TEXT_BYTES = 4 << 20
MAX_LOG_BYTES = 4 << 20
"""Of the end of each rank's log."""
MAX_RANK_LOGS = 64
_RECORD = re.compile(r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d),\d+ (WARNING|ERROR|CRITICAL) (\S+): (.*)$")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")


@dataclass(frozen=True)
class SavedCheckpoint:
    """A checkpoint with its marker."""

    step: int
    name: str
    commit: Commit | None
    """None if the marker is damaged."""


@dataclass
class LogMessage:
    """Warnings and errors of the logs that differ in numbers only."""

    level: str
    text: str
    """The last of them."""
    last_time: str
    count: int = 1
    ranks: set[str] = field(default_factory=set)


@dataclass
class Run:
    """One run folder; what was read once is kept, but for `log`, which `log.update` continues."""

    folder: Path
    name: str
    """Unique among the runs of a page."""
    color: int
    log: MetricsLog
    problems: list[str] = field(default_factory=list)

    @cached_property
    def config_text(self) -> str:
        if self.is_reward_training:
            return ""  # it has no configuration file
        try:
            return read_small_file(self.folder / RESOLVED_NAME, MAX_TEXT_BYTES).decode("utf-8", "replace")
        except (OSError, ValueError) as error:
            self.problems.append(f"{RESOLVED_NAME} cannot be read: {error}")
            return ""

    @cached_property
    def config(self) -> dict[str, Any]:
        try:
            return tomli.loads(self.config_text)
        except (ValueError, RecursionError) as error:
            self.problems.append(f"{RESOLVED_NAME} cannot be read: {error}")
            return {}

    def setting(self, table: str, key: str) -> Any:
        """A value of the configuration; None if it is not there."""
        found = self.config.get(table)
        return found.get(key) if isinstance(found, dict) else None

    def number(self, table: str, key: str) -> int:
        """A whole number of the configuration; 0 if it is missing, or not a whole number of 64 bits."""
        return _whole(self.setting(table, key))

    @property
    def is_reward_training(self) -> bool:
        """Whether the folder is that of `titan-speech align grpo`."""
        return (self.folder / PARITY_NAME).is_file()

    @property
    def tokens_per_step(self) -> int:
        return self.number("training", "global_batch_tokens")

    @property
    def num_steps(self) -> int:
        """Steps of the whole run; 0 if they are not known."""
        if self.is_reward_training:
            found = self.json(self.folder / SETTINGS_NAME)
            return _whole(found.get("num_steps")) if isinstance(found, dict) else 0
        per_step = self.tokens_per_step
        return -(-self.number("training", "target_tokens") // per_step) if per_step > 0 else 0

    @cached_property
    def checkpoints(self) -> list[SavedCheckpoint]:
        found = []
        for one in committed_checkpoints(self.checkpoint_folder):
            try:
                found.append(SavedCheckpoint(one.step, one.path.name, read_commit(one.path)))
            except CheckpointError as error:
                self.problems.append(str(error))
                found.append(SavedCheckpoint(one.step, one.path.name, None))
        return found

    @property
    def checkpoint_folder(self) -> Path:
        name = self.setting("checkpoint", "folder")
        is_plain = isinstance(name, str) and name and not Path(name).is_absolute() and ".." not in Path(name).parts
        return self.folder / (name if is_plain else CheckpointConfig.folder)

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """What made the newest checkpoint, as it was recorded."""
        if not self.checkpoints:
            return {}
        path = self.checkpoint_folder / "provenance" / f"{self.checkpoints[-1].name}.json"
        found = self.json(path)
        return found if isinstance(found, dict) else {}

    @cached_property
    def messages(self) -> list[LogMessage]:
        """Warnings and errors, the latest first."""
        found: dict[str, LogMessage] = {}
        for path in _rank_logs(self.folder):
            rank = path.stem.removeprefix("rank-")
            for when, level, text in _warnings(path):
                message = found.setdefault(f"{level} {_NUMBER.sub('0', text)}", LogMessage(level, text, when, 0))
                message.count += 1
                message.ranks.add(rank)
                if when >= message.last_time:
                    message.last_time, message.text = when, text
        return sorted(found.values(), key=lambda one: one.last_time, reverse=True)

    @property
    def state(self) -> str:
        """`running`, `complete` or `stopped`."""
        if self.num_steps and self.log.last_step >= self.num_steps:
            return "complete"
        return "running" if _beats(self.folder / LOCK_NAME) else "stopped"

    def json(self, path: Path) -> Any:
        """A JSON file of the run; None if it is missing or damaged."""
        try:
            return read_json_file(path) if path.is_file() else None
        except (OSError, ValueError) as error:
            self.problems.append(f"{path.name} cannot be read: {error}")
            return None

    def refreshed(self) -> Run:
        """The run as it is now; the metrics that were read stay."""
        self.log.update()
        return Run(self.folder, self.name, self.color, self.log)


def _whole(value: Any) -> int:
    return value if type(value) is int and abs(value) < 1 << 63 else 0


def open_runs(folders: Sequence[Path]) -> list[Run]:
    """The runs of a page.

    Raises:
        DataError: a folder is not a run folder, cannot be read or is named twice.
    """
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise DataError(f"found a run twice in {', '.join(map(str, folders))}; expected each run once")
    runs = []
    for color, folder in enumerate(folders):
        if not (folder / METRICS_NAME).is_file() and not (folder / RESOLVED_NAME).is_file():
            raise DataError(
                f"{folder} is not a run folder: it has neither {METRICS_NAME} nor {RESOLVED_NAME}; give the run's "
                "job.dump_folder"
            )
        run = Run(folder, _unique_name(folder, folders), color, MetricsLog(folder / METRICS_NAME))
        try:
            run.log.update()
        except OSError as error:
            raise DataError(f"{folder / METRICS_NAME} cannot be read: {error}") from error
        runs.append(run)
    return runs


def _unique_name(folder: Path, folders: Sequence[Path]) -> str:
    """The last part of the path, or as many as it takes to tell it from the others."""
    parts = folder.resolve().parts
    for count in range(1, len(parts)):
        name = "/".join(parts[-count:])
        if sum("/".join(other.resolve().parts[-count:]) == name for other in folders) == 1:
            return name
    return str(folder)


def _rank_logs(folder: Path) -> list[Path]:
    def rank_of(path: Path) -> int:
        digits = path.stem.removeprefix("rank-")
        return int(digits) if digits.isdecimal() and len(digits) < 9 else 1 << 30

    found = (path for path in (folder / "logs").glob("rank-*.log") if path.is_file() and not path.is_symlink())
    return sorted(found, key=rank_of)[:MAX_RANK_LOGS]


def _warnings(path: Path) -> Iterator[tuple[str, str, str]]:
    """Time, level and text of the warnings at the end of a log."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(0, size - MAX_LOG_BYTES))
            content = file.read(MAX_LOG_BYTES).decode("utf-8", "replace")
    except OSError:
        return
    for line in content.split("\n"):
        if match := _RECORD.match(line[:2000]):
            when, level, _, text = match.groups()
            yield when, level, text


def _beats(path: Path) -> bool:
    """Whether the holder of the run's lock has written to it lately; the lock itself is left alone."""
    try:
        found = path.stat()
    except OSError:
        return False
    return found.st_size > 0 and time.time() - found.st_mtime < WATCH_SEC
