"""What one process of a build does: import a unit, or write a shard; and the progress of all of them.

In: a task. Out: files in the build's folder (build_folder.py), and a record that is put in place only when they are
complete. The functions pickle, so utils/process_pool.py runs them in this process or in several.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from titan_speech.errors import DataError
from titan_speech.importers.base import BadSample, Importer, Sample, SpeechSample, TextSample, Unit
from titan_speech.importers.build_folder import (
    UNIT_PROBLEM,
    UnitRecord,
    stamp_of,
    write_shard_record,
    write_unit_record,
)
from titan_speech.store.problems import Problem, ProblemGroup, Problems, combine_problems
from titan_speech.store.sample_sorter import Recipe, SampleSorter
from titan_speech.store.shard_writer import ShardJob, write_shard
from titan_speech.utils.process_pool import Advance
from titan_speech.utils.progress import ProgressLine, clock

BYTES_PER_TOKEN = 4.0  # assumed until a task is finished


@dataclass(frozen=True)
class UnitTask:
    """A unit, and the folder its runs go to."""

    unit: Unit
    target: Path


@dataclass(frozen=True)
class ImportUnit:
    """Imports a unit to sorted runs; a bad sample is counted and left out, all others are still checked."""

    importer: Importer
    recipe: Recipe
    normalize: bool

    def __call__(self, task: UnitTask, advance: Advance) -> UnitRecord:
        unit, target = task.unit, task.target
        temporary = target.with_name(f"{target.name}.tmp-{os.getpid()}")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        stamp, found = stamp_of(unit), _UnitProblems(unit)
        spill = SampleSorter(temporary, self.recipe, found.refuse, found.doubt, advance, unit.place, str(unit.path))
        problems = found.problems.found
        try:
            self._add_samples(spill, unit, found)
        except DataError as error:
            line = str(error) if str(unit.path) in str(error) else f"{unit.place}: {error}"
            # first, since it may explain the others
            problems = combine_problems([{UNIT_PROBLEM: ProblemGroup(line, 1, "units")}, problems]).found
        runs = spill.finish()
        counts = sum(run.num_samples for run in runs), sum(run.num_tokens for run in runs)
        record = UnitRecord(unit.name, stamp, *counts, problems, found.doubts.found, runs)
        write_unit_record(temporary, record)
        shutil.rmtree(target, ignore_errors=True)
        os.rename(temporary, target)
        return replace(record, runs=tuple(replace(run, folder=target / run.folder.name) for run in runs))

    def _add_samples(self, spill: SampleSorter, unit: Unit, found: _UnitProblems) -> None:
        samples: Iterator[Sample] = self.importer.samples(unit)
        for sample in map(_normalize, samples) if self.normalize else samples:
            found.row = sample.row
            match sample:
                case SpeechSample(info, codes_T, transcripts, row):
                    spill.add_speech(info, codes_T, transcripts, row)
                case TextSample(info, text, user, row):
                    spill.add_text(info, text, user, row)
                case BadSample(name, problem):
                    found.refuse(name, problem)


class _UnitProblems:
    """Collects bad and doubtful samples of a unit, with their places in the input."""

    def __init__(self, unit: Unit) -> None:
        self._unit = unit
        self.problems, self.doubts = Problems("", limit=None), Problems("", limit=None)
        self.row: int | None = None
        """Row of the sample that is being added."""

    def refuse(self, name: str, problem: Problem) -> None:
        self.problems.add(name, problem, place=self._place())

    def doubt(self, name: str, problem: Problem) -> None:
        self.doubts.add(name, problem, place=self._place())

    def _place(self) -> str:
        return self._unit.place if self.row is None else f"{self._unit.path}, row {self.row}"


def _normalize(sample: Sample) -> Sample:
    from titan_speech.tokenization.normalize import normalize

    match sample:
        case SpeechSample(info, _, transcripts):
            texts = {variant: normalize(text, info.language) for variant, text in transcripts.items()}
            return replace(sample, transcripts=texts)
        case TextSample(info, text, user):
            user = None if user is None else normalize(user, info.language)
            return replace(sample, text=normalize(text, info.language), user=user)
    return sample


@dataclass(frozen=True)
class CutShard:
    """Writes a shard of the new store from all runs."""

    store: Path
    records: Path

    def __call__(self, task: ShardJob, advance: Advance) -> None:
        (self.store / task.key.folder).mkdir(exist_ok=True)
        info = write_shard(task, self.store)
        write_shard_record(self.records, task, info)
        advance(info.num_samples, info.num_tokens)


class BuildProgress:
    """Progress of one stage of a build: samples, tokens, their rates and the time left.

    Time left is estimated by bytes of input: a running task is taken to have read as many bytes for its tokens as the
    finished tasks did for theirs.
    """

    def __init__(self, stage: str, what: str, num_bytes: Sequence[int]) -> None:
        """Args: `num_bytes` of each task."""
        self._stage, self._what, self._num_bytes = stage, what, np.asarray(num_bytes, np.float64)
        self._line = ProgressLine()
        self._last = np.zeros((len(num_bytes), 2), np.int64), np.zeros(len(num_bytes), bool)

    def report(self, counts: NDArray[np.int64], is_done: NDArray[np.bool_]) -> None:
        """Called often, prints rarely.

        Args:
            counts: samples and tokens of each task, [tasks, 2].
            is_done: which tasks are finished, [tasks].
        """
        self._last = counts, is_done
        if self._line.is_due:
            self._line.show(self._text(counts, is_done, 0))

    def finish(self, num_refused: int = 0) -> None:
        """Print the last line, which stays.

        Args:
            num_refused: tasks that are finished, but without a usable result.
        """
        if len(self._num_bytes):
            self._line.show(self._text(*self._last, num_refused))
        self._line.close()

    def _text(self, counts: NDArray[np.int64], is_done: NDArray[np.bool_], num_refused: int) -> str:
        num_samples, num_tokens = counts.sum(axis=0).tolist()
        elapsed_sec = max(self._line.elapsed_sec, 1e-9)
        share = self._share(counts[:, 1], is_done)
        left = f"{clock(elapsed_sec * (1 - share) / share)} left" if 0 < share < 1 else f"{clock(elapsed_sec)} taken"
        return (
            f"{self._stage} {is_done.sum() - num_refused} of {len(is_done)} {self._what}"
            f"{f', refused {num_refused}' if num_refused else ''}: {num_samples:,} samples "
            f"({num_samples / elapsed_sec:,.0f}/s), {num_tokens / 1e6:,.1f} M tokens "
            f"({num_tokens / elapsed_sec / 1e6:,.2f} M/s), {left}"
        )

    def _share(self, tokens: NDArray[np.int64], is_done: NDArray[np.bool_]) -> float:
        """The estimated part of the input that was read, by bytes."""
        finished = self._num_bytes[is_done].sum()
        per_token = finished / max(tokens[is_done].sum(), 1) if finished else BYTES_PER_TOKEN
        running = np.minimum(tokens[~is_done] * per_token, self._num_bytes[~is_done]).sum()
        return float((finished + running) / max(self._num_bytes.sum(), 1.0))
