"""Run a text preparation: from the documents of all sources to cleaned shards and a report of rejected documents.

In: a `Job`. Out, published in one rename at the end:

    OUTPUT/documents/00000.parquet   one per unit: sample_id, text, user, language, dataset_source, licence, num_tokens
    OUTPUT/prepared.json             versions, rules, sources
    OUTPUT/report.json, report.md    documents read, changed, rejected and kept, with examples and licences

1. every unit is cleaned by itself (workers.py), in parallel; a resumed job skips finished units
2. duplicates and the share of instructions are decided over all units (decisions.py)
3. every unit is written without the rejected documents, in parallel

Until the end all files are in OUTPUT.work. The same inputs give the same bytes for any number of processes.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

from titan_speech.errors import DataError
from titan_speech.importers.text_prepared import PREPARED_NAME, PREPARED_VERSION
from titan_speech.text_preparation.decisions import decide
from titan_speech.text_preparation.job import Job, WorkFolder
from titan_speech.text_preparation.report import DocumentCounts, write_reports
from titan_speech.text_preparation.workers import UnitWork, clean_unit, write_kept
from titan_speech.utils.files import write_atomically
from titan_speech.utils.process_pool import Advance, run_tasks
from titan_speech.utils.progress import print_to_stderr
from titan_speech.utils.task_progress import TaskProgress
from titan_speech.utils.text_table import counted


def prepare(job: Job, output: Path, workers: int = 1, log: Callable[[str], None] = print_to_stderr) -> DocumentCounts:
    """Run the job, or resume it.

    Args:
        job: sources, rules and tokenizer.
        output: folder that is created when all is done; must not exist.
        workers: number of processes.
        log: receives progress messages.

    Raises:
        DataError: bad input, a folder of another job, or no document is left.
    """
    content = job.content()
    with WorkFolder(output, content) as folder:
        units = [(source, unit) for source in job.sources for unit in source.open().units()]
        works = [UnitWork(source, unit, folder.path) for source, unit in units]
        _refuse_repeated_units(works)
        _clean_all(works, job, workers, log)
        counts = DocumentCounts()
        for work in works:
            counts.merge(work.counts())
        result = folder.path / "out"
        counts.merge(_write_all(works, job, result, workers, log))
        _refuse_empty(counts, folder.path)
        text = json.dumps({"format_version": PREPARED_VERSION, **content}, indent=1, ensure_ascii=False)
        write_atomically(result / PREPARED_NAME, text)
        write_reports(counts, content, result)
        folder.publish(result)
    return counts


def _refuse_repeated_units(works: list[UnitWork]) -> None:
    seen: set[str] = set()
    for work in works:
        if work.key in seen:
            raise DataError(f"{work.unit.path} is named twice in the sources; name it once")
        seen.add(work.key)


def _clean(job: Job, work: UnitWork, advance: Advance) -> DataError | None:
    """Clean a unit; bad input ends its unit, not the others."""
    try:
        clean_unit(work, job, advance)
    except DataError as error:
        return error
    return None


def _clean_all(works: list[UnitWork], job: Job, workers: int, log: Callable[[str], None]) -> None:
    todo = [work for work in works if not work.is_done()]
    if len(todo) < len(works):
        log(f"resuming: {len(works) - len(todo)} of {len(works)} units are done")
    progress = TaskProgress("cleaned", "unit", [work.unit.num_bytes for work in todo])
    errors = [error for error in run_tasks(partial(_clean, job), todo, workers, progress.report) if error is not None]
    progress.finish()
    if errors:
        rest = f"\n(and {counted(len(errors) - 1, 'more unit')} that cannot be read)" if len(errors) > 1 else ""
        raise DataError(f"{errors[0]}{rest}")


def _write_all(
    works: list[UnitWork], job: Job, result: Path, workers: int, log: Callable[[str], None]
) -> DocumentCounts:
    log("finding duplicates")
    documents = result / "documents"
    units = decide(works, job.rules, result.parent, documents)
    shutil.rmtree(result, ignore_errors=True)
    documents.mkdir(parents=True)
    num_documents = [len(unit.decision_N) for unit in units]
    progress = TaskProgress("written", "unit", num_documents, num_documents)
    total = DocumentCounts()
    for counts in run_tasks(write_kept, units, workers, progress.report):
        total.merge(counts)
    progress.finish()
    return total


def _refuse_empty(counts: DocumentCounts, folder: Path) -> None:
    if counts.total("kept"):
        return
    shutil.rmtree(folder)
    if not counts.total("met"):
        raise DataError("the inputs hold no documents")
    reasons = ", ".join(f"{rule} {count}" for rule, count in counts.by_name("dropped").items())
    rule = next(iter(counts.by_name("dropped")))
    example = counts.examples[rule][0]
    raise DataError(
        f"all {counts.total('met')} documents were rejected; by rule: {reasons}. The first by {rule}: "
        f"{example.id!r}, {example.found}: {example.excerpt[:80]!r}. Set other limits with --rules"
    )
