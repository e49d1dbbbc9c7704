"""The vocabulary of a run, also on a machine that has not got its tokenizer.

In: the [model] and [tokenizer] tables. Out: `FoundVocabulary`: where ids lie, and where that was read. Without the
tokenizer's folder the rows of the published backbone are taken; sizes, memory and speed depend on nothing else of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from titan_speech.config.schema import SpeechConfig
from titan_speech.model.backbones import BackboneShape, published_shape
from titan_speech.tokenization.known_tokenizers import LLAMA3_ROWS, QWEN3_ROWS
from titan_speech.tokenization.text_tokenizer import TextTokenizer
from titan_speech.tokenization.vocabulary import Vocabulary

PUBLISHED_ROWS = {"llama3": LLAMA3_ROWS, "qwen3": QWEN3_ROWS}
"""Embedding rows of the published backbones of a family (vocab_size of their config.json)."""


@dataclass(frozen=True)
class FoundVocabulary:
    """The layout of ids, and what it was read from."""

    vocabulary: Vocabulary
    is_published: bool
    """Taken from the family's published row count, since the tokenizer is not on this machine."""
    origin: str


def run_vocabulary(config: SpeechConfig) -> FoundVocabulary:
    """The vocabulary the run will have."""
    path, family = config.tokenizer.path, config.model.family
    if Path(path).exists():
        return FoundVocabulary(TextTokenizer.load(path).vocabulary(), False, f"tokenizer {path}")
    rows = PUBLISHED_ROWS[family]
    note = f"published {family} backbones: {rows:,} rows (tokenizer {path} is not on this machine)"
    return FoundVocabulary(Vocabulary(num_base=rows, bos_id=0, eos_id=1), True, note)


def run_shape(config: SpeechConfig) -> tuple[BackboneShape, str]:
    """Sizes of the backbone, and what they were read from."""
    model = config.model
    if model.initial and not Path(model.initial).exists() and model.flavor != "initial":
        note = f"published sizes of {model.family} {model.flavor} ({model.initial} is not on this machine)"
        return published_shape(model.family, model.flavor), note
    if not model.initial:
        return published_shape(model.family, model.flavor), f"published sizes of {model.family} {model.flavor}"
    from titan_speech.hf.initial import model_shape  # imports torch

    return model_shape(model), model.initial
