"""From `[[data.source]]` to parts of opened stores.

In: the source configurations and the run's tokenizer. Out: for each source and language the documents it reads: which
class of documents its task takes, and what it needs of a store.
Missing datasets, languages and transcripts are all named in one error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from titan_speech.config.sample_conditions import parse_where
from titan_speech.config.schema_data import SourceConfig, StorageConfig
from titan_speech.data.documents import (
    USER,
    ContinuationDocuments,
    Documents,
    InstructionDocuments,
    SpeechDocuments,
    TextDocuments,
)
from titan_speech.data.held_out_samples import NO_SAMPLES, HeldOut, MaskedPart
from titan_speech.data.paired_documents import (
    CloneDocuments,
    ClonePreferenceDocuments,
    PreferenceDocuments,
    StitchedDocuments,
    TTSDocuments,
    has_voices,
)
from titan_speech.errors import ConfigError, DataError
from titan_speech.store.manifest import Kind
from titan_speech.store.reader import Part, Store, check_same_codec, check_tokenizer, open_store
from titan_speech.store.score_columns import sample_columns
from titan_speech.tokenization.prompt_template import PREFERENCE, Grammar, Task, template_task
from titan_speech.tokenization.text_tokenizer import TextTokenizer

SPLITTABLE_TASKS = frozenset({Task.SPEECH, Task.TEXT})
"""A piece of these is worth training on alone; documents of the other tasks stay whole."""

DOCUMENTS_OF_TASK = {
    Task.SPEECH: SpeechDocuments,
    Task.CONTINUATION: ContinuationDocuments,
    Task.TTS: TTSDocuments,
    Task.CLONE: CloneDocuments,
    Task.TEXT: TextDocuments,
    Task.INSTRUCTION: InstructionDocuments,
}
KIND_OF_TASK = {task: Kind.TEXT if task in (Task.TEXT, Task.INSTRUCTION) else Kind.SPEECH for task in Task}


def required_variant(source: SourceConfig) -> str | None:
    """The text variant without which a sample cannot be read as the source's task."""
    needed = {Task.TTS: source.transcript, Task.CLONE: source.transcript, Task.INSTRUCTION: USER}
    return needed.get(template_task(source.task))


def is_splittable(source: SourceConfig) -> bool:
    """Whether the source's documents may be cut where a pack ends."""
    return template_task(source.task) in SPLITTABLE_TASKS and source.stitch_gap_sec is None


def documents_of(part: Part, source: SourceConfig, grammar: Grammar, seq_len: int) -> Documents:
    """The part read as the source's task; clone pairs and stitched documents fit the sequence length."""
    task = template_task(source.task)
    settings = (part, grammar, task, source.train_on, source.transcript, seq_len)
    if source.task == PREFERENCE:
        if has_voices(part):
            return ClonePreferenceDocuments(part, grammar, Task.CLONE, *settings[3:])
        return PreferenceDocuments(*settings)
    if source.stitch_gap_sec is not None:
        return StitchedDocuments(*settings, max_gap_sec=source.stitch_gap_sec)
    return DOCUMENTS_OF_TASK[task](*settings, augment=tuple(sorted(source.augment.items())))


@dataclass(frozen=True)
class OpenedSource:
    """One source in one language: what its documents come from."""

    config: SourceConfig
    language: str
    documents: tuple[Documents, ...]


@dataclass(frozen=True)
class OpenedSources:
    """All sources of a run by language, in the order of the configuration, and the stores they read."""

    sources: list[OpenedSource]
    stores: tuple[Store, ...]
    held_out: tuple[str, ...]
    """How many samples of each held-out set were found in each store, one line each."""


def open_sources(
    sources: Sequence[SourceConfig],
    tokenizer: TextTokenizer,
    grammar: Grammar,
    held_out: HeldOut,
    seq_len: int,
    storage: StorageConfig,
) -> OpenedSources:
    """Open the stores of all sources and hide their held-out samples.

    Raises:
        DataError: a store does not match the run's tokenizer or the other stores' codec, or sources cannot be read.
    """
    stores = {path: open_store(path, storage) for path in dict.fromkeys(source.store for source in sources)}
    for store in stores.values():
        check_tokenizer(store, tokenizer)
    check_same_codec(list(stores.values()))
    held_out_lines = held_out.mask(stores.values())
    problems: list[str] = []
    opened: list[OpenedSource] = []
    for source in sources:
        try:
            parts = parts_of_source(source, stores[source.store])
        except (DataError, ConfigError) as error:
            problems.append(f"  source {source.name}: {error}")
            continue
        for language in sorted({part.language for part in parts}):
            documents = [documents_of(part, source, grammar, seq_len) for part in parts if part.language == language]
            opened.append(OpenedSource(source, language, tuple(documents)))
    if problems:
        raise DataError("sources that cannot be read:\n" + "\n".join(problems))
    return OpenedSources(opened, tuple(stores.values()), held_out_lines)


def parts_of_source(source: SourceConfig, store: Store) -> list[Part]:
    """The parts that a source reads, in the store's order; samples that its `where` excludes are masked.

    Raises:
        DataError: the store lacks what the source names: a dataset, a language or a transcript variant; or `where` is
            given for text.
        ConfigError: `where` cannot be read.
    """
    parts = _select_parts(source, store)
    return [_satisfying(part, source.where) for part in parts] if source.where else parts


def _select_parts(source: SourceConfig, store: Store) -> list[Part]:
    """Parts of the task's kind that the source's filters keep, in the store's order."""
    kind = KIND_OF_TASK[template_task(source.task)]
    parts = [part for part in store.parts if part.kind is kind and part.num_samples]
    _refuse_missing("datasets", source.datasets, {part.dataset_source for part in parts}, store)
    parts = [part for part in parts if not source.datasets or part.dataset_source in source.datasets]
    _refuse_missing("languages", source.languages, {part.language for part in parts}, store)
    parts = [part for part in parts if not source.languages or part.language in source.languages]
    if not parts:
        raise DataError(f"store {store.path} has no {kind} samples, which task {source.task} reads")
    variant = required_variant(source)
    if variant is None:
        return parts
    parts = _parts_with_variant(parts, source, variant)
    _refuse_missing("augment", list(source.augment), {name for part in parts for name in part.variants}, store)
    return parts


def _satisfying(part: Part, where: str) -> Part:
    """The part without the samples that a condition excludes."""
    if part.kind is not Kind.SPEECH:
        raise DataError(f"where is of speech, but part {part.name} of {part.place} holds text; leave it out")
    condition = parse_where(where)
    columns = sample_columns(part, condition.columns)
    excluded = np.flatnonzero(~condition.holds(columns))
    if not len(excluded):
        return part
    return part.without(excluded) if isinstance(part, MaskedPart) else MaskedPart(part, NO_SAMPLES, excluded)


def _parts_with_variant(parts: list[Part], source: SourceConfig, variant: str) -> list[Part]:
    """Parts that have the text variant the task needs; datasets named in the configuration must all have it."""
    found = [part for part in parts if variant in part.variants]
    if not found or (source.datasets and len(found) < len(parts)):
        lacking = ", ".join(
            f"{part.name} ({', '.join(part.variants) or 'none'})" for part in parts if part not in found
        )
        raise DataError(
            f"task {source.task} needs {variant} text, which these parts lack (they have): {lacking}; "
            "choose another transcript, task or datasets"
        )
    return found


def _refuse_missing(what: str, wanted: Sequence[str], found: set[str], store: Store) -> None:
    missing = [value for value in wanted if value not in found]
    if missing:
        raise DataError(
            f"{what} {', '.join(missing)} not in store {store.path} for this task; "
            f"it has {', '.join(sorted(found)) or 'none'}"
        )
