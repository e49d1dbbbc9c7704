"""What one process of a build does: import a unit, or write a shard.

In: a task. Out: files in the build's folder (build_folder.py), and a record that is put in place only when they are
complete. The functions pickle, so utils/process_pool.py runs them in this process or in several.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from titan_speech.errors import DataError
from titan_speech.importers.base import BadSample, Importer, Sample, SpeechSample, TextSample, Unit, checked_samples
from titan_speech.importers.build_folder import (
    UNIT_PROBLEM,
    UnitRecord,
    stamp_of,
    write_shard_record,
    write_unit_record,
)
from titan_speech.importers.limits import ImportLimits, check_codes_length, check_text_length
from titan_speech.importers.sample_filter import NO_FILTER, SampleFilter
from titan_speech.store.problems import Problem, ProblemGroup, Problems, combine_problems
from titan_speech.store.sample_sorter import SampleSorter, StoreSettings
from titan_speech.store.shard_writer import ShardJob, write_shard
from titan_speech.tokenization.vocabulary import CODES_PER_SEC
from titan_speech.utils.process_pool import Advance


@dataclass(frozen=True)
class UnitTask:
    """A unit, and the folder its runs go to."""

    unit: Unit
    target: Path


@dataclass(frozen=True)
class ImportUnit:
    """Imports a unit to sorted runs; a bad sample is counted and left out, all others are still checked."""

    importer: Importer
    settings: StoreSettings
    normalize: bool
    limits: ImportLimits
    skip_bad: bool = False
    """Whether doubtful samples are left out too."""
    filter: SampleFilter = NO_FILTER

    def __call__(self, task: UnitTask, advance: Advance) -> UnitRecord:
        unit, target = task.unit, task.target
        temporary = target.with_name(f"{target.name}.tmp-{os.getpid()}")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        stamp, found = stamp_of(unit), _UnitProblems(unit)
        spill = SampleSorter(temporary, self.settings, found.refuse, found.doubt, advance, unit.place, str(unit.path))
        failure, problems = "", found.problems.found
        try:
            self._add_samples(spill, unit, found)
        except MemoryError as error:  # beyond every limit; pyarrow's is one too
            failure = f"{unit.place}: memory ran out ({error}); if the input is as it should be, use fewer --workers"
        except DataError as error:
            failure = str(error) if str(unit.path) in str(error) else f"{unit.place}: {error}"
        if failure:  # first, since it may explain the others
            problems = combine_problems([{UNIT_PROBLEM: ProblemGroup(failure, 1, "units")}, problems]).found
        runs = spill.finish()
        counts = sum(run.num_samples for run in runs), sum(run.num_tokens for run in runs)
        record = UnitRecord(unit.name, stamp, *counts, problems, found.doubts.found, found.filtered.found, runs)
        write_unit_record(temporary, record)
        shutil.rmtree(target, ignore_errors=True)
        os.rename(temporary, target)
        return replace(record, runs=tuple(replace(run, folder=target / run.folder.name) for run in runs))

    def _add_samples(self, spill: SampleSorter, unit: Unit, found: _UnitProblems) -> None:
        samples = checked_samples(self.importer, unit)
        codes_per_sec = self.settings.codec.codes_per_sec if self.settings.codec is not None else CODES_PER_SEC
        for sample in samples:
            found.row = sample.row
            if isinstance(sample, SpeechSample) and (problem := _over_limit(sample, self.limits)):
                sample = BadSample(sample.info.sample_id, problem, sample.row)
            if self.normalize:
                sample = _normalize(sample)
            if isinstance(sample, SpeechSample) and (reason := self.filter.reason(sample, codes_per_sec)):
                found.leave_out(sample.info.sample_id, reason)
                continue
            if isinstance(sample, SpeechSample) and sample.doubt is not None:
                if self.skip_bad:
                    found.refuse(sample.info.sample_id, sample.doubt)
                    continue
                found.doubt(sample.info.sample_id, sample.doubt)
            match sample:
                case SpeechSample(info, codes_T, transcripts, row):
                    spill.add_speech(info, codes_T, transcripts, row)
                case TextSample(info, text, user, row):
                    spill.add_text(info, text, user, row)
                case BadSample(name, problem):
                    found.refuse(name, problem)


class _UnitProblems:
    """Collects bad, doubtful and filtered samples of a unit, with their places in the input."""

    def __init__(self, unit: Unit) -> None:
        self._unit = unit
        self.problems, self.doubts, self.filtered = (Problems("", limit=None) for _ in range(3))
        self.row: int | None = None
        """Row of the sample that is being added."""

    def refuse(self, name: str, problem: Problem) -> None:
        self.problems.add(name, problem, place=self._place())

    def doubt(self, name: str, problem: Problem) -> None:
        self.doubts.add(name, problem, place=self._place())

    def leave_out(self, name: str, problem: Problem) -> None:
        self.filtered.add(name, problem, place=self._place())

    def _place(self) -> str:
        return self._unit.place if self.row is None else f"{self._unit.path}, row {self.row}"


def _over_limit(sample: SpeechSample, limits: ImportLimits) -> Problem | None:
    """For every format, before anything is copied or tokenized."""
    texts = (check_text_length(variant, text, limits.max_line_bytes) for variant, text in sample.transcripts.items())
    return check_codes_length(sample.codes_T.size, limits) or next((problem for problem in texts if problem), None)


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
