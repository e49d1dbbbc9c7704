"""From `[[data.source]]` to parts of opened stores.

In: the source tables and the run's tokenizer. Out: for each source and language the documents it reads. Stores of
another tokenizer or of different codecs, absent datasets, languages and transcripts are all named in one error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from titan_speech.config.tables import SourceTable, StorageTable
from titan_speech.data.documents import KIND_OF_TASK, Documents, documents_of, required_variant
from titan_speech.data.held_out import HeldOut
from titan_speech.errors import DataError
from titan_speech.prompts import Grammar, Task
from titan_speech.store.part import Part
from titan_speech.store.store import Store, check_same_codec, check_tokenizer, open_store
from titan_speech.text_tokenizer import TextTokenizer


@dataclass(frozen=True)
class OpenedSource:
    """One source in one language: what its documents come from."""

    table: SourceTable
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
    sources: Sequence[SourceTable],
    tokenizer: TextTokenizer,
    grammar: Grammar,
    held_out: HeldOut,
    seq_len: int,
    storage: StorageTable,
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


def _open_source(source: SourceTable, store: Store, grammar: Grammar, seq_len: int) -> list[OpenedSource]:
    parts = _parts(source, store)
    opened = []
    for language in sorted({part.language for part in parts}):
        documents = [documents_of(part, source, grammar, seq_len) for part in parts if part.language == language]
        opened.append(OpenedSource(source, language, tuple(documents)))
    return opened


def _parts(source: SourceTable, store: Store) -> list[Part]:
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


def _with_variant(parts: list[Part], source: SourceTable) -> list[Part]:
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
