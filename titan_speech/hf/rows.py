"""Where the rows of new tokens come from.

In: the rows a backbone has, a method and a seed. Out: new rows, the same for the same seed however they are cut into
pieces.

    mean_cov   mean + sqrt(scale) * z L^T with L L^T the covariance of the old rows and z standard normal
    mean       the mean of the old rows, for every new row
    normal     0.02 * z, as a model begins that was never trained

Moments are added up in fp64 from fp32 pieces. L comes from an eigendecomposition with negative eigenvalues set to 0:
covariances of embeddings are singular to fp32, where Cholesky fails. It costs O(D^3), once a matrix.

Shapes: V old rows, N new rows, D model width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch

from titan_speech.errors import ModelError
from titan_speech.hf.folder import HFFolder

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


def draw_rows(how: NewRows, moments: Moments, name: str, num_new: int) -> Iterator[torch.Tensor]:
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
