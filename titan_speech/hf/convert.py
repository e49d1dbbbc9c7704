"""Models of other speech trainers, brought into this vocabulary and back.

In: a Hugging Face folder whose vocabulary has a foreign layout, or one of ours and the name of a layout. Out: the same
model with its vocabulary rows moved to where the other side has the same token. Rows that have no counterpart are drawn
as an expansion draws them (on the way in) or zero (padding, on the way out); all other tensors are copied bit for bit.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from titan_speech.errors import ModelError
from titan_speech.hf.expand import RECORD_NAME, Expansion
from titan_speech.hf.folder import CONFIG_NAME, HFFolder, read_json
from titan_speech.hf.rows import NewRows, draw_rows, row_moments
from titan_speech.hf.tensors import tensor_shapes, vocabulary_tensors
from titan_speech.hf.text_tokenizer_folder import write_text_tokenizer
from titan_speech.hf.tokenizer import grown_tokenizer
from titan_speech.hf.writer import new_folder, num_weight_bytes, tensor_bytes, write_json, write_weights
from titan_speech.layouts import NO_ROW, Layout
from titan_speech.text_tokenizer import JSON_NAME, TEXT_TOKENIZER, TextTokenizer
from titan_speech.vocabulary import Vocabulary

ROWS_PER_PIECE = 8192


def import_model(source: Path, output: Path, layout: Layout, how: NewRows) -> Vocabulary:
    """A model of another trainer as a grown folder a run can start from; the vocabulary it got.

    Raises:
        ModelError: the folder has another number of rows than the layout, or cannot be used at all.
    """
    folder = HFFolder.open(source)
    _check_rows(folder, layout.num_rows, f"layout {layout.name}")
    content = read_json(source / JSON_NAME, f"a model folder of layout {layout.name}")
    with new_folder(
        output, 2 * num_weight_bytes(tensor_shapes(folder.shape, folder.num_rows), folder.dtype)
    ) as partial:
        base = _without_speech(content, layout.num_base)
        write_json(partial / JSON_NAME, base)
        write_json(partial / CONFIG_NAME, folder.config | {"vocab_size": layout.num_base})
        tokenizer = TextTokenizer.load(partial)
        vocabulary = tokenizer.vocabulary()
        write_text_tokenizer(tokenizer, partial / JSON_NAME, partial / TEXT_TOKENIZER)
        write_json(partial / JSON_NAME, grown_tokenizer(base, vocabulary))
        write_json(partial / CONFIG_NAME, folder.config | {"vocab_size": vocabulary.num_rows})
        theirs_of_ours = _inverse(layout.rows_of_ours(vocabulary), vocabulary.num_rows)
        digest = _write_moved(folder, partial, theirs_of_ours, how)
        record = Expansion(
            source=str(source),
            source_sha256=digest,
            num_base=vocabulary.num_base,
            num_rows=vocabulary.num_rows,
            method=f"imported from layout {layout.name}, missing rows {how.method}",
            scale=how.scale,
            seed=how.seed,
            vocabulary=vocabulary.fingerprint,
        )
        write_json(partial / RECORD_NAME, asdict(record))
    return vocabulary


def export_model(source: Path, output: Path, layout: Layout) -> None:
    """A folder of ours with its rows where `layout` has them.

    Raises:
        ModelError: the folder is not one of ours, or of another backbone than the layout.
    """
    folder = HFFolder.open(source)
    tokenizer = TextTokenizer.load(source)
    vocabulary = tokenizer.vocabulary()
    _check_rows(folder, vocabulary.num_rows, "this trainer's vocabulary")
    text = json.loads((source / TEXT_TOKENIZER / JSON_NAME).read_text(encoding="utf-8"))
    shapes = tensor_shapes(folder.shape, layout.num_rows)
    with new_folder(output, num_weight_bytes(shapes, folder.dtype)) as partial:
        write_json(partial / CONFIG_NAME, folder.config | {"vocab_size": layout.num_rows})
        write_json(partial / JSON_NAME, _with_tokens(text, layout))
        _write_moved(folder, partial, layout.rows_of_ours(vocabulary), None)


def _check_rows(folder: HFFolder, expected: int, what: str) -> None:
    if folder.num_rows != expected:
        raise ModelError(f"{folder.path} has {folder.num_rows:,} vocabulary rows, {what} has {expected:,}")


def _inverse(rows_R: NDArray[np.int64], num_rows: int) -> NDArray[np.int64]:
    """Where each row comes from, -1 for those that come from nowhere."""
    source = np.full(num_rows, NO_ROW, np.int64)
    known = np.flatnonzero(rows_R != NO_ROW)
    source[rows_R[known]] = known
    return source


def _write_moved(folder: HFFolder, output: Path, source_R: NDArray[np.int64], how: NewRows | None) -> str:
    """All tensors, those of the vocabulary with row r taken from `source_R[r]`; the sha256 of what was read."""
    growing, digest = vocabulary_tensors(folder.shape), hashlib.sha256()

    def pieces(name: str) -> Iterator[torch.Tensor]:
        whole = folder.tensor(name)
        digest.update(tensor_bytes(whole))
        if name not in growing:
            yield whole
            return
        new = torch.zeros((source_R == NO_ROW).sum(), whole.shape[1], dtype=whole.dtype)
        if how is not None and len(new):
            drawn = draw_rows(how, row_moments(folder, name), name, len(new))
            new = torch.cat([piece.to(whole.dtype) for piece in drawn])
        place_R = np.cumsum(source_R == NO_ROW) - 1
        for start in range(0, len(source_R), ROWS_PER_PIECE):
            rows = source_R[start : start + ROWS_PER_PIECE]
            piece = whole[torch.from_numpy(np.maximum(rows, 0))]
            absent = torch.from_numpy(rows == NO_ROW)
            piece[absent] = new[torch.from_numpy(place_R[start : start + ROWS_PER_PIECE])[absent]]
            yield piece

    write_weights(output, tensor_shapes(folder.shape, len(source_R)), folder.dtype, pieces)
    return digest.hexdigest()


def _without_speech(content: dict[str, Any], num_base: int) -> dict[str, Any]:
    """The tokenizer as it was before its trainer added to it."""
    added = [token for token in content.get("added_tokens", []) if token["id"] < num_base]
    return content | {"added_tokens": added}


def _with_tokens(text: dict[str, Any], layout: Layout) -> dict[str, Any]:
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    new = [
        {"id": layout.num_base + i, "content": token, **plain, "special": True} for i, token in enumerate(layout.tokens)
    ]
    return text | {"added_tokens": [*text.get("added_tokens", []), *new]}
