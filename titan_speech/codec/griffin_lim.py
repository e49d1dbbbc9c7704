"""In: log-mel of a decoder. Out: a waveform.

Shapes: mel_BMN, magnitude_BKN (513 bins), wav_BT.

Two steps without any weights. Non-negative least squares spreads 80 mel bands back over 513 bins
(multiplicative updates: they keep the sign and need no step size). Griffin-Lim with momentum then finds
phases that fit. The start is deterministic: each bin's phase advances by its own centre frequency, so the
same codes always give the same samples, with no random generator. Costs about 0.1 s of one core for a
second of audio, most of it in 32 pairs of FFTs.
"""

from __future__ import annotations

import math

import torch

from titan_speech.codec.mel import HOP, N_FFT, WINDOW, istft, stft

NNLS_ITERATIONS = 60
GRIFFIN_LIM_ITERATIONS = 32
MOMENTUM = 0.9
_TINY = 1e-8


def mel_to_magnitude(mel_BMN: torch.Tensor, filters_MK: torch.Tensor) -> torch.Tensor:
    """Non-negative magnitude_BKN whose mel bands are nearest to exp(mel_BMN), on the scale of `stft`."""
    bands_BMN = torch.exp(mel_BMN) * (WINDOW / 2)
    target_BKN = filters_MK.T @ bands_BMN
    magnitude_BKN = target_BKN / (filters_MK.sum(dim=0) ** 2 + _TINY)[:, None]
    for _ in range(NNLS_ITERATIONS):
        magnitude_BKN = magnitude_BKN * target_BKN / (filters_MK.T @ (filters_MK @ magnitude_BKN) + _TINY)
    return magnitude_BKN


def griffin_lim(magnitude_BKN: torch.Tensor) -> torch.Tensor:
    """wav_BT of N * HOP samples whose spectrum has nearly these magnitudes."""
    padded_BKN = torch.cat([magnitude_BKN, magnitude_BKN[..., -1:]], dim=-1)
    length = magnitude_BKN.shape[-1] * HOP
    phase_BKN = _advancing_phase(padded_BKN)
    previous_BKN = torch.zeros_like(phase_BKN)
    for _ in range(GRIFFIN_LIM_ITERATIONS):
        rebuilt_BKN = stft(istft(padded_BKN * phase_BKN, length))
        phase_BKN = rebuilt_BKN - previous_BKN * (MOMENTUM / (1 + MOMENTUM))
        phase_BKN = phase_BKN / (phase_BKN.abs() + _TINY)
        previous_BKN = rebuilt_BKN
    return istft(padded_BKN * phase_BKN, length)


def _advancing_phase(magnitude_BKN: torch.Tensor) -> torch.Tensor:
    """Unit phasors of sines at each bin's centre frequency."""
    bins_K = torch.arange(N_FFT // 2 + 1, dtype=torch.float64)
    frames_N = torch.arange(magnitude_BKN.shape[-1], dtype=torch.float64)
    cycles_KN = (bins_K[:, None] * frames_N * HOP / N_FFT) % 1.0
    phase_KN = torch.polar(torch.ones_like(cycles_KN), 2 * math.pi * cycles_KN)
    return phase_KN.to(torch.complex64).expand(magnitude_BKN.shape[0], -1, -1)
