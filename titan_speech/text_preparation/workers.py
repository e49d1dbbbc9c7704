"""One unit of an input cleaned, and after de-duplication written out; both run in worker processes.

In: a unit. Out, in the work folder: WORK/<unit>.parquet (documents that stay so far), WORK/<unit>.npz (what
de-duplication needs of each) and, last, WORK/<unit>.json (the tally, and what the unit was): its presence says that the
unit is done. A unit whose file has changed since is done again.

Shapes: N documents of the unit that stay, H permutations.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from numpy.typing import NDArray

from titan_speech.importers.base import Unit
from titan_speech.importers.text_documents import UNKNOWN_LICENCE, TextDocument
from titan_speech.text_preparation.clean import Cleaned, Cleaner, Dropped
from titan_speech.text_preparation.duplicates import NUM_PERMUTATIONS, band_keys, sign
from titan_speech.text_preparation.job import Job, Source
from titan_speech.text_preparation.report import Tally
from titan_speech.tokenization.text_tokenizer import TextTokenizer

ROWS_PER_WRITE = 2048
STATE_VERSION = 2
SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("sample_id", "text", "user", "language", "dataset_source", "licence")]
    + [("num_tokens", pa.int32())]
)


class Verdict(IntEnum):
    """On a document that every rule of its own let pass."""

    KEPT = 0
    EXACT_COPY = 1
    NEAR_COPY = 2
    INSTRUCTION_SHARE = 3


RULE_OF = {
    Verdict.EXACT_COPY: "exact_duplicate",
    Verdict.NEAR_COPY: "near_duplicate",
    Verdict.INSTRUCTION_SHARE: "instruction_share",
}


@dataclass(frozen=True)
class UnitWork:
    """A unit of a source, and where its intermediate files lie."""

    source: Source
    unit: Unit
    folder: Path

    @property
    def key(self) -> str:
        return xxhash.xxh3_64_hexdigest(f"{self.source.content()}/{self.unit.name}".encode())

    def file(self, suffix: str) -> Path:
        return self.folder / f"{self.key}.{suffix}"

    def temporary(self, suffix: str) -> Path:
        """Not the name of a finished file, nor that of another process."""
        return self.folder / f"{self.key}.tmp-{os.getpid()}.{suffix}"

    def state(self) -> list[object]:
        """Changes when the unit's file does, or what is kept of it."""
        stat = self.unit.path.stat()
        return [STATE_VERSION, str(self.unit.path), self.unit.start, self.unit.stop, stat.st_size, stat.st_mtime_ns]

    def is_done(self) -> bool:
        path = self.file("json")
        return path.is_file() and json.loads(path.read_text())["state"] == self.state()

    def tally(self) -> Tally:
        return Tally.from_content(json.loads(self.file("json").read_text())["tally"])


class _Facts:
    """What de-duplication needs of each document."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.positions: list[int] = []
        self.exact: list[tuple[int, int]] = []
        self.minhash: list[NDArray[np.uint32]] = []
        self.num_tokens: list[int] = []
        self.is_instruction: list[bool] = []
        self.languages: list[str] = []

    def add(self, cleaned: Cleaned) -> None:
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


def clean_unit(work: UnitWork, job: Job, advance: Callable[[int, int], None]) -> None:
    """Cleans one unit; files get their names when they are whole."""
    cleaner = Cleaner(job.rules, _tokenizer(job.tokenizer))
    tally, facts, rows = Tally(), _Facts(), []
    state = work.state()
    documents, arrays = work.temporary("parquet"), work.temporary("npz")
    with pq.ParquetWriter(documents, SCHEMA, compression="zstd") as writer:
        for document in _documents(work):
            tally.met(document)
            outcome = cleaner.clean(document)
            tally.changed(document, outcome.changes)
            advance(1, 0 if isinstance(outcome, Dropped) else outcome.num_tokens)
            if isinstance(outcome, Dropped):
                tally.dropped(document, outcome.rule, outcome.found)
                continue
            facts.add(outcome)
            rows.append(_row(outcome))
            if len(rows) == ROWS_PER_WRITE:
                writer.write_table(pa.Table.from_pylist(rows, SCHEMA))
                rows.clear()
        writer.write_table(pa.Table.from_pylist(rows, SCHEMA))
    facts.save(arrays)
    os.replace(documents, work.file("parquet"))
    os.replace(arrays, work.file("npz"))
    _write_last(work, {"state": state, "tally": tally.to_content()})


@lru_cache(1)
def _tokenizer(path: Path) -> TextTokenizer:
    """Read once a process: Llama's takes 3 s."""
    return TextTokenizer.load(path)


def _documents(work: UnitWork) -> Iterator[TextDocument]:
    for document in work.source.open().documents(work.unit):
        is_silent = work.source.licence and document.licence == UNKNOWN_LICENCE
        yield replace(document, licence=work.source.licence) if is_silent else document


def _row(cleaned: Cleaned) -> dict[str, object]:
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


def write_kept(
    work: UnitWork,
    verdict_N: NDArray[np.uint8],
    said: Mapping[int, str],
    output: Path,
    advance: Callable[[int, int], None],
) -> Tally:
    """Writes the documents that stay, if any, and counts these and the others; `said` tells more of rows."""
    tally, first = Tally(), 0
    writer = None
    for batch in pq.ParquetFile(work.file("parquet")).iter_batches(ROWS_PER_WRITE):
        verdicts = verdict_N[first : first + batch.num_rows]
        for number, (row, verdict) in enumerate(zip(batch.to_pylist(), verdicts.tolist(), strict=True), first):
            if verdict == Verdict.KEPT:
                tally.kept(document_of(row), row["num_tokens"])
                advance(1, row["num_tokens"])
            else:
                tally.dropped(document_of(row), RULE_OF[Verdict(verdict)], said.get(number, ""))
        first += batch.num_rows
        kept = batch.filter(pa.array(verdicts == Verdict.KEPT))
        if kept.num_rows:
            writer = writer or pq.ParquetWriter(output, SCHEMA, compression="zstd")
            writer.write_batch(kept)
    if writer is not None:
        writer.close()
    return tally


def _write_last(work: UnitWork, content: dict[str, object]) -> None:
    temporary = work.temporary("json")
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(content, file, ensure_ascii=False)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, work.file("json"))
