"""Fit the embedded codec's autoencoder on the train split of a corpus.

In: DIR of scripts/build_corpus.py. Out: FILE, fp16 weights of at most 3 MB: the exponential average of the fit.

The loss decides how the 16 bits per frame are used. Log-mel in nepers at 40 ms windows shows each harmonic of a
voice, so a plain loss spends bits on pitch that vowels and consonants need: errors of the envelope (nine bands
averaged) count twice. A band near the noise floor counts a quarter of a loud one. Crops are 2 s; 80 % are human
speech; 40 % are resampled by 0.85 to 1.18 (other pitch, formants and speed) and all get +-4 dB: four human voices
alone would not generalize to an unseen one.

All log-mels are computed once (2.4 GB of memory), which leaves the CPU to the network: 7 steps per second on one core.
The learning rate follows the clock, so a slower machine takes fewer steps in the same --seconds. Arithmetic is
bfloat16 (twice the steps on a CPU with AMX); the encoder later runs in double precision on the fp16 weights.

    python scripts/fit_codec.py --corpus corpus --output titan_speech/codec/demo/embedded.safetensors --seconds 2400
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from corpus.rows import read_speech
from safetensors.torch import load_file
from safetensors.torch import save as serialize
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from titan_speech.codec.demo.autoencoder import MelAutoencoder
from titan_speech.codec.demo.mel import FLOOR, HOP, SAMPLE_RATE, log_mel, mel_filters
from titan_speech.codec.wav import read_audio
from titan_speech.errors import DataError

CROP_FRAMES = 200
BATCH = 8
PEAK_LR, END_LR = 2e-3, 2e-5
WARMUP_FRACTION = 0.02
EMA_DECAY = 0.999
SHARES = {"asterisk": 0.80, "espeak": 0.12, "festvox": 0.08}
RATES = (0.85, 0.92, 1.09, 1.18)  # besides 1.0, at two offsets of half a hop
RESAMPLED_SHARE = 0.4
GAIN_DB = 4.0
ENVELOPE_BANDS = 9  # wider than the distance between harmonics
QUIET_WEIGHT, QUIET_NEPERS = 0.25, -8.2
MAX_BYTES = 3_000_000


@dataclass(frozen=True)
class Bank:
    """All log-mels of one kind of source end to end, so crops are sampled in proportion to duration."""

    share: float
    natural: list[torch.Tensor]  # mel_MN float16
    resampled: list[torch.Tensor]


def load_banks(corpus: Path) -> list[Bank]:
    rows = read_speech(corpus, "train")
    banks = []
    for kind, share in SHARES.items():
        wavs = [read_audio(corpus / row.wav) for row in rows if row.dataset_source.startswith(kind)]
        if not wavs:
            raise DataError(f"{corpus}/corpus.jsonl has no train rows of {kind}; rebuild it with build_corpus.py")
        samples_T = np.concatenate(wavs)
        natural = [mel_of(samples_T), mel_of(samples_T[HOP // 2 :])]
        banks.append(Bank(share, natural, [mel_of(resampled(samples_T, rate)) for rate in RATES]))
        print(f"{kind:10s} {len(samples_T) / SAMPLE_RATE / 3600:.2f} h, share {share:.0%}", flush=True)
    return banks


def resampled(samples_T: np.ndarray, rate: float) -> np.ndarray:
    """Linear interpolation: faster and higher for a rate above 1."""
    positions = np.arange(0, len(samples_T) - 1, rate)
    return np.interp(positions, np.arange(len(samples_T)), samples_T).astype(np.float32)


def mel_of(samples_T: np.ndarray) -> torch.Tensor:
    """mel_MN float16, one minute at a time."""
    filters_MK, minute = mel_filters(), 60 * SAMPLE_RATE
    pieces = [samples_T[i : i + minute] for i in range(0, len(samples_T) - minute + 1, minute)]
    mels = [log_mel(torch.from_numpy(piece)[None], filters_MK)[0].half() for piece in pieces]
    return torch.cat(mels, dim=1)


def draw_crop(banks: list[Bank], random: np.random.Generator) -> torch.Tensor:
    """mel_MN of CROP_FRAMES, perhaps resampled, at a random level."""
    bank = banks[random.choice(len(banks), p=[b.share for b in banks])]
    variants = bank.resampled if random.random() < RESAMPLED_SHARE else bank.natural
    mel_MN = variants[random.integers(len(variants))]
    start = int(random.integers(0, mel_MN.shape[1] - CROP_FRAMES))
    gain_nepers = random.uniform(-GAIN_DB, GAIN_DB) * math.log(10) / 20
    return (mel_MN[:, start : start + CROP_FRAMES].float() + gain_nepers).clamp(min=math.log(FLOOR))


def draw_batch(banks: list[Bank], random: np.random.Generator) -> torch.Tensor:
    return torch.stack([draw_crop(banks, random) for _ in range(BATCH)])


def mel_loss(predicted_BMN: torch.Tensor, target_BMN: torch.Tensor) -> torch.Tensor:
    """Fine structure, and twice as much the envelope, each with its change over time; in nepers."""
    loud_BMN = torch.sigmoid((target_BMN - QUIET_NEPERS) / 0.3)
    error_BMN = (predicted_BMN - target_BMN) * (QUIET_WEIGHT + (1 - QUIET_WEIGHT) * loud_BMN)
    envelope_BMN = nn.functional.avg_pool1d(error_BMN.transpose(1, 2), ENVELOPE_BANDS, stride=3).transpose(1, 2)
    fine = error_BMN.abs().mean() + 0.5 * error_BMN.square().mean() + error_BMN.diff(dim=-1).abs().mean()
    return 0.5 * fine + 2.0 * (envelope_BMN.abs().mean() + envelope_BMN.diff(dim=-1).abs().mean())


def learning_rate(fraction: float) -> float:
    """Linear warmup, then cosine, over the fraction of the time that has passed."""
    if fraction < WARMUP_FRACTION:
        return PEAK_LR * fraction / WARMUP_FRACTION
    progress = (fraction - WARMUP_FRACTION) / (1 - WARMUP_FRACTION)
    return END_LR + (PEAK_LR - END_LR) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def fit(model: MelAutoencoder, banks: list[Bank], seconds: float, seed: int, output: Path) -> nn.Module:
    """Train for `seconds`; returns the averaged model, which is also saved every 1000 steps."""
    random = np.random.default_rng(seed)
    if not bool(model.mean_M.any()):
        set_normalisation(model, torch.cat([draw_batch(banks, random) for _ in range(40)]))
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_LR, betas=(0.9, 0.98), weight_decay=0.01)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(EMA_DECAY))
    begin, step, recent = time.monotonic(), 0, []
    while (elapsed := time.monotonic() - begin) < seconds:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(elapsed / seconds)
        recent.append(train_step(model, optimizer, draw_batch(banks, random)))
        average.update_parameters(model)
        step += 1
        if step % 200 == 0:
            print(f"step {step:6d}  {elapsed:6.0f} s  loss {np.mean(recent[-200:]):.4f}", flush=True)
        if step % 1000 == 0:
            save(average.module, output)
    return average.module


def train_step(model: MelAutoencoder, optimizer: torch.optim.Optimizer, mel_BMN: torch.Tensor) -> float:
    with torch.autocast("cpu", torch.bfloat16):
        predicted_BMN = model(mel_BMN)
    loss = mel_loss(predicted_BMN.float(), mel_BMN)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.item()


def set_normalisation(model: MelAutoencoder, mel_BMN: torch.Tensor) -> None:
    model.mean_M.copy_(mel_BMN.mean(dim=(0, 2)))
    model.std_M.copy_(mel_BMN.std(dim=(0, 2)))


def save(model: nn.Module, output: Path) -> None:
    tensors = {name: tensor.detach().half().contiguous() for name, tensor in model.state_dict().items()}
    temporary = output.with_suffix(".partial")
    temporary.write_bytes(serialize(tensors))
    if temporary.stat().st_size > MAX_BYTES:
        raise DataError(f"weights take {temporary.stat().st_size} bytes, more than {MAX_BYTES}: make the model smaller")
    temporary.replace(output)
    print(f"wrote {output}: {output.stat().st_size:,d} bytes", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--start-from", type=Path, help="weights of an earlier fit to continue")
    parser.add_argument("--seconds", type=float, default=2400.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    model = MelAutoencoder()
    if arguments.start_from:
        model.load_state_dict({name: tensor.float() for name, tensor in load_file(arguments.start_from).items()})
    print(f"{sum(p.numel() for p in model.parameters()):,d} parameters", flush=True)
    banks = load_banks(arguments.corpus)
    save(fit(model, banks, arguments.seconds, arguments.seed, arguments.output), arguments.output)


if __name__ == "__main__":
    main()
