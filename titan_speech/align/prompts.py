"""The prompts of a store: transcripts that a model answers, with the length of the recording for comparison.

In: a token store of paired speech, filters and held-out sets. Out: `StorePrompt`s in a fixed order, languages in turn,
so that the first N of them are of all languages.

Shapes: F codes (frames) of a recording.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest

import numpy as np
from numpy.typing import NDArray

from titan_speech.config.schema_data import StorageConfig
from titan_speech.data.held_out_samples import HeldOut
from titan_speech.data.paired_documents import CloneDocuments
from titan_speech.errors import DataError
from titan_speech.store.manifest import Kind, Manifest
from titan_speech.store.reader import Part, check_tokenizer, open_store
from titan_speech.tokenization.prompt_template import Grammar, Parts, Task
from titan_speech.tokenization.text_tokenizer import TextTokenizer

DESCRIPTION = "description"


@dataclass(frozen=True, eq=False)
class Voice:
    """Another recording of the prompt's speaker, as a task clone has it."""

    sample_id: str
    text: str
    text_ids: NDArray[np.uint32]
    codes_F: NDArray[np.uint16]


@dataclass(frozen=True, eq=False)
class StorePrompt:
    """What is answered."""

    sample_id: str
    dataset_source: str
    language: str
    text: str
    """The transcript."""
    description: str
    """The voice description; may be empty."""
    text_ids: NDArray[np.uint32]
    description_ids: NDArray[np.uint32]
    recorded_codes_F: NDArray[np.uint16]
    """Codes of the recording."""
    voice: Voice | None = None
    """The voice to answer in; None: any."""

    @property
    def task(self) -> Task:
        """Whose prompt template it has."""
        return Task.TTS if self.voice is None else Task.CLONE

    @property
    def parts(self) -> Parts:
        """What its prefix is made of."""
        if self.voice is not None:
            return Parts(ref_text_ids=self.voice.text_ids, ref_codes=self.voice.codes_F, text_ids=self.text_ids)
        return Parts(
            text_ids=self.text_ids, description_ids=self.description_ids if len(self.description_ids) else None
        )

    def num_prefix_tokens(self, grammar: Grammar) -> int:
        """Tokens before the first code."""
        return len(grammar.prefix(self.task, self.parts))


@dataclass(frozen=True)
class PromptFilter:
    """Which samples of a store are prompts."""

    transcript: str = "native"
    languages: tuple[str, ...] = ()
    """Empty: all."""
    held_out: tuple[str, ...] = ()
    """Held-out sets, whose samples are no prompts."""
    limit: int | None = None
    """At most so many prompts."""
    max_clone_tokens: int | None = None
    """Prompts are to be cloned, with recordings that leave a document of so many tokens; None: transcripts alone."""


@dataclass(frozen=True)
class StorePrompts:
    """The prompts of a store, and what a store of answers to them inherits."""

    prompts: list[StorePrompt]
    manifest: Manifest


def read_prompts(
    store_path: str, wanted: PromptFilter, tokenizer: TextTokenizer, storage: StorageConfig | None = None
) -> StorePrompts:
    """The prompts of a store.

    Args:
        store_path: a folder, or s3://bucket/prefix.
        wanted: which samples.
        tokenizer: of the model that answers.
        storage: how object storage is reached.

    Raises:
        DataError: the store was made with another tokenizer, or has no such samples.
    """
    store = open_store(store_path, storage)
    check_tokenizer(store, tokenizer)
    if wanted.held_out:
        HeldOut.open(wanted.held_out, storage).mask([store])
    languages = Counter(part.language for part in store.parts if part.kind is Kind.SPEECH)
    if missing := [language for language in wanted.languages if language not in languages]:
        raise DataError(
            f"store {store_path} has no speech of {', '.join(missing)}; it has {', '.join(sorted(languages)) or 'none'}"
        )
    voices: dict[str, NDArray[np.int32]] = {}
    by_language: dict[str, list[tuple[Part, int]]] = {}
    for part in store.parts:
        if part.kind is not Kind.SPEECH or wanted.transcript not in part.variants:
            continue
        if wanted.languages and part.language not in wanted.languages:
            continue
        usable_N = part.text_len_N(wanted.transcript) > 0
        if wanted.max_clone_tokens is not None:
            voices[part.name] = _voices(part, wanted, tokenizer)
            usable_N &= voices[part.name] >= 0
        numbers = np.flatnonzero(usable_N).tolist()
        by_language.setdefault(part.language, []).extend((part, i) for i in numbers)
    in_turn = zip_longest(*(by_language[language] for language in sorted(by_language)))
    chosen = [one for row in in_turn for one in row if one is not None][: wanted.limit]
    if not chosen:
        other = " and another one of its speaker" if wanted.max_clone_tokens is not None else ""
        raise DataError(
            f"store {store_path} has no sample with a {wanted.transcript} transcript{other} that could be a prompt; "
            "choose another store, transcript or language"
        )
    prompts = [_prompt(part, i, wanted.transcript, tokenizer) for part, i in chosen]
    if voices:
        spoken = [_voice(part, int(voices[part.name][i]), wanted.transcript, tokenizer) for part, i in chosen]
        prompts = [replace(prompt, voice=voice) for prompt, voice in zip(prompts, spoken, strict=True)]
    return StorePrompts(prompts, store.manifest)


def _voice(part: Part, i: int, transcript: str, tokenizer: TextTokenizer) -> Voice:
    row = part.row(i)
    text = getattr(row, f"transcript_{transcript}") or ""
    voice = Voice(row.sample_id, text, part.text(i, transcript), part.codes(i).copy())
    _check_ids(voice.text, voice.text_ids, row.sample_id, tokenizer)
    return voice


def _voices(part: Part, wanted: PromptFilter, tokenizer: TextTokenizer) -> NDArray[np.int32]:
    """The recording before each sample in the clone pair that training would make; -1 without such a pair."""
    assert wanted.max_clone_tokens is not None
    grammar = Grammar(tokenizer.vocabulary())
    documents = CloneDocuments(part, grammar, Task.CLONE, "target", wanted.transcript, wanted.max_clone_tokens)
    return documents.reference_N


def _prompt(part: Part, i: int, transcript: str, tokenizer: TextTokenizer) -> StorePrompt:
    row = part.row(i)
    has_description = DESCRIPTION in part.variants
    prompt = StorePrompt(
        sample_id=row.sample_id,
        dataset_source=row.dataset_source,
        language=row.language,
        text=getattr(row, f"transcript_{transcript}") or "",
        description=(row.transcript_description or "") if has_description else "",
        text_ids=part.text(i, transcript),
        description_ids=part.text(i, DESCRIPTION) if has_description else np.empty(0, np.uint32),
        recorded_codes_F=part.codes(i).copy(),
    )
    _check_ids(prompt.text, prompt.text_ids, row.sample_id, tokenizer)
    _check_ids(prompt.description, prompt.description_ids, row.sample_id, tokenizer)
    return prompt


def _check_ids(text: str, ids: Sequence[int] | NDArray, sample_id: str, tokenizer: TextTokenizer) -> None:
    """The store of answers tokenizes the text again, and must find the ids that were answered."""
    if text and list(tokenizer.encode(text)) != list(map(int, ids)):
        raise DataError(
            f"sample {sample_id}: its stored ids are not those of its transcript; build the store again with this "
            "version"
        )
