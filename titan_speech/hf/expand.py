"""Extend a backbone's Hugging Face folder by the speech vocabulary: what a run starts from.

In: the folder as it was published, and how embeddings of new tokens are initialized. Out: another folder of the same
kind, which the trainer loads at any world size and transformers loads as a model:

    config.json, model*.safetensors      the backbone with `num_rows` vocabulary rows, in its own type
    tokenizer.json                       its tokenizer with a name for every speech token
    text_tokenizer/                      its tokenizer unchanged, which [tokenizer] path takes
    expansion.json                       the source, how new rows were initialized, fingerprints

In memory at once are one matrix of a layer, or a piece of the embedding with its covariance (D x D in fp64), never the
model: 1.57 GB at most for 8B, whose extended embedding is 1.59 GB (benchmarks/hf_memory.py).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from titan_speech.errors import ModelError
from titan_speech.hf.config_json import read_json, write_json
from titan_speech.hf.model_folder import HFFolder, tensor_shapes, vocabulary_tensors
from titan_speech.hf.row_initialization import NewRows, initialize_rows, row_moments, row_pieces
from titan_speech.hf.safetensors_writer import new_folder, num_weight_bytes, tensor_bytes, write_weights
from titan_speech.hf.tokenizer import extended_tokenizer, num_entries_of, write_text_tokenizer
from titan_speech.model.exported_files import CONFIG_NAME, EXPANSION_NAME
from titan_speech.tokenization.known_tokenizers import KNOWN_VOCABULARIES, vocabulary_fingerprint
from titan_speech.tokenization.text_tokenizer import (
    JSON_NAME,
    RECIPE_NAME,
    TEXT_TOKENIZER,
    TextTokenizer,
    tokenizer_file,
    tokenizer_json,
)
from titan_speech.tokenization.vocabulary import Vocabulary
from titan_speech.utils.record_types import check_types
from titan_speech.utils.text_table import counted

TRAINED_METHOD = "trained"
"""Method of an exported folder: its rows of speech tokens come from a run."""

MAX_UNUSED_ROWS = 1024
"""Rows a backbone may have beyond the entries of its tokenizer; Qwen3 has 267."""


@dataclass(frozen=True)
class Expansion:
    """The record of what a folder with an extended vocabulary was made from."""

    source: str
    source_sha256: str
    """Digest of the source's weights, tensor by tensor in the order of the architecture."""
    num_base: int
    num_rows: int
    method: str
    scale: float
    seed: int
    vocabulary: str
    """Fingerprint of the vocabulary."""

    def __str__(self) -> str:
        """As text for logs, provenance and cards: the name of the source, without the folders of this machine."""
        if self.method == TRAINED_METHOD:
            return self.source
        return (
            f"{Path(self.source).name} (sha256 {self.source_sha256[:16]}), {counted(self.num_base, 'row')} extended to "
            f"{self.num_rows:,}, new rows {self.method}, scale {self.scale:g}, seed {self.seed}"
        )

    def write(self, folder: Path) -> None:
        write_json(folder / EXPANSION_NAME, asdict(self))


@dataclass(frozen=True)
class ExtendableBackbone:
    """A backbone's folder that was checked and whose vocabulary can be extended."""

    folder: HFFolder
    tokenizer: TextTokenizer
    vocabulary: Vocabulary
    tokenizer_content: dict[str, Any]
    """Content of tokenizer.json with speech tokens."""
    tokenizer_description: str

    @classmethod
    def open(cls, source: Path) -> ExtendableBackbone:
        """Read headers and the tokenizer, no weights.

        Args:
            source: folder of a Hugging Face model.

        Raises:
            ModelError, VocabularyError: the source cannot be used.
        """
        _check_not_extended(source)
        folder, tokenizer = HFFolder.open(source), TextTokenizer.load(source)
        if tokenizer.num_base != folder.num_rows:
            raise ModelError(
                f"the tokenizer in {folder.path} stands for {tokenizer.num_base} rows, the embedding has "
                f"{folder.num_rows}; they belong to different models, or recipe.json names another num_base"
            )
        content, vocabulary = json.loads(tokenizer_json(tokenizer_file(source))), tokenizer.vocabulary()
        description = _check_tokenizer(folder, content, tokenizer)
        return cls(folder, tokenizer, vocabulary, extended_tokenizer(content, vocabulary), description)

    def write(self, output: Path, settings: NewRows, report: Callable[[str], None] = print) -> Expansion:
        """Write the extended folder, which appears when it is complete.

        Args:
            output: folder to write; must not exist.
            settings: how rows of new tokens are initialized.
            report: receives one line of progress at a time.

        Raises:
            ModelError: the output exists, the disk is too small, or a weight is not finite.
        """
        source, num_rows = self.folder.path, self.vocabulary.num_rows
        report(f"text vocabulary: {self.tokenizer_description}")
        shapes = tensor_shapes(self.folder.shape, num_rows)
        digest, num_new = hashlib.sha256(), num_rows - self.folder.num_rows

        def hashed(piece: torch.Tensor) -> torch.Tensor:
            digest.update(tensor_bytes(piece))
            return piece

        def pieces(name: str) -> Iterator[torch.Tensor]:
            if name not in vocabulary_tensors(self.folder.shape):
                yield hashed(self.folder.tensor(name))
                return
            report(f"{name}: {num_new:,} new rows after {self.folder.num_rows:,} ({settings.method})")
            yield from map(hashed, row_pieces(self.folder, name))
            yield from initialize_rows(settings, row_moments(self.folder, name), name, num_new)

        config = self.folder.config | {"vocab_size": num_rows, "bos_token_id": self.vocabulary.bos_id}
        with new_folder(output, num_weight_bytes(shapes, self.folder.dtype)) as partial:
            write_weights(partial, shapes, self.folder.dtype, pieces)
            write_json(partial / CONFIG_NAME, config)
            write_json(partial / JSON_NAME, self.tokenizer_content)
            write_text_tokenizer(self.tokenizer, tokenizer_file(source), partial / TEXT_TOKENIZER)
            record = Expansion(
                source=str(source),
                source_sha256=digest.hexdigest(),
                num_base=self.folder.num_rows,
                num_rows=num_rows,
                method=settings.method,
                scale=settings.scale,
                seed=settings.seed,
                vocabulary=self.vocabulary.fingerprint,
            )
            record.write(partial)
        return record


def expand(source: Path, output: Path, settings: NewRows, report: Callable[[str], None] = print) -> Expansion:
    """Extend the vocabulary of the folder `source`; the result is the folder `output`.

    Args:
        source: the backbone as it was published; only read.
        output: must not exist.
        settings: how embeddings of new tokens are initialized.
        report: takes lines of progress.

    Raises:
        ModelError, VocabularyError: the source cannot be used, the output exists, or the disk is too small.
    """
    return ExtendableBackbone.open(source).write(output, settings, report)


def read_expansion(folder: Path) -> Expansion:
    """Read the record of a folder with an extended vocabulary.

    Raises:
        ModelError: the folder has none.
    """
    content = read_json(folder / EXPANSION_NAME, "a folder written by `titan-speech model expand`")
    try:
        expansion = Expansion(**content)
        check_types(expansion)
    except (TypeError, ValueError) as error:
        raise ModelError(f"{folder / EXPANSION_NAME} is not the record of an expansion: {error}") from error
    return expansion


def is_expanded(folder: Path) -> bool:
    return (folder / EXPANSION_NAME).is_file()


def _check_not_extended(source: Path) -> None:
    if is_expanded(source):
        raise ModelError(
            f"{source} has rows for speech tokens already ({EXPANSION_NAME} says so): a run starts from it as it is "
            "(model.initial)"
        )
    if (source / TEXT_TOKENIZER).is_dir():
        raise ModelError(
            f"the vocabulary of {source} was extended already ({TEXT_TOKENIZER}/ is in it), but {EXPANSION_NAME}, "
            "which says how, is missing; put it back, or give the folder of the backbone as it was published"
        )


def _check_tokenizer(folder: HFFolder, content: dict[str, Any], tokenizer: TextTokenizer) -> str:
    """A description of the tokenizer; one with far fewer entries than the backbone has rows is another model's."""
    num_entries, recipe = num_entries_of(content), tokenizer_file(folder.path).parent / RECIPE_NAME
    num_unused = folder.num_rows - num_entries
    known = KNOWN_VOCABULARIES.get(vocabulary_fingerprint(content["model"]["vocab"]) or "")
    name = known.name if known else "no vocabulary known by name"
    if num_unused > MAX_UNUSED_ROWS and not recipe.is_file():
        raise ModelError(
            f"the tokenizer in {folder.path} has {num_entries:,} entries ({name}), the embedding {folder.num_rows:,} "
            "rows; they belong to different models. If they do belong together, say so with num_base in recipe.json "
            "next to the tokenizer"
        )
    return f"{name}, {num_entries:,} entries, {num_unused:,} rows without one, fingerprint {tokenizer.fingerprint}"
