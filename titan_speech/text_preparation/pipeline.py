"""`titan-speech text prepare`: from the documents of sources to cleaned shards and a report of what went.

In: a `Job`. Out, all at once at the end:

    OUTPUT/documents/00000.parquet   one a unit: sample_id, text, user, language, dataset_source, licence, num_tokens
    OUTPUT/prepared.json             versions, rules, sources
    OUTPUT/report.json, report.md    what was met, changed, dropped and kept, with examples and licences

1. every unit is cleaned by itself (unit_work.py), in parallel; finished ones are skipped when it is started again
2. copies and the share of instructions are decided over all of them (verdicts.py)
3. every unit is written without what was dropped, in parallel

Until the end all lies in OUTPUT.work. The same inputs give the same bytes whatever the number of processes.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from titan_speech.errors import DataError
from titan_speech.importers.build_workers import BuildProgress
from titan_speech.text_preparation.job import Job, WorkFolder
from titan_speech.text_preparation.report import Tally, write_reports
from titan_speech.text_preparation.verdicts import Judged, judge
from titan_speech.text_preparation.workers import UnitWork, clean_unit, write_kept
from titan_speech.utils.process_pool import Advance, run_tasks
from titan_speech.utils.progress import print_to_stderr

PREPARED_VERSION = 1
PREPARED_NAME = "prepared.json"


def prepare(job: Job, output: Path, workers: int = 1, say: Callable[[str], None] = print_to_stderr) -> Tally:
    """Runs the job; OUTPUT appears when all is done."""
    content = job.content()
    with WorkFolder(output, content) as folder:
        units = [(source, unit) for source in job.sources for unit in source.open().units()]
        works = [UnitWork(source, unit, folder.path) for source, unit in units]
        _refuse_equal_units(works)
        _clean_all(works, job, workers, say)
        tally = Tally()
        for work in works:
            tally.add(work.tally())
        whole = folder.path / "out"
        tally.add(_write_all(works, job, whole, workers, say))
        _refuse_empty(tally, folder.path)
        text = json.dumps({"format_version": PREPARED_VERSION, **content}, indent=1, ensure_ascii=False)
        (whole / PREPARED_NAME).write_text(text, encoding="utf-8")
        write_reports(tally, content, whole)
        folder.publish(whole)
    return tally


def _refuse_equal_units(works: list[UnitWork]) -> None:
    seen: set[str] = set()
    for work in works:
        if work.key in seen:
            raise DataError(f"{work.unit.path} is named twice in the sources; name it once")
        seen.add(work.key)


@dataclass(frozen=True)
class CleanWork:
    """Cleans units; bad input ends its unit, not the others."""

    job: Job

    def __call__(self, task: UnitWork, advance: Advance) -> DataError | None:
        try:
            clean_unit(task, self.job, advance)
        except DataError as error:
            return error
        return None


@dataclass(frozen=True)
class KeptTask:
    """A unit, what was decided about its documents, and where those that stay go."""

    work: UnitWork
    judged: Judged
    output: Path


class WriteWork:
    """Writes what is left of units."""

    def __call__(self, task: KeptTask, advance: Advance) -> Tally:
        return write_kept(task.work, task.judged.verdict_N, task.judged.said, task.output, advance)


def _clean_all(works: list[UnitWork], job: Job, workers: int, say: Callable[[str], None]) -> None:
    todo = [work for work in works if not work.is_done()]
    if len(todo) < len(works):
        say(f"continuing: {len(works) - len(todo)} of {len(works)} units were done before")
    progress = BuildProgress("cleaned", "units", [work.unit.num_bytes for work in todo])
    errors = [error for error in run_tasks(CleanWork(job), todo, workers, progress.report) if error is not None]
    progress.finish()
    if errors:
        rest = f"\n(and {len(errors) - 1} more units that cannot be read)" if len(errors) > 1 else ""
        raise DataError(f"{errors[0]}{rest}")


def _write_all(works: list[UnitWork], job: Job, whole: Path, workers: int, say: Callable[[str], None]) -> Tally:
    say("looking for copies")
    judged = judge(works, job.rules, whole.parent)
    documents = whole / "documents"
    shutil.rmtree(whole, ignore_errors=True)
    documents.mkdir(parents=True)
    pairs = enumerate(zip(works, judged, strict=True))
    tasks = [KeptTask(work, one, documents / f"{number:05d}.parquet") for number, (work, one) in pairs]
    progress = BuildProgress("written", "units", [len(one.verdict_N) for one in judged])
    total = Tally()
    for tally in run_tasks(WriteWork(), tasks, workers, progress.report):
        total.add(tally)
    progress.finish()
    return total


def _refuse_empty(tally: Tally, folder: Path) -> None:
    if tally.total("kept"):
        return
    shutil.rmtree(folder)
    if not tally.total("met"):
        raise DataError("the inputs hold no documents")
    reasons = ", ".join(f"{rule} {count}" for rule, count in tally.by_name("dropped").items())
    rule = next(iter(tally.by_name("dropped")))
    example = tally.examples[rule][0]
    raise DataError(
        f"nothing is left of {tally.total('met')} documents; dropped by rule: {reasons}. The first by {rule}: "
        f"{example.id!r}, {example.found}: {example.excerpt[:80]!r}. Set other limits with --rules"
    )
