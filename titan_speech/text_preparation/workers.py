"""Clean one unit of an input, and write it after deduplication; both run in worker processes.

In: a unit. Out, in the work folder: WORK/<unit>.parquet (documents that passed every rule), WORK/<unit>.npz (ids,
signatures and lengths for deduplication) and, last, WORK/<unit>.json (counts, and size and time of the unit's file),
which marks the unit as done. A unit whose file has changed since is cleaned again.

Shapes: N documents of the unit that passed, H permutations.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from numpy.typing import NDArray

from titan_speech.importers.base import Unit, refuse_damaged
from titan_speech.importers.text_documents import UNKNOWN_LICENCE, TextDocument
from titan_speech.text_preparation.clean import CleanedDocument, DocumentCleaner, RejectedDocument
from titan_speech.text_preparation.duplicates import NUM_PERMUTATIONS, band_keys, sign
from titan_speech.text_preparation.job import Job, Source
from titan_speech.text_preparation.report import DocumentCounts
from titan_speech.tokenization.text_tokenizer import TextTokenizer
from titan_speech.utils.files import write_atomically
from titan_speech.utils.process_pool import Advance

_load_tokenizer = lru_cache(1)(TextTokenizer.load)  # once per process: Llama's takes 3 s
ROWS_PER_WRITE = 2048
STATE_VERSION = 2
SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("sample_id", "text", "user", "language", "dataset_source", "licence")]
    + [("num_tokens", pa.int32())]
)


class Decision(IntEnum):
    """On a document that passed every rule of its own; in reports the name is that of a rule."""

    KEPT = 0
    EXACT_DUPLICATE = 1
    NEAR_DUPLICATE = 2
    INSTRUCTION_SHARE = 3


@dataclass(frozen=True)
class UnitWork:
    """A unit of a source, and the paths of its intermediate files."""

    source: Source
    unit: Unit
    folder: Path

    @property
    def key(self) -> str:
        return xxhash.xxh3_64_hexdigest(f"{self.source.content()}/{self.unit.name}".encode())

    def file(self, suffix: str) -> Path:
        return self.folder / f"{self.key}.{suffix}"

    def temporary(self, suffix: str) -> Path:
        """A name that is neither that of a finished file nor of another process."""
        return self.folder / f"{self.key}.tmp-{os.getpid()}.{suffix}"

    def state(self) -> list[object]:
        """Changes with the unit's file, or with the format of the intermediate files."""
        stat = self.unit.path.stat()
        return [STATE_VERSION, str(self.unit.path), self.unit.start, self.unit.stop, stat.st_size, stat.st_mtime_ns]

    def is_done(self) -> bool:
        path = self.file("json")
        return path.is_file() and json.loads(path.read_text())["state"] == self.state()

    def counts(self) -> DocumentCounts:
        """Counts of a finished unit."""
        return DocumentCounts.from_content(json.loads(self.file("json").read_text())["tally"])


class _Arrays:
    """Ids, signatures and lengths of a unit's documents, for deduplication."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.positions: list[int] = []
        self.exact: list[tuple[int, int]] = []
        self.minhash: list[NDArray[np.uint32]] = []
        self.num_tokens: list[int] = []
        self.is_instruction: list[bool] = []
        self.languages: list[str] = []

    def add(self, cleaned: CleanedDocument) -> None:
        signature = sign(cleaned.document.all_text)
        self.ids.append(xxhash.xxh3_64_intdigest(cleaned.document.id.encode()))
        self.positions.append(cleaned.document.position)
        self.exact.append(signature.exact)
        self.minhash.append(signature.minhash_H)
        self.num_tokens.append(cleaned.num_tokens)
        self.is_instruction.append(cleaned.document.user is not None)
        self.languages.append(cleaned.document.language)

    def save(self, path: Path) -> None:
        minhash_NH = np.array(self.minhash, np.uint32).reshape(-1, NUM_PERMUTATIONS)
        names, language_N = np.unique(np.array(self.languages, np.str_), return_inverse=True)
        np.savez(
            path,
            ids=np.array(self.ids, np.uint64),
            position=np.array(self.positions, np.int64),
            exact=np.array(self.exact, np.uint64).reshape(-1, 2),
            minhash=minhash_NH,
            keys=band_keys(minhash_NH),
            num_tokens=np.array(self.num_tokens, np.int32),
            is_instruction=np.array(self.is_instruction, bool),
            language=language_N.astype(np.uint16),
            names=names,
        )


def clean_unit(work: UnitWork, job: Job, advance: Advance) -> None:
    """Clean one unit; files are renamed to their final names when complete, WORK/<unit>.json last.

    Args:
        work: the unit.
        job: rules and tokenizer.
        advance: called with (documents, tokens) as they are done.
    """
    cleaner = DocumentCleaner(job.rules, _load_tokenizer(job.tokenizer))
    counts, arrays, rows = DocumentCounts(), _Arrays(), []
    state = work.state()
    documents_file, arrays_file = work.temporary("parquet"), work.temporary("npz")
    with pq.ParquetWriter(documents_file, SCHEMA, compression="zstd") as writer:
        for document in _documents(work):
            counts.add_read(document)
            outcome = cleaner.clean(document)
            counts.add_changes(document, outcome.changes)
            advance(1, 0 if isinstance(outcome, RejectedDocument) else outcome.num_tokens)
            if isinstance(outcome, RejectedDocument):
                counts.add_rejected(document, outcome.rule, outcome.found)
                continue
            arrays.add(outcome)
            rows.append(_row(outcome))
            if len(rows) == ROWS_PER_WRITE:
                writer.write_table(pa.Table.from_pylist(rows, SCHEMA))
                rows.clear()
        writer.write_table(pa.Table.from_pylist(rows, SCHEMA))
    arrays.save(arrays_file)
    os.replace(documents_file, work.file("parquet"))
    os.replace(arrays_file, work.file("npz"))
    write_atomically(work.file("json"), json.dumps({"state": state, "tally": counts.to_content()}))


def _documents(work: UnitWork) -> Iterator[TextDocument]:
    with refuse_damaged(work.unit.place):
        for document in work.source.open().documents(work.unit):
            needs_licence = work.source.licence and document.licence == UNKNOWN_LICENCE
            yield replace(document, licence=work.source.licence) if needs_licence else document


def _row(cleaned: CleanedDocument) -> dict[str, object]:
    document = cleaned.document
    return {
        "sample_id": document.id,
        "text": document.text,
        "user": document.user,
        "language": document.language,
        "dataset_source": document.source,
        "licence": document.licence,
        "num_tokens": cleaned.num_tokens,
    }


def document_of(row: dict[str, str]) -> TextDocument:
    return TextDocument(
        id=row["sample_id"],
        text=row["text"],
        user=row["user"],
        language=row["language"],
        source=row["dataset_source"],
        licence=row["licence"],
    )


@dataclass(frozen=True)
class UnitToWrite:
    """A cleaned unit, and what was decided on its documents."""

    work: UnitWork
    decision_N: NDArray[np.uint8]
    """A `Decision` per document."""
    details: Mapping[int, str]
    """By row: what a duplicate duplicates, for those the report shows."""
    output: Path
    """Parquet file of the kept documents."""


def write_kept(unit: UnitToWrite, advance: Advance) -> DocumentCounts:
    """Write the kept documents of a unit, if any.

    Args:
        unit: what is written.
        advance: called with (documents, tokens) as they are written.

    Returns:
        Counts of kept and rejected documents.
    """
    counts, first = DocumentCounts(), 0
    writer = None
    for batch in pq.ParquetFile(unit.work.file("parquet")).iter_batches(ROWS_PER_WRITE):
        decisions = unit.decision_N[first : first + batch.num_rows]
        for number, (row, decision) in enumerate(zip(batch.to_pylist(), decisions.tolist(), strict=True), first):
            if decision == Decision.KEPT:
                counts.add_kept(document_of(row), row["num_tokens"])
                advance(1, row["num_tokens"])
            else:
                rule = Decision(decision).name.lower()
                counts.add_rejected(document_of(row), rule, unit.details.get(number, ""))
        first += batch.num_rows
        kept = batch.filter(pa.array(decisions == Decision.KEPT))
        if kept.num_rows:
            writer = writer or pq.ParquetWriter(unit.output, SCHEMA, compression="zstd")
            writer.write_batch(kept)
    if writer is not None:
        writer.close()
    return counts
