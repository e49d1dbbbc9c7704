"""From `[[data.source]]` to parts of opened stores.

In: the source tables and the run's tokenizer. Out: for each source and language the documents it reads. Stores of
another tokenizer or of different codecs, absent datasets, languages and transcripts are all named in one error.

What determines data order, as one short hash.

In: the finished plan's settings, streams and quotas. Out: 16 hex characters. Two runs with equal fingerprints read
equal packs at equal slots; a checkpoint whose plan has another one is refused.

Covered: the version of the algorithms, seed, sequence length, `too_long`, the grammar (with vocabulary and tokenizer),
for every stream its task, masks, transcript, stitching, quota and the sha256 of all files of its parts, and the ids of
the samples that are held out.
Left out, since they cannot change pack(g): world size, ranks, workers, prefetching, packs a step and a rank (they
decide who reads a slot, not what lies in it), where the stores lie and what they are called, shares and rules (the
quotas are what came of them), target tokens (they reach the order only through the quotas, when `max_epochs` binds).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from titan_speech.config.schema import SpeechConfig
from titan_speech.config.schema_data import SourceConfig, StorageConfig
from titan_speech.data.documents import KIND_OF_TASK, VIEWS_VERSION, Documents, documents_of, required_variant
from titan_speech.data.held_out import HeldOut
from titan_speech.data.mixture_solver import CYCLE_SLOTS
from titan_speech.data.order import ORDER_VERSION
from titan_speech.data.packing import BLOCK_DOCUMENTS
from titan_speech.errors import DataError
from titan_speech.store.reader import Part, Store, check_same_codec, check_tokenizer, open_store
from titan_speech.tokenization.prompt_template import Grammar, Task
from titan_speech.tokenization.text_tokenizer import TextTokenizer


@dataclass(frozen=True)
class OpenedSource:
    """One source in one language: what its documents come from."""

    table: SourceConfig
    language: str
    documents: tuple[Documents, ...]


@dataclass(frozen=True)
class OpenedSources:
    """All sources of a run by language, in the order of the tables, and the stores they read."""

    sources: list[OpenedSource]
    stores: tuple[Store, ...]
    held_out: tuple[str, ...]
    """What was found of each gold pack in each store."""


def open_sources(
    sources: Sequence[SourceConfig],
    tokenizer: TextTokenizer,
    grammar: Grammar,
    held_out: HeldOut,
    seq_len: int,
    storage: StorageConfig,
) -> OpenedSources:
    stores = {path: open_store(path, storage) for path in dict.fromkeys(source.store for source in sources)}
    for store in stores.values():
        check_tokenizer(store, tokenizer)
    check_same_codec(list(stores.values()))
    lines = held_out.mask(stores.values())
    problems: list[str] = []
    opened: list[OpenedSource] = []
    for source in sources:
        try:
            opened += _open_source(source, stores[source.store], grammar, seq_len)
        except DataError as error:
            problems.append(f"  source {source.name}: {error}")
    if problems:
        raise DataError("sources that cannot be read:\n" + "\n".join(problems))
    return OpenedSources(opened, tuple(stores.values()), lines)


def _open_source(source: SourceConfig, store: Store, grammar: Grammar, seq_len: int) -> list[OpenedSource]:
    parts = _parts(source, store)
    opened = []
    for language in sorted({part.language for part in parts}):
        documents = [documents_of(part, source, grammar, seq_len) for part in parts if part.language == language]
        opened.append(OpenedSource(source, language, tuple(documents)))
    return opened


def _parts(source: SourceConfig, store: Store) -> list[Part]:
    """Parts of the task's kind that the source's filters keep, in the store's order."""
    kind = KIND_OF_TASK[Task(source.task)]
    parts = [part for part in store.parts if part.kind is kind and part.num_samples]
    _refuse_absent("datasets", source.datasets, {part.dataset_source for part in parts}, store)
    parts = [part for part in parts if not source.datasets or part.dataset_source in source.datasets]
    _refuse_absent("languages", source.languages, {part.language for part in parts}, store)
    parts = [part for part in parts if not source.languages or part.language in source.languages]
    if not parts:
        raise DataError(f"store {store.path} has no {kind} samples, which task {source.task} reads")
    return _with_variant(parts, source)


def _with_variant(parts: list[Part], source: SourceConfig) -> list[Part]:
    """Parts that have the text the task needs; datasets asked for by name must have it."""
    variant = required_variant(source)
    if variant is None:
        return parts
    having = [part for part in parts if variant in part.variants]
    if not having or (source.datasets and len(having) < len(parts)):
        lacking = ", ".join(
            f"{part.name} ({', '.join(part.variants) or 'none'})" for part in parts if part not in having
        )
        raise DataError(
            f"task {source.task} needs {variant} text, which these parts lack (they have): {lacking}; "
            "choose another transcript, task or datasets"
        )
    return having


def _refuse_absent(what: str, wanted: Sequence[str], found: set[str], store: Store) -> None:
    absent = [value for value in wanted if value not in found]
    if absent:
        raise DataError(
            f"{what} {', '.join(absent)} not in store {store.path} for this task; "
            f"it has {', '.join(sorted(found)) or 'none'}"
        )


def document_settings(source: OpenedSource, seq_len: int) -> dict[str, str]:
    """What makes documents of a source's samples: a stream is carried into another phase only where it is the same.

    Pairs and stitched segments are chosen to fit the sequence length: with another one they are other documents.
    """
    table = source.table
    settings = {"task": table.task, "transcript": table.transcript}
    if table.stitch_gap_sec is not None:
        settings["stitch_gap_sec"] = str(table.stitch_gap_sec)
    if table.stitch_gap_sec is not None or table.task == Task.CLONE:
        settings |= {"length of pairs or stitches": str(seq_len), "version of views": str(VIEWS_VERSION)}
    return settings


def plan_fingerprint(
    config: SpeechConfig,
    grammar: Grammar,
    sources: Sequence[OpenedSource],
    quotas: Sequence[int],
    held_out: HeldOut,
) -> str:
    content = {
        "version": ORDER_VERSION,
        "views": VIEWS_VERSION,
        "cycle_slots": CYCLE_SLOTS,
        "group_documents": BLOCK_DOCUMENTS,
        "seed": config.data.seed,
        "seq_len": config.training.seq_len,
        "too_long": config.data.too_long,
        "grammar": grammar.fingerprint,
        "streams": [
            {
                "source": source.table.name,
                "language": source.language,
                **document_settings(source, config.training.seq_len),
                "train_on": source.table.train_on,
                "parts": [asdict(documents.part.info) for documents in source.documents],
                "quota": quota,
            }
            for source, quota in zip(sources, quotas, strict=True)
        ],
    }
    if held_out.fingerprint is not None:
        content["held_out"] = held_out.fingerprint
    canonical = json.dumps(content, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]
