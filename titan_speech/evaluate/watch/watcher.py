"""The loop that evaluates the checkpoints of a run: what is due, in which order, once each.

In: the checkpoints of a run, the evaluations that each is due for, a queue that workers share. Out: results in the
queue's folder, and their clips as wav files where they are kept. The canary set is due at every checkpoint, the full
set at the first checkpoint at or after each multiple of its cadence. The newest checkpoint is first: what happens now
matters more than what happened while nobody watched.

Nothing is written into the run's checkpoints, and the trainer knows nothing of it: it opens no file and no socket for
it, and waits for no lock. A checkpoint is open while it is exported, not while its export generates and is scored;
retention removes one that is not open, and one that was removed before its export has a result that says so.
"""

from __future__ import annotations

import logging
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from titan_speech.codec.wav import wav_bytes
from titan_speech.errors import CheckpointError, DataError, TitanSpeechError
from titan_speech.evaluate.clip import SAMPLE_RATE, Clip
from titan_speech.evaluate.models.isolation import RETRY_SEC
from titan_speech.evaluate.result import Result, ResultKey, audio_path, result_from_json
from titan_speech.evaluate.scorers.base import ScorersFailedError
from titan_speech.evaluate.summary import failed_clips
from titan_speech.evaluate.watch.checkpoint_result import Evaluation, evaluate_checkpoint
from titan_speech.evaluate.watch.claims import WorkQueue, do_once
from titan_speech.evaluate.watch.milestones import MilestoneCheck
from titan_speech.evaluate.watch.run_checkpoints import RunCheckpoint, RunCheckpoints
from titan_speech.storage.retry import UnreachableError

logger = logging.getLogger(__name__)

POLL_SEC = 30.0


@dataclass(frozen=True)
class Due:
    """An evaluation and the checkpoints that it is made of."""

    evaluation: Evaluation
    every_steps: int = 0
    """0: each checkpoint; else the first at or after each multiple of this many steps."""
    keeps_audio: bool = False

    def of(self, complete: Sequence[RunCheckpoint], evaluated_steps: Iterable[int]) -> list[RunCheckpoint]:
        """Which checkpoints are due, the newest first.

        Args:
            complete: checkpoints that are there, by rising step.
            evaluated_steps: of checkpoints that have a result of this evaluation; they may be gone by now.
        """
        if not self.every_steps:
            return list(complete[::-1])
        known = sorted({*evaluated_steps, *(one.step for one in complete)})
        first_of_multiple = {step // self.every_steps: step for step in reversed(known) if step >= self.every_steps}
        return [one for one in reversed(complete) if first_of_multiple.get(one.step // self.every_steps) == one.step]


@dataclass
class Watcher:
    """One worker on a run."""

    checkpoints: RunCheckpoints
    due: Sequence[Due]
    queue: WorkQueue
    work: Path
    """Folder of this machine for codes of evaluations that were cut."""
    milestones: MilestoneCheck | None = None
    """None: exports of the run are not compared."""
    on_result: Callable[[Result], None] = lambda result: None
    """Called once with each result that appears while this worker is there, whoever made it."""
    _steps: dict[str, tuple[str, int]] = field(default_factory=dict)
    """Series and step of each result, by its id: each is read once."""

    _failures: list[tuple[str | None, int | None, str]] = field(default_factory=list)
    """Series, step and reason; a milestone that could not be compared has no series."""
    _num_unscored: Counter[str] = field(default_factory=Counter)
    """How often scorers failed on all clips, by the id of the work."""

    def __post_init__(self) -> None:
        self._read_results(self.queue.done(), is_new=False)

    def evaluate_due(self, only_step: int | None = None) -> int:
        """Evaluate everything that is due now and that no other worker is at.

        Args:
            only_step: of one checkpoint; None: all.

        Returns:
            How many results this worker published.

        Raises:
            TitanSpeechError: something that every checkpoint would meet: another codec, a full disk, a scorer that
                fails on all clips. After `max_attempts` of the last, the result of the checkpoint says so.
        """
        count = 0
        while True:
            work = self._next(only_step)
            if work is None:
                break
            count += work
        while self.milestones is not None and self.milestones.check_next():
            count += 1
        return count

    def _next(self, only_step: int | None) -> int | None:
        """Do the first piece of work that is free; None if no work is free.

        New checkpoints are looked for each time, so that the newest is always the next.
        """
        for due, checkpoint, key in self._open(only_step):
            about = {"step": checkpoint.step, "series": key.series, "id": key.id}
            is_ours = do_once(self.queue, key.id, partial(self._work, due, checkpoint), about)
            if is_ours or self.queue.result(key.id) is not None:  # or another worker was faster
                shutil.rmtree(self.work / key.id, ignore_errors=True)
                return int(is_ours)
        return None

    def _open(self, only_step: int | None) -> Iterator[tuple[Due, RunCheckpoint, ResultKey]]:
        """What is due and has no result, in the order in which it is done."""
        complete, done = self.checkpoints.complete(), self.queue.done()
        self._read_results(done)
        for due in self.due:
            for checkpoint in due.of(complete, self._evaluated_steps(due.evaluation)):
                key = due.evaluation.key(checkpoint.fingerprint)
                if key.id not in done and only_step in (None, checkpoint.step):
                    yield due, checkpoint, key

    def num_open(self, only_step: int | None = None) -> int:
        """How much is due and has no result: what other workers are at, and what a worker that is gone had claimed."""
        milestones = 0 if self.milestones is None else len(list(self.milestones.unproved()))
        return len(list(self._open(only_step))) + milestones

    def _read_results(self, done: Iterable[str], *, is_new: bool = True) -> None:
        """Read results that were not there before."""
        for id_ in done:
            if id_ in self._steps:
                continue
            self._steps[id_] = "", 0
            try:
                content = self.queue.result(id_) or {}
                if "parity" in content:
                    continue
                if "failed" in content:
                    step = content.get("step")
                    self._failures.append(
                        (content.get("series"), step, f"step {step} has no result: {content['failed']}")
                    )
                    continue
                result = result_from_json(content, f"result {id_}")
            except UnreachableError:  # says nothing of the result
                del self._steps[id_]
                raise
            except DataError as error:
                logger.warning("%s", error)
                continue
            self._steps[id_] = result.key.series, result.step or 0
            if failed := result.failures():
                text = f"{result.name}: {failed_clips(result, failed)}"
                self._failures.append((result.key.series, result.step, text))
            if is_new:
                self.on_result(result)

    def failures(self, only_step: int | None = None) -> list[str]:
        """Why checkpoints have no result, and results with clips that failed: of all workers, under these settings."""
        ours = {None, *(due.evaluation.key("").series for due in self.due)}
        return [text for series, step, text in self._failures if series in ours and only_step in (None, step)]

    def _evaluated_steps(self, evaluation: Evaluation) -> list[int]:
        series = evaluation.key("").series
        return [step for found, step in self._steps.values() if found == series]

    def _work(self, due: Due, checkpoint: RunCheckpoint) -> dict[str, Any]:
        evaluation = due.evaluation
        key = evaluation.key(checkpoint.fingerprint)
        folder = self.work / key.id
        logger.info("step %d: %s set of %s", checkpoint.step, evaluation.set_name, evaluation.pack.name)
        try:
            result, clips = evaluate_checkpoint(self.checkpoints.opened(checkpoint), evaluation, key, folder)
        except CheckpointError as error:
            return _failed(error, checkpoint, key)
        except ScorersFailedError as error:
            self._num_unscored[key.id] += 1
            if self._num_unscored[key.id] < self.queue.max_attempts:
                raise
            return _failed(error, checkpoint, key)
        if due.keeps_audio:
            for name, content in kept_audio(key.id, clips):
                self.queue.folder.create(name, content)
        return result.to_json()

    def watch(self, stop: threading.Event, poll_sec: float = POLL_SEC, scorer_wait_sec: float = RETRY_SEC) -> None:
        """Evaluate what becomes due until `stop` is set.

        A server that cannot be reached is waited for, and so is a scorer that fails on all clips.

        Raises:
            TitanSpeechError: as `evaluate_due`.
        """
        while not stop.is_set():
            try:
                self.evaluate_due()
            except UnreachableError as error:
                logger.warning("%s; looking again in %g s", error, poll_sec)
            except ScorersFailedError as error:
                logger.warning("%s. Scoring again in %g s", error, scorer_wait_sec)
                stop.wait(scorer_wait_sec)
            stop.wait(poll_sec)


def kept_audio(key_id: str, clips: Sequence[Clip]) -> Iterator[tuple[str, bytes]]:
    """Name and content of the wav file of each clip that has a sound, of the first seed alone."""
    for clip in clips:
        is_first = clip.seed == clips[0].seed
        if is_first and clip.sound.wav_T is not None and len(clip.sound.wav_T):
            yield audio_path(key_id, clip.prompt_id), wav_bytes(clip.sound.wav_T, SAMPLE_RATE)


def _failed(error: TitanSpeechError, checkpoint: RunCheckpoint, key: ResultKey) -> dict[str, Any]:
    """A result that says why the checkpoint was not evaluated."""
    logger.warning("step %d is not evaluated: %s", checkpoint.step, error)
    return {"failed": str(error), "step": checkpoint.step, "series": key.series, "id": key.id}
