"""How the embeddings of new tokens are initialized.

In: the rows a backbone has, a method and a seed. Out: new rows; the same for the same seed, in whatever pieces they are
asked for.

    mean_cov   mean + sqrt(scale) * z L^T with L L^T the covariance of the old rows and z standard normal
    mean       the mean of the old rows, for every new row
    normal     0.02 * z, as an untrained model is initialized

Moments are summed in fp64 from fp32 pieces. L comes from an eigendecomposition with negative eigenvalues set to 0:
covariances of embeddings are singular in fp32, where a Cholesky decomposition fails. It costs O(D^3), once per matrix.

Shapes: V old rows, N new rows, D model width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch

from titan_speech.errors import ModelError
from titan_speech.hf.model_folder import HFFolder

Method = Literal["mean_cov", "mean", "normal"]
ROWS_PER_PIECE = 8192
NORMAL_STD = 0.02


@dataclass(frozen=True)
class NewRows:
    """Settings of the initialization."""

    method: Method = "mean_cov"
    scale: float = 0.01
    """Factor of the covariance. Measured (benchmarks/expansion.py): 1 starts 1.4 nats above the mean row and stays
    behind, 0.01 starts where the mean does, with rows that differ from the first step on."""
    seed: int = 0


@dataclass(frozen=True)
class Moments:
    """Mean and covariance of the rows of one matrix."""

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
    for piece_VD in _fp32_pieces(folder, name):
        sum_D += piece_VD.double().sum(0)
    if not torch.isfinite(sum_D).all():
        raise ModelError(f"{name} in {folder.path} has values that are not finite (NaN or infinite); download it again")
    mean_D = sum_D / num_rows
    covariance_DD = torch.zeros(dim, dim, dtype=torch.float64)
    for piece_VD in _fp32_pieces(folder, name):
        centred_VD = piece_VD - mean_D.float()
        covariance_DD += (centred_VD.T @ centred_VD).double()
    values_D, vectors_DD = torch.linalg.eigh(covariance_DD / num_rows)
    return Moments(mean_D.float(), (vectors_DD * values_D.clamp(min=0).sqrt()).float())


def row_pieces(folder: HFFolder, name: str) -> Iterator[torch.Tensor]:
    """All rows of a matrix, piece by piece, in the type they are stored in."""
    for start in range(0, folder.num_rows, ROWS_PER_PIECE):
        yield folder.rows(name, start, min(start + ROWS_PER_PIECE, folder.num_rows))


def _fp32_pieces(folder: HFFolder, name: str) -> Iterator[torch.Tensor]:
    return (piece_VD.float() for piece_VD in row_pieces(folder, name))


def initialize_rows(settings: NewRows, moments: Moments, name: str, num_new: int) -> Iterator[torch.Tensor]:
    """New rows of one matrix.

    Args:
        settings: method, scale and seed.
        moments: of the matrix.
        name: of the matrix; each has random numbers of its own.
        num_new: how many rows.

    Yields:
        Pieces [up to 8,192 rows, D] in fp32.
    """
    for start in range(0, num_new, ROWS_PER_PIECE):
        yield _initialize_piece(
            settings, moments, f"{settings.seed}/{name}/{start}", min(ROWS_PER_PIECE, num_new - start)
        )


def _initialize_piece(settings: NewRows, moments: Moments, key: str, num_rows: int) -> torch.Tensor:
    if settings.method == "mean":
        return moments.mean_D.expand(num_rows, -1)
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little") >> 1
    z_ND = torch.randn(num_rows, len(moments.mean_D), generator=torch.Generator().manual_seed(seed))
    if settings.method == "normal":
        return NORMAL_STD * z_ND
    return moments.mean_D + settings.scale**0.5 * z_ND @ moments.factor_DD.T
