"""Waveform to log-mel, and log-mel back to a waveform, without any weights.

In: a 16 kHz waveform, or the log-mel of a decoder. Out: 80 log-mel bands at 100 frames per second, or a waveform.

Window 40 ms, hop 10 ms, FFT 1024: 40 ms separates the harmonics of a 100 Hz voice, which Griffin-Lim needs to restore
pitch, and still follows consonants (plosives smear to about 20 ms).

Back: non-negative least squares spreads 80 mel bands over 513 bins (multiplicative updates, which keep the sign and
need no step size), then Griffin-Lim with momentum finds phases that fit. Its start is deterministic: the phase of each
bin advances by the bin's centre frequency, so the same codes always give the same samples, without a random generator.
It costs about 0.1 s of one core per second of audio, most of it in 32 pairs of FFTs.

Shapes: wav_BT batch, samples; spectrum_BKN and magnitude_BKN batch, frequency bins (513), frames; mel_BMN batch, mel
bands (80), frames.
"""

from __future__ import annotations

import math

import torch

SAMPLE_RATE = 16_000
HOP = 160
N_FFT = 1024
WINDOW = 640
MEL_BANDS = 80
MEL_LOW_HZ, MEL_HIGH_HZ = 20.0, 8000.0
FLOOR = 1e-4  # average magnitude of a band, -80 dB of a full-scale sine


def analysis_window(dtype: torch.dtype) -> torch.Tensor:
    """The Hann window of `stft` and `istft`."""
    return torch.hann_window(WINDOW, dtype=dtype)


def stft(wav_BT: torch.Tensor) -> torch.Tensor:
    """Complex spectrum_BKN with T / HOP + 1 frames, frame n centred on sample n * HOP."""
    window = analysis_window(wav_BT.dtype).to(wav_BT.device)
    return torch.stft(wav_BT, N_FFT, HOP, WINDOW, window, center=True, pad_mode="constant", return_complex=True)


def istft(spectrum_BKN: torch.Tensor, length: int) -> torch.Tensor:
    """wav_BT of `length` samples; the inverse of `stft` where the spectrum is consistent."""
    window = analysis_window(spectrum_BKN.real.dtype).to(spectrum_BKN.device)
    return torch.istft(spectrum_BKN, N_FFT, HOP, WINDOW, window, center=True, length=length)


def mel_filters(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """filters_MK: triangles on the HTK mel scale with sum 1, so that a band is a mean of magnitudes."""
    hz_to_mel = 2595.0 * torch.log10(1 + torch.tensor([MEL_LOW_HZ, MEL_HIGH_HZ], dtype=torch.float64) / 700)
    mels = torch.linspace(float(hz_to_mel[0]), float(hz_to_mel[1]), MEL_BANDS + 2, dtype=torch.float64)
    edges = 700 * (10 ** (mels / 2595) - 1)
    bins_K = torch.linspace(0, SAMPLE_RATE / 2, N_FFT // 2 + 1, dtype=torch.float64)
    rise = (bins_K - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    fall = (edges[2:, None] - bins_K) / (edges[2:] - edges[1:-1])[:, None]
    filters_MK = torch.minimum(rise, fall).clamp(min=0)
    return (filters_MK / filters_MK.sum(dim=1, keepdim=True)).to(dtype)


def log_mel(wav_BT: torch.Tensor, filters_MK: torch.Tensor) -> torch.Tensor:
    """mel_BMN with T / HOP frames; T is a multiple of HOP. A sine of amplitude 1 peaks near log(1 / 2)."""
    magnitude_BKN = stft(wav_BT)[..., :-1].abs() * (2.0 / WINDOW)
    return torch.log((filters_MK @ magnitude_BKN).clamp(min=FLOOR))


NNLS_ITERATIONS = 60
GRIFFIN_LIM_ITERATIONS = 32
MOMENTUM = 0.9
_TINY = 1e-8


def mel_to_magnitude(mel_BMN: torch.Tensor, filters_MK: torch.Tensor) -> torch.Tensor:
    """The non-negative magnitude_BKN, on the scale of `stft`, whose mel bands are closest to exp(mel_BMN)."""
    bands_BMN = torch.exp(mel_BMN) * (WINDOW / 2)
    target_BKN = filters_MK.T @ bands_BMN
    magnitude_BKN = target_BKN / (filters_MK.sum(dim=0) ** 2 + _TINY)[:, None]
    for _ in range(NNLS_ITERATIONS):
        magnitude_BKN = magnitude_BKN * target_BKN / (filters_MK.T @ (filters_MK @ magnitude_BKN) + _TINY)
    return magnitude_BKN


def griffin_lim(magnitude_BKN: torch.Tensor) -> torch.Tensor:
    """wav_BT of N * HOP samples whose spectrum has approximately these magnitudes."""
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
    """Unit phasors of a sine at the centre frequency of each bin."""
    bins_K = torch.arange(N_FFT // 2 + 1, dtype=torch.float64)
    frames_N = torch.arange(magnitude_BKN.shape[-1], dtype=torch.float64)
    cycles_KN = (bins_K[:, None] * frames_N * HOP / N_FFT) % 1.0
    phase_KN = torch.polar(torch.ones_like(cycles_KN), 2 * math.pi * cycles_KN)
    return phase_KN.to(torch.complex64).expand(magnitude_BKN.shape[0], -1, -1)
