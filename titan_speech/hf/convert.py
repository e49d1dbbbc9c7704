"""Convert models of other speech trainers to this vocabulary, and back.

In: a Hugging Face folder whose vocabulary has a foreign layout, or one of ours and the name of a layout. Out: the same
model with its rows where the other side has the same token, the ids of special tokens changed accordingly, and the
files next to the weights that transformers reads:

    config.json, generation_config.json       special ids of the other side; the stop token stays the stop token
    tokenizer.json, tokenizer_config.json     every token by its name on the other side
    chat_template.jinja                       unchanged
    conversion.json                           where the model came from, in either direction
    text_tokenizer/, expansion.json           towards our vocabulary only: what a run that starts from it reads

Every token of theirs has a place here, so theirs -> ours -> theirs gives the same weights bit for bit. Ours has rows
that they lack (specials, reserved rows): those are dropped on the way out, and on the way in they are initialized as an
expansion does. A matrix of the vocabulary is in memory as a whole, since its rows can come from anywhere.

Shapes: R rows of the new vocabulary, V rows of the old one, D width.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from titan_speech.checkpoint.provenance import package_versions, source_revision
from titan_speech.errors import ModelError
from titan_speech.hf.config_json import read_json, write_json
from titan_speech.hf.expand import Expansion, is_expanded, read_expansion
from titan_speech.hf.model_folder import HFFolder, tensor_shapes, vocabulary_tensors
from titan_speech.hf.row_initialization import ROWS_PER_PIECE, NewRows, initialize_rows, row_moments
from titan_speech.hf.safetensors_writer import new_folder, num_weight_bytes, tensor_bytes, write_weights
from titan_speech.hf.tokenizer import (
    extended_tokenizer,
    extended_tokenizer_config,
    first_id,
    foreign_tokenizer,
    max_length,
    recover_text_tokenizer,
    tokenizer_config,
    write_configs,
)
from titan_speech.model.exported_files import CONFIG_NAME
from titan_speech.tokenization.chat_template import chat_template
from titan_speech.tokenization.foreign_layouts import NO_ROW, VocabularyLayout, layout_of_tokenizer
from titan_speech.tokenization.text_tokenizer import JSON_NAME, TEXT_TOKENIZER, TOKENIZER_CONFIG_NAME, TextTokenizer
from titan_speech.tokenization.vocabulary import Vocabulary

CONVERSION_NAME, CHAT_TEMPLATE = "conversion.json", "chat_template.jinja"


@dataclass(frozen=True)
class Conversion:
    """The record next to converted weights; what the source recorded of its own origin is kept."""

    direction: Literal["to", "from"]
    """Whether `layout` is that of this folder or of the one it was made from."""
    layout: str
    source: str
    """Name of the folder, without the folders of this machine above it."""
    source_sha256: str
    """Digest of the source's weights, tensor by tensor in the order of the architecture."""
    origin: str
    """What the source recorded of its own origin; empty if it has no record."""
    versions: tuple[str, ...]
    """Packages that converted it."""
    source_revision: str
    """Revision of titan_speech; empty where it was installed as a package."""

    @classmethod
    def of(cls, direction: Literal["to", "from"], layout: str, source: Path, source_sha256: str) -> Conversion:
        name = source.absolute().name
        return cls(direction, layout, name, source_sha256, _origin(source), package_versions(), source_revision())

    def write(self, folder: Path) -> None:
        write_json(folder / CONVERSION_NAME, asdict(self))


def _origin(source: Path) -> str:
    if is_expanded(source):
        return str(read_expansion(source))
    if not (source / CONVERSION_NAME).is_file():
        return ""
    found = read_json(source / CONVERSION_NAME, "a converted model folder").get("origin")
    if not isinstance(found, str):
        raise ModelError(
            f"{source / CONVERSION_NAME} is damaged: origin is {found!r}, expected a text; remove the file"
        )
    return found


def import_model(source: Path, output: Path, layout: VocabularyLayout, settings: NewRows) -> Vocabulary:
    """Convert a model of another trainer to a folder that a run can start from.

    Which token a row is comes from its own tokenizer.json; the layout gives the number of rows, and of text rows.

    Args:
        source: its Hugging Face folder; only read.
        output: must not exist.
        layout: the token layout of the other trainer.
        settings: how rows that the model lacks are initialized.

    Returns:
        The vocabulary of the converted model.

    Raises:
        ModelError: the folder has another number of rows than the layout, or cannot be used at all.
        VocabularyError: its tokenizer lacks speech codes, or has a token that has no place here.
    """
    if not (source / CONFIG_NAME).is_file() and any(source.glob("*.pt")):
        raise ModelError(
            f"{source} has .pt files and no {CONFIG_NAME}: a checkpoint in a trainer's own format. "
            "The page Comparison and migration has the lines that make a Hugging Face folder of it"
        )
    folder = HFFolder.open(source)
    _check_rows(folder, layout.num_rows, f"layout {layout.name}")
    content = read_json(source / JSON_NAME, f"a model folder of layout {layout.name}")
    theirs = layout_of_tokenizer(content, layout.num_base, str(source / JSON_NAME))
    if theirs.num_rows > folder.num_rows:
        raise ModelError(
            f"{source / JSON_NAME} has {theirs.num_rows:,} tokens, the embedding {folder.num_rows:,} rows; they are of "
            "different models"
        )
    num_rows = Vocabulary(theirs.num_base, bos_id=0, eos_id=0).num_rows
    with new_folder(output, num_weight_bytes(tensor_shapes(folder.shape, num_rows), folder.dtype)) as partial:
        tokenizer = recover_text_tokenizer(folder, content, theirs, partial)
        vocabulary = tokenizer.vocabulary()
        ours_V = np.full(folder.num_rows, NO_ROW)
        ours_V[: theirs.num_rows] = theirs.rows_of_ours(vocabulary)
        config = write_configs(folder, partial, ours_V, num_rows=vocabulary.num_rows, pad_id=vocabulary.pad_id)
        base = json.loads((partial / TEXT_TOKENIZER / JSON_NAME).read_text(encoding="utf-8"))
        write_json(partial / JSON_NAME, extended_tokenizer(base, vocabulary))
        stop_id = first_id(config, "eos_token_id")
        stop_id = vocabulary.eos_id if stop_id is None else stop_id
        names = extended_tokenizer_config(tokenizer, vocabulary, stop_id, max_length(folder))
        names["chat_template"] = chat_template(tokenizer.token(vocabulary.bos_id), tokenizer.special_tokens)
        write_json(partial / TOKENIZER_CONFIG_NAME, names)
        _copy_chat_template(source, partial)
        digest = _write_reordered(folder, partial, inverse_rows(ours_V, vocabulary.num_rows), settings)
        Expansion(
            source=str(source),
            source_sha256=digest,
            num_base=vocabulary.num_base,
            num_rows=vocabulary.num_rows,
            method=f"imported from layout {layout.name}, missing rows {settings.method}",
            scale=settings.scale,
            seed=settings.seed,
            vocabulary=vocabulary.fingerprint,
        ).write(partial)
        Conversion.of("from", layout.name, source, digest).write(partial)
    return vocabulary


def export_model(source: Path, output: Path, layout: VocabularyLayout) -> None:
    """Convert a folder of ours to the token layout of another trainer.

    Args:
        source: written by `model expand` or `model export`; only read.
        output: must not exist.
        layout: the token layout of the other trainer.

    Raises:
        ModelError: the folder is not one of ours, or of another backbone than the layout.
    """
    folder = HFFolder.open(source)
    tokenizer = TextTokenizer.load(source)
    vocabulary = tokenizer.vocabulary()
    _check_rows(folder, vocabulary.num_rows, "this trainer's vocabulary")
    base = read_json(source / TEXT_TOKENIZER / JSON_NAME, "a folder written by `titan-speech model expand` or `export`")
    ours_R = layout.rows_of_ours(vocabulary)
    with new_folder(output, num_weight_bytes(tensor_shapes(folder.shape, layout.num_rows), folder.dtype)) as partial:
        theirs_V = inverse_rows(ours_R, vocabulary.num_rows)
        # They pad with the token that ends a text, and leave padding out of the loss: never the stop token.
        write_configs(folder, partial, theirs_V, num_rows=layout.num_rows, pad_id=vocabulary.eos_id)
        write_json(partial / JSON_NAME, foreign_tokenizer(base, layout))
        end = tokenizer.token(vocabulary.eos_id)
        bos = tokenizer.token(vocabulary.bos_id)
        names = tokenizer_config(bos=bos, eos=end, pad=end, max_length=max_length(folder))
        write_json(partial / TOKENIZER_CONFIG_NAME, names)
        _copy_chat_template(source, partial)
        digest = _write_reordered(folder, partial, ours_R, NewRows())
        Conversion.of("to", layout.name, source, digest).write(partial)


def _check_rows(folder: HFFolder, expected: int, what: str) -> None:
    if folder.num_rows != expected:
        raise ModelError(f"{folder.path} has {folder.num_rows:,} vocabulary rows, {what} has {expected:,}")


def _copy_chat_template(source: Path, output: Path) -> None:
    if (source / CHAT_TEMPLATE).is_file():
        shutil.copyfile(source / CHAT_TEMPLATE, output / CHAT_TEMPLATE)


def _write_reordered(folder: HFFolder, output: Path, source_R: NDArray[np.int64], settings: NewRows) -> str:
    """Write all tensors, with row r of the vocabulary taken from `source_R[r]`, or initialized where that is -1.

    Returns:
        The sha256 of the tensors that were read; tensors without vocabulary rows are copied bit for bit.
    """
    digest = hashlib.sha256()

    def pieces(name: str) -> Iterator[torch.Tensor]:
        tensor = folder.tensor(name)
        digest.update(tensor_bytes(tensor))
        if name in vocabulary_tensors(folder.shape):
            return _reordered_rows(folder, name, tensor, source_R, settings)
        return iter([tensor])

    write_weights(output, tensor_shapes(folder.shape, len(source_R)), folder.dtype, pieces)
    return digest.hexdigest()


def _reordered_rows(
    folder: HFFolder, name: str, matrix_VD: torch.Tensor, source_R: NDArray[np.int64], settings: NewRows
) -> Iterator[torch.Tensor]:
    is_new_R = source_R == NO_ROW
    new_ND = torch.empty(0, matrix_VD.shape[1], dtype=matrix_VD.dtype)
    if is_new_R.any():
        initialized = initialize_rows(settings, row_moments(folder, name), name, int(is_new_R.sum()))
        new_ND = torch.cat([piece.to(matrix_VD.dtype) for piece in initialized])
    index_of_new_R = np.cumsum(is_new_R) - 1
    for start in range(0, len(source_R), ROWS_PER_PIECE):
        rows = slice(start, start + ROWS_PER_PIECE)
        piece = matrix_VD[torch.from_numpy(np.maximum(source_R[rows], 0))]
        is_new = torch.from_numpy(is_new_R[rows])
        piece[is_new] = new_ND[torch.from_numpy(index_of_new_R[rows])[is_new]]
        yield piece


def inverse_rows(rows_V: NDArray[np.int64], num_rows: int) -> NDArray[np.int64]:
    """Which old row each of `num_rows` new rows is; -1 for a new row without one.

    Args:
        rows_V: for each old row the new row it becomes, or -1.
        num_rows: of the new vocabulary.
    """
    source_R = np.full(num_rows, NO_ROW, np.int64)
    known = np.flatnonzero(rows_V != NO_ROW)
    source_R[rows_V[known]] = known
    return source_R
