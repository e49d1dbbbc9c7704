"""What a process of a build does: imports one unit, or cuts one shard.

In: a task. Out: files in the build's folder (folder.py), and a record that is in place only when they are whole.
Both kinds of work pickle, so that they run in this process or in others.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from titan_speech.corpus.build.folder import (
    UNIT_PROBLEM,
    UnitRecord,
    stamp_of,
    write_record,
    write_shard_record,
)
from titan_speech.corpus.format import Format, Unit
from titan_speech.corpus.samples import BadSample, Sample, SpeechSample, TextSample
from titan_speech.errors import DataError
from titan_speech.store.problems import Found, Problem, Problems, merged
from titan_speech.store.write.cut import ShardJob, write_shard
from titan_speech.store.write.spill import Recipe, Spill

Advance = Callable[[int, int], None]
"""Told of samples and tokens as they are done."""


@dataclass(frozen=True)
class UnitTask:
    unit: Unit
    target: Path


@dataclass(frozen=True)
class ImportWork:
    """Imports units; a bad sample is counted and left out, all others of the unit are still checked."""

    format: Format
    recipe: Recipe
    normalize: bool

    def do(self, task: UnitTask, advance: Advance) -> UnitRecord:
        temporary = task.target.with_name(f"{task.target.name}.tmp-{os.getpid()}")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        stamp, problems, doubts = stamp_of(task.unit), Problems("", limit=None), Problems("", limit=None)
        told = _Told(task.unit, problems, doubts)
        place, file = task.unit.place, str(task.unit.path)
        spill = Spill(temporary, self.recipe, told.refuse, told.doubt, advance, place, file)
        try:
            for sample in self._samples(task.unit):
                told.row = sample.row
                _add(spill, sample, told)
        except DataError as error:
            line = str(error) if file in str(error) else f"{place}: {error}"
            problems = merged([{UNIT_PROBLEM: Found(line, 1, "units")}, problems.found])  # it may explain the others
        runs = spill.seal()
        counts = sum(run.num_samples for run in runs), sum(run.num_tokens for run in runs)
        record = UnitRecord(task.unit.name, stamp, *counts, problems.found, doubts.found, runs)
        write_record(temporary, record)
        shutil.rmtree(task.target, ignore_errors=True)
        os.rename(temporary, task.target)
        moved = tuple(replace(run, folder=task.target / run.folder.name) for run in runs)
        return replace(record, runs=moved)

    def _samples(self, unit: Unit) -> Iterator[Sample]:
        samples = self.format.samples(unit)
        return map(_normalized, samples) if self.normalize else samples


@dataclass
class _Told:
    """Tells where in the input a bad or doubtful sample lies."""

    unit: Unit
    problems: Problems
    doubts: Problems
    row: int | None = None
    """Of the sample that is being added."""

    def refuse(self, name: str, problem: Problem) -> None:
        self.problems.add(name, problem, place=self._place())

    def doubt(self, name: str, problem: Problem) -> None:
        self.doubts.add(name, problem, place=self._place())

    def _place(self) -> str:
        return self.unit.place if self.row is None else f"{self.unit.path}, row {self.row}"


def _add(spill: Spill, sample: Sample, told: _Told) -> None:
    match sample:
        case SpeechSample(info, codes_T, transcripts, row):
            spill.add_speech(info, codes_T, transcripts, row)
        case TextSample(info, text, user, row):
            spill.add_text(info, text, user, row)
        case BadSample(name, problem):
            told.refuse(name, problem)


def _normalized(sample: Sample) -> Sample:
    from titan_speech.corpus.text.normalize import normalize

    match sample:
        case SpeechSample(info, _, transcripts):
            texts = {variant: normalize(text, info.language) for variant, text in transcripts.items()}
            return replace(sample, transcripts=texts)
        case TextSample(info, text, user):
            asked = None if user is None else normalize(user, info.language)
            return replace(sample, text=normalize(text, info.language), user=asked)
    return sample


@dataclass(frozen=True)
class CutWork:
    """Cuts shards into the store to be."""

    store: Path
    records: Path

    def do(self, task: ShardJob, advance: Advance) -> None:
        (self.store / task.key.folder).mkdir(exist_ok=True)
        info = write_shard(task, self.store)
        write_shard_record(self.records, task, info)
        advance(info.num_samples, info.num_tokens)
