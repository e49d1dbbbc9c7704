"""Which documents a source's task reads, and what it needs of a store.

In: a `[[data.source]]` and a part of its store. Out: its `Documents`.
"""

from __future__ import annotations

from titan_speech.config.schema_data import SourceConfig
from titan_speech.data.documents import (
    USER,
    ContinuationDocuments,
    Documents,
    InstructionDocuments,
    SpeechDocuments,
    TextDocuments,
)
from titan_speech.data.paired_documents import CloneDocuments, StitchedDocuments, TTSDocuments
from titan_speech.data.preference_documents import ClonePreferenceDocuments, PreferenceDocuments, has_voices
from titan_speech.store.manifest import Kind
from titan_speech.store.reader import Part
from titan_speech.tokenization.prompt_template import PREFERENCE, Grammar, Task, template_task

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
