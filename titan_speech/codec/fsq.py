"""In: eight real numbers a frame. Out: one index 0..65,535, and the way back.

Finite scalar quantisation with 4 levels in each of 8 dimensions. The index is the base-4 number whose least
significant digit is dimension 0, and digit d stands for the value (d - 2) / 2: XCodec2's convention for
index and values. The codebook has no weights: nothing can collapse, and an index is meaningful by its
digits alone.
"""

from __future__ import annotations

import math

import torch

LEVELS = 4
DIMENSIONS = 8
CODEBOOK_SIZE = LEVELS**DIMENSIONS
_HALF = (LEVELS - 1) * 1.001 / 2
_OFFSET = 0.5
_SHIFT = math.atanh(_OFFSET / _HALF)


def bound(latent_BDF: torch.Tensor) -> torch.Tensor:
    """Squash to the range that rounds to -2, -1, 0, 1."""
    return torch.tanh(latent_BDF + _SHIFT) * _HALF - _OFFSET


def quantise(latent_BDF: torch.Tensor) -> torch.Tensor:
    """Values -1, -0.5, 0, 0.5, with the gradient of `bound` passed straight through the rounding."""
    bounded = bound(latent_BDF)
    return (bounded + (bounded.round() - bounded).detach()) / (LEVELS / 2)


def values_to_codes(values_BDF: torch.Tensor) -> torch.Tensor:
    """codes_BF int64 of quantised values."""
    digits = (values_BDF * (LEVELS / 2) + LEVELS / 2).round().long()
    weights_D = LEVELS ** torch.arange(DIMENSIONS, device=values_BDF.device)
    return (digits * weights_D[:, None]).sum(dim=-2)


def codes_to_values(codes_BF: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """values_BDF of codes_BF."""
    weights_D = LEVELS ** torch.arange(DIMENSIONS, device=codes_BF.device)
    digits = (codes_BF.long()[..., None, :] // weights_D[:, None]) % LEVELS
    return (digits.to(dtype) - LEVELS / 2) / (LEVELS / 2)
