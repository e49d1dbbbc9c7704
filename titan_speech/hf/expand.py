"""A backbone's Hugging Face folder grown by the speech vocabulary: what a run starts from.

In: the folder as it was published, and how new rows are drawn. Out: another folder of the same kind, which the trainer
loads at any world size and transformers loads as a model:

    config.json, model*.safetensors      the backbone with `num_rows` vocabulary rows, in the type it came in
    tokenizer.json                       its tokenizer with a name for every speech token
    text_tokenizer/                      its tokenizer as it was, which [tokenizer] path takes
    expansion.json                       where it came from, how new rows were drawn, fingerprints

What is in memory is one matrix of a layer, or a piece of the embedding with its covariance (D x D in fp64), never the
model: 1.56 GB at the highest for 8B, whose grown embedding is 1.59 GB (benchmarks/hf_memory.py).
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
from titan_speech.hf.folder import CONFIG_NAME, HFFolder, read_json
from titan_speech.hf.rows import ROWS_PER_PIECE, NewRows, draw_rows, row_moments
from titan_speech.hf.tensors import tensor_shapes, vocabulary_tensors
from titan_speech.hf.text_tokenizer_folder import write_text_tokenizer
from titan_speech.hf.tokenizer import grown_tokenizer, num_entries_of
from titan_speech.hf.writer import new_folder, num_weight_bytes, tensor_bytes, write_json, write_weights
from titan_speech.known_tokenizers import KNOWN, vocabulary_fingerprint
from titan_speech.text_tokenizer import JSON_NAME, TEXT_TOKENIZER, TextTokenizer, tokenizer_file, tokenizer_json
from titan_speech.vocabulary import Vocabulary

RECORD_NAME = "expansion.json"
TRAINED = "trained"
"""Method of an exported folder: its rows for speech tokens are a run's."""

MAX_UNUSED_ROWS = 1024
"""Rows a backbone may have beyond the entries of its tokenizer; Qwen3 has 267."""


@dataclass(frozen=True)
class Expansion:
    """The record of what a grown folder was made from."""

    source: str
    source_sha256: str
    """Of the source's weights, tensor by tensor in the order of the architecture."""
    num_base: int
    num_rows: int
    method: str
    scale: float
    seed: int
    vocabulary: str
    """Fingerprint of the vocabulary."""

    def __str__(self) -> str:
        """For logs, provenance and cards: the name of the source, without the folders of this machine."""
        if self.method == TRAINED:
            return self.source
        return (
            f"{Path(self.source).name} (sha256 {self.source_sha256[:16]}), {self.num_base:,} rows grown to "
            f"{self.num_rows:,}, new rows {self.method}, scale {self.scale:g}, seed {self.seed}"
        )


@dataclass(frozen=True)
class Growable:
    """A backbone's folder that was looked at and can be grown."""

    folder: HFFolder
    tokenizer: TextTokenizer
    vocabulary: Vocabulary
    grown: dict[str, Any]
    """The tokenizer.json with speech tokens."""
    known_as: str
    """What is known of its tokenizer."""

    @classmethod
    def of(cls, source: Path) -> Growable:
        """Reads headers and the tokenizer, no weights.

        Raises:
            ModelError, VocabularyError: the source cannot be used.
        """
        _check_not_grown(source)
        folder, tokenizer = HFFolder.open(source), TextTokenizer.load(source)
        content = json.loads(tokenizer_json(tokenizer_file(source)))
        vocabulary = _vocabulary(folder, tokenizer)
        known_as = _check_entries(folder, content, tokenizer)
        return cls(folder, tokenizer, vocabulary, grown_tokenizer(content, vocabulary), known_as)

    def write(self, output: Path, how: NewRows, report: Callable[[str], None] = print) -> Expansion:
        """The grown folder, which appears when it is complete.

        Raises:
            ModelError: the output is taken, there is no room, or a weight is not finite.
        """
        source, num_rows = self.folder.path, self.vocabulary.num_rows
        report(f"text vocabulary: {self.known_as}")
        shapes = tensor_shapes(self.folder.shape, num_rows)
        copier = _Copier(self.folder, how, num_rows - self.folder.num_rows, report)
        with new_folder(output, num_weight_bytes(shapes, self.folder.dtype)) as partial:
            write_weights(partial, shapes, self.folder.dtype, copier.pieces)
            write_json(partial / CONFIG_NAME, _grown_config(self.folder.config, self.vocabulary))
            write_json(partial / JSON_NAME, self.grown)
            write_text_tokenizer(self.tokenizer, tokenizer_file(source), partial / TEXT_TOKENIZER)
            record = Expansion(
                source=str(source),
                source_sha256=copier.digest.hexdigest(),
                num_base=self.folder.num_rows,
                num_rows=num_rows,
                method=how.method,
                scale=how.scale,
                seed=how.seed,
                vocabulary=self.vocabulary.fingerprint,
            )
            write_json(partial / RECORD_NAME, asdict(record))
        return record


def expand(source: Path, output: Path, how: NewRows, report: Callable[[str], None] = print) -> Expansion:
    """Grow the folder `source` into `output`.

    Raises:
        ModelError, VocabularyError: the source cannot be used, the output is taken, or there is no room.
    """
    return Growable.of(source).write(output, how, report)


def read_expansion(folder: Path) -> Expansion:
    """The record of a grown folder.

    Raises:
        ModelError: the folder has none.
    """
    content = read_json(folder / RECORD_NAME, "a folder written by `titan-speech model expand`")
    try:
        return Expansion(**content)
    except TypeError as error:
        raise ModelError(f"{folder / RECORD_NAME} is not the record of an expansion: {error}") from error


def is_expanded(folder: Path) -> bool:
    return (folder / RECORD_NAME).is_file()


def _vocabulary(folder: HFFolder, tokenizer: TextTokenizer) -> Vocabulary:
    """The tokenizer's vocabulary with as many base rows as the backbone has."""
    if tokenizer.num_base != folder.num_rows:
        raise ModelError(
            f"the tokenizer in {folder.path} stands for {tokenizer.num_base} rows, the embedding has "
            f"{folder.num_rows}; they belong to different models, or recipe.json names another num_base"
        )
    return tokenizer.vocabulary()


def _check_not_grown(source: Path) -> None:
    if is_expanded(source):
        raise ModelError(
            f"{source} has rows for speech tokens already ({RECORD_NAME} says so): a run starts from it as it is "
            "(model.initial)"
        )
    if (source / TEXT_TOKENIZER).is_dir():
        raise ModelError(
            f"{source} was grown already ({TEXT_TOKENIZER}/ is in it), but {RECORD_NAME}, which says how, is missing; "
            "put it back, or give the folder of the backbone as it was published"
        )


def _check_entries(folder: HFFolder, content: dict[str, Any], tokenizer: TextTokenizer) -> str:
    """What is known of the tokenizer; one with far fewer entries than the backbone has rows is another model's."""
    num_entries, recipe = num_entries_of(content), tokenizer_file(folder.path).parent / "recipe.json"
    num_unused = folder.num_rows - num_entries
    known = KNOWN.get(vocabulary_fingerprint(content["model"]["vocab"]) or "")
    name = known.name if known else "no vocabulary known by name"
    if num_unused > MAX_UNUSED_ROWS and not recipe.is_file():
        raise ModelError(
            f"the tokenizer in {folder.path} has {num_entries:,} entries ({name}), the embedding {folder.num_rows:,} "
            "rows; they belong to different models. If they do belong together, say so with num_base in recipe.json "
            "beside the tokenizer"
        )
    return f"{name}, {num_entries:,} entries, {num_unused:,} rows without one, fingerprint {tokenizer.fingerprint}"


def _grown_config(config: dict[str, Any], vocabulary: Vocabulary) -> dict[str, Any]:
    return config | {"vocab_size": vocabulary.num_rows, "bos_token_id": vocabulary.bos_id}


class _Copier:
    """Pieces of the tensors of the grown model; hashes what it reads of the source."""

    def __init__(self, folder: HFFolder, how: NewRows, num_new: int, report: Callable[[str], None]) -> None:
        self.folder, self.how, self.num_new, self.report = folder, how, num_new, report
        self.digest = hashlib.sha256()
        self._growing = vocabulary_tensors(folder.shape)

    def pieces(self, name: str) -> Iterator[torch.Tensor]:
        if name not in self._growing:
            yield self._read(self.folder.tensor(name))
            return
        self.report(f"{name}: {self.num_new:,} new rows after {self.folder.num_rows:,} ({self.how.method})")
        for start in range(0, self.folder.num_rows, ROWS_PER_PIECE):
            yield self._read(self.folder.rows(name, start, min(start + ROWS_PER_PIECE, self.folder.num_rows)))
        yield from draw_rows(self.how, row_moments(self.folder, name), name, self.num_new)

    def _read(self, piece: torch.Tensor) -> torch.Tensor:
        self.digest.update(tensor_bytes(piece))
        return piece
