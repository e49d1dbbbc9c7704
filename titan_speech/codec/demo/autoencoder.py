"""The network of the bundled codec: log-mel to codes by finite scalar quantization (FSQ), and codes to log-mel.

In: log-mel at 100 Hz. Out: 8 quantized numbers per frame at 50 Hz, as one code 0..65,535, and log-mel again.

The quantizer has 4 levels in each of 8 dimensions. A code is the base-4 number whose least significant digit is
dimension 0, and digit d stands for the value (d - 2) / 2: XCodec2's convention for codes and values. The codebook has
no weights, so it cannot collapse, and a code is meaningful by its digits alone.

Two mel frames are stacked as channels before the first layer, so every layer runs at 50 Hz: half the arithmetic of a
stride-2 convolution in the middle, for the same frame rate. The decoder is the larger half: what the 16 bits of a frame
leave out has to be restored from the frames around it (its outputs see +-0.5 s).

Shapes: mel_BMN 80 bands at 100 Hz; stacked_BCF two mel frames as 160 channels at 50 Hz; latent_BDF 8 channels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from titan_speech.codec.demo.mel import MEL_BANDS

LEVELS = 4
DIMENSIONS = 8
CODEBOOK_SIZE = LEVELS**DIMENSIONS
_HALF = (LEVELS - 1) * 1.001 / 2
_OFFSET = 0.5
_SHIFT = math.atanh(_OFFSET / _HALF)


def bound(latent_BDF: torch.Tensor) -> torch.Tensor:
    """Squash latents to the range that rounds to -2, -1, 0, 1."""
    return torch.tanh(latent_BDF + _SHIFT) * _HALF - _OFFSET


def quantize(latent_BDF: torch.Tensor) -> torch.Tensor:
    """Values -1, -0.5, 0, 0.5, with the gradient of `bound` passed straight through the rounding."""
    bounded = bound(latent_BDF)
    return (bounded + (bounded.round() - bounded).detach()) / (LEVELS / 2)


def values_to_codes(values_BDF: torch.Tensor) -> torch.Tensor:
    """int64 codes_BF of quantized values."""
    digits = (values_BDF * (LEVELS / 2) + LEVELS / 2).round().long()
    weights_D = LEVELS ** torch.arange(DIMENSIONS, device=values_BDF.device)
    return (digits * weights_D[:, None]).sum(dim=-2)


def codes_to_values(codes_BF: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """The quantized values_BDF of codes."""
    weights_D = LEVELS ** torch.arange(DIMENSIONS, device=codes_BF.device)
    digits = (codes_BF.long()[..., None, :] // weights_D[:, None]) % LEVELS
    return (digits.to(dtype) - LEVELS / 2) / (LEVELS / 2)


@dataclass(frozen=True)
class AutoencoderConfig:
    """Sizes of the autoencoder; 1.4 M parameters."""

    channels: int = 160
    kernel: int = 5
    encoder_dilations: tuple[int, ...] = (1, 1, 2)
    decoder_dilations: tuple[int, ...] = (1, 2, 1, 3, 1)


class ResidualBlock(nn.Module):
    """Normalize over channels, convolve over time, mix channels, add."""

    def __init__(self, channels: int, kernel: int, dilation: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        padding = dilation * (kernel // 2)
        self.over_time = nn.Conv1d(channels, channels, kernel, dilation=dilation, padding=padding)
        self.over_channels = nn.Conv1d(channels, channels, 1)
        nn.init.zeros_(self.over_channels.weight)

    def forward(self, hidden_BCF: torch.Tensor) -> torch.Tensor:
        normed_BCF = self.norm(hidden_BCF.transpose(1, 2)).transpose(1, 2)
        mixed_BCF = self.over_channels(nn.functional.gelu(self.over_time(normed_BCF)))
        return hidden_BCF + mixed_BCF


class MelAutoencoder(nn.Module):
    """log-mel -> FSQ values -> log-mel. `mean_M` and `std_M` normalize the bands and are saved with the weights."""

    mean_M: torch.Tensor
    std_M: torch.Tensor

    def __init__(self, config: AutoencoderConfig | None = None) -> None:
        super().__init__()
        config = config or AutoencoderConfig()
        c, k = config.channels, config.kernel
        self.register_buffer("mean_M", torch.zeros(MEL_BANDS))
        self.register_buffer("std_M", torch.ones(MEL_BANDS))
        encoder = [ResidualBlock(c, k, d) for d in config.encoder_dilations]
        decoder = [ResidualBlock(c, k, d) for d in config.decoder_dilations]
        self.encoder = nn.Sequential(nn.Conv1d(2 * MEL_BANDS, c, 3, padding=1), *encoder, nn.Conv1d(c, DIMENSIONS, 1))
        self.decoder = nn.Sequential(nn.Conv1d(DIMENSIONS, c, 3, padding=1), *decoder, nn.Conv1d(c, 2 * MEL_BANDS, 1))

    def encode(self, mel_BMN: torch.Tensor) -> torch.Tensor:
        """Quantized values_BDF; N is even, F = N / 2."""
        normal_BMN = (mel_BMN - self.mean_M[:, None]) / self.std_M[:, None]
        return quantize(self.encoder(stack_frames(normal_BMN)))

    def decode(self, values_BDF: torch.Tensor) -> torch.Tensor:
        """mel_BMN of quantized values; N = 2 F."""
        normal_BMN = unstack_frames(self.decoder(values_BDF))
        return normal_BMN * self.std_M[:, None] + self.mean_M[:, None]

    def forward(self, mel_BMN: torch.Tensor) -> torch.Tensor:
        return self.decode(self.encode(mel_BMN))


def stack_frames(mel_BMN: torch.Tensor) -> torch.Tensor:
    """Frames 2f and 2f + 1 become the first and second half of the channels of frame f."""
    return torch.cat([mel_BMN[..., 0::2], mel_BMN[..., 1::2]], dim=1)


def unstack_frames(stacked_BCF: torch.Tensor) -> torch.Tensor:
    """The inverse of `stack_frames`."""
    return torch.stack(stacked_BCF.chunk(2, dim=1), dim=-1).flatten(start_dim=2)
