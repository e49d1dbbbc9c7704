"""In: a 16 kHz waveform. Out: 80 log-mel bands at 100 frames a second, and the pieces that invert them.

Shapes: wav_BT batch, samples; spectrum_BKN batch, frequency bins (513), frames; mel_BMN batch, mel bands
(80), frames.

Window 40 ms, hop 10 ms, FFT 1024: 40 ms separates the harmonics of a 100 Hz voice, which Griffin-Lim needs
to give back pitch, and still moves with the consonants (plosives smear to about 20 ms).
"""

from __future__ import annotations

import torch

SAMPLE_RATE = 16_000
HOP = 160
N_FFT = 1024
WINDOW = 640
MEL_BANDS = 80
MEL_LOW_HZ, MEL_HIGH_HZ = 20.0, 8000.0
FLOOR = 1e-4  # average magnitude of a band, -80 dB of a full-scale sine


def analysis_window(dtype: torch.dtype) -> torch.Tensor:
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
    """filters_MK: triangles on the HTK mel scale, each with sum 1, so a band is a mean of magnitudes."""
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
