"""Where the rows of new tokens come from.

In: the rows a backbone has, a method and a seed. Out: new rows, the same for the same seed however they are cut into
pieces.

    mean_cov   mean + sqrt(scale) * z L^T with L L^T the covariance of the old rows and z standard normal
    mean       the mean of the old rows, for every new row
    normal     0.02 * z, as a model begins that was never trained

Moments are added up in fp64 from fp32 pieces. L comes from an eigendecomposition with negative eigenvalues set to 0:
covariances of embeddings are singular to fp32, where Cholesky fails. It costs O(D^3), once a matrix.

Shapes: V old rows, N new rows, D model width.

Weights with the rows of the vocabulary in another order.

In: an opened folder, and for each row of the new vocabulary the old row it is, or -1. Out: safetensors; rows that come
from nowhere are drawn as an expansion draws them, all other tensors are copied bit for bit. A matrix of the vocabulary
is in memory as a whole, since its rows come from anywhere.

Shapes: R rows of the new vocabulary, D width.

A backbone's Hugging Face folder grown by the speech vocabulary: what a run starts from.

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
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from titan_speech.errors import ModelError
from titan_speech.hf.model_folder import HFFolder, read_json, tensor_shapes, vocabulary_tensors
from titan_speech.hf.safetensors_writer import new_folder, num_weight_bytes, tensor_bytes, write_json, write_weights
from titan_speech.hf.tokenizer import extended_tokenizer, num_entries_of, write_text_tokenizer
from titan_speech.model.exported_files import CONFIG_NAME, EXPANSION_NAME
from titan_speech.tokenization.foreign_layouts import NO_ROW
from titan_speech.tokenization.known_tokenizers import KNOWN, vocabulary_fingerprint
from titan_speech.tokenization.text_tokenizer import (
    JSON_NAME,
    RECIPE_NAME,
    TEXT_TOKENIZER,
    TextTokenizer,
    tokenizer_file,
    tokenizer_json,
)
from titan_speech.tokenization.vocabulary import Vocabulary

Method = Literal["mean_cov", "mean", "normal"]
METHODS: tuple[Method, ...] = ("mean_cov", "mean", "normal")
ROWS_PER_PIECE = 8192
NORMAL_STD = 0.02


@dataclass(frozen=True)
class NewRows:
    """How new rows are drawn."""

    method: Method = "mean_cov"
    scale: float = 0.01
    """Factor of the covariance. Measured (benchmarks/expansion.py): 1 starts 1.4 nats above the mean row and stays
    behind, 0.01 starts where the mean does, with rows that differ from the first step on."""
    seed: int = 0


@dataclass(frozen=True)
class Moments:
    """Of the rows of one matrix."""

    mean_D: torch.Tensor
    factor_DD: torch.Tensor
    """L with L L^T the covariance."""


def row_moments(folder: HFFolder, name: str) -> Moments:
    """Mean and covariance over all rows of a matrix, read in pieces.

    Raises:
        ModelError: a value is NaN or infinite.
    """
    num_rows, dim = folder.num_rows, folder.shape.dim
    sum_D = torch.zeros(dim, dtype=torch.float64)
    for piece_VD in row_pieces(folder, name):
        sum_D += piece_VD.double().sum(0)
    if not torch.isfinite(sum_D).all():
        raise ModelError(f"{name} in {folder.path} has values that are not finite (NaN or infinite); download it again")
    mean_D = sum_D / num_rows
    covariance_DD = torch.zeros(dim, dim, dtype=torch.float64)
    for piece_VD in row_pieces(folder, name):
        centred_VD = piece_VD - mean_D.float()
        covariance_DD += (centred_VD.T @ centred_VD).double()
    values_D, vectors_DD = torch.linalg.eigh(covariance_DD / num_rows)
    return Moments(mean_D.float(), (vectors_DD * values_D.clamp(min=0).sqrt()).float())


def row_pieces(folder: HFFolder, name: str) -> Iterator[torch.Tensor]:
    """All rows of a matrix in fp32, piece by piece."""
    for start in range(0, folder.num_rows, ROWS_PER_PIECE):
        yield folder.rows(name, start, min(start + ROWS_PER_PIECE, folder.num_rows)).float()


def initialize_rows(how: NewRows, moments: Moments, name: str, num_new: int) -> Iterator[torch.Tensor]:
    """The new rows of one matrix in fp32, piece by piece."""
    for start in range(0, num_new, ROWS_PER_PIECE):
        yield _piece(how, moments, f"{how.seed}/{name}/{start}", min(ROWS_PER_PIECE, num_new - start))


def _piece(how: NewRows, moments: Moments, key: str, num_rows: int) -> torch.Tensor:
    if how.method == "mean":
        return moments.mean_D.expand(num_rows, -1)
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little") >> 1
    z_ND = torch.randn(num_rows, len(moments.mean_D), generator=torch.Generator().manual_seed(seed))
    if how.method == "normal":
        return NORMAL_STD * z_ND
    return moments.mean_D + how.scale**0.5 * z_ND @ moments.factor_DD.T


def write_moved(folder: HFFolder, output: Path, source_R: NDArray[np.int64], how: NewRows) -> str:
    """All tensors, those of the vocabulary with row r taken from `source_R[r]`; the sha256 of what was read."""
    moving, digest = vocabulary_tensors(folder.shape), hashlib.sha256()

    def pieces(name: str) -> Iterator[torch.Tensor]:
        whole = folder.tensor(name)
        digest.update(tensor_bytes(whole))
        return _moved(folder, name, whole, source_R, how) if name in moving else iter([whole])

    write_weights(output, tensor_shapes(folder.shape, len(source_R)), folder.dtype, pieces)
    return digest.hexdigest()


def _moved(
    folder: HFFolder, name: str, whole_VD: torch.Tensor, source_R: NDArray[np.int64], how: NewRows
) -> Iterator[torch.Tensor]:
    is_new_R = source_R == NO_ROW
    new_ND = torch.empty(0, whole_VD.shape[1], dtype=whole_VD.dtype)
    if is_new_R.any():
        drawn = initialize_rows(how, row_moments(folder, name), name, int(is_new_R.sum()))
        new_ND = torch.cat([piece.to(whole_VD.dtype) for piece in drawn])
    place_R = np.cumsum(is_new_R) - 1
    for start in range(0, len(source_R), ROWS_PER_PIECE):
        rows = slice(start, start + ROWS_PER_PIECE)
        piece = whole_VD[torch.from_numpy(np.maximum(source_R[rows], 0))]
        is_new = torch.from_numpy(is_new_R[rows])
        piece[is_new] = new_ND[torch.from_numpy(place_R[rows])[is_new]]
        yield piece


def inverse(rows_R: NDArray[np.int64], num_rows: int) -> NDArray[np.int64]:
    """Where each of `num_rows` comes from, -1 for those that come from nowhere."""
    source = np.full(num_rows, NO_ROW, np.int64)
    known = np.flatnonzero(rows_R != NO_ROW)
    source[rows_R[known]] = known
    return source


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
class Extendable:
    """A backbone's folder that was looked at and can be grown."""

    folder: HFFolder
    tokenizer: TextTokenizer
    vocabulary: Vocabulary
    grown: dict[str, Any]
    """The tokenizer.json with speech tokens."""
    known_as: str
    """What is known of its tokenizer."""

    @classmethod
    def of(cls, source: Path) -> Extendable:
        """Reads headers and the tokenizer, no weights.

        Raises:
            ModelError, VocabularyError: the source cannot be used.
        """
        _check_not_grown(source)
        folder, tokenizer = HFFolder.open(source), TextTokenizer.load(source)
        content = json.loads(tokenizer_json(tokenizer_file(source)))
        vocabulary = _vocabulary(folder, tokenizer)
        known_as = _check_entries(folder, content, tokenizer)
        return cls(folder, tokenizer, vocabulary, extended_tokenizer(content, vocabulary), known_as)

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
            write_json(partial / EXPANSION_NAME, asdict(record))
        return record


def expand(source: Path, output: Path, how: NewRows, report: Callable[[str], None] = print) -> Expansion:
    """Grow the folder `source` into `output`.

    Raises:
        ModelError, VocabularyError: the source cannot be used, the output is taken, or there is no room.
    """
    return Extendable.of(source).write(output, how, report)


def read_expansion(folder: Path) -> Expansion:
    """The record of a grown folder.

    Raises:
        ModelError: the folder has none.
    """
    content = read_json(folder / EXPANSION_NAME, "a folder written by `titan-speech model expand`")
    try:
        return Expansion(**content)
    except TypeError as error:
        raise ModelError(f"{folder / EXPANSION_NAME} is not the record of an expansion: {error}") from error


def is_expanded(folder: Path) -> bool:
    return (folder / EXPANSION_NAME).is_file()


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
            f"{source} has rows for speech tokens already ({EXPANSION_NAME} says so): a run starts from it as it is "
            "(model.initial)"
        )
    if (source / TEXT_TOKENIZER).is_dir():
        raise ModelError(
            f"{source} was grown already ({TEXT_TOKENIZER}/ is in it), but {EXPANSION_NAME}, which says how, is "
            "missing; put it back, or give the folder of the backbone as it was published"
        )


def _check_entries(folder: HFFolder, content: dict[str, Any], tokenizer: TextTokenizer) -> str:
    """What is known of the tokenizer; one with far fewer entries than the backbone has rows is another model's."""
    num_entries, recipe = num_entries_of(content), tokenizer_file(folder.path).parent / RECIPE_NAME
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
        yield from initialize_rows(self.how, row_moments(self.folder, name), name, self.num_new)

    def _read(self, piece: torch.Tensor) -> torch.Tensor:
        self.digest.update(tensor_bytes(piece))
        return piece
