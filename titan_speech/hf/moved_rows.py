"""Weights with the rows of the vocabulary in another order.

In: an opened folder, and for each row of the new vocabulary the old row it is, or -1. Out: safetensors; rows that come
from nowhere are drawn as an expansion draws them, all other tensors are copied bit for bit. A matrix of the vocabulary
is in memory as a whole, since its rows come from anywhere.

Shapes: R rows of the new vocabulary, D width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from titan_speech.hf.folder import HFFolder
from titan_speech.hf.rows import ROWS_PER_PIECE, NewRows, draw_rows, row_moments
from titan_speech.hf.tensors import tensor_shapes, vocabulary_tensors
from titan_speech.hf.writer import tensor_bytes, write_weights
from titan_speech.layouts import NO_ROW


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
        drawn = draw_rows(how, row_moments(folder, name), name, int(is_new_R.sum()))
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
