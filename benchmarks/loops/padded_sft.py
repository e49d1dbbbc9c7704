"""Fine-tuning as the reference trainer is described: batches padded to their longest sample, not compiled, full logits.

In: words of a configuration of ours and samples per batch. Out: windows. Written from the published description (TTS-1
technical report, arXiv 2507.21138: dynamic padding in SFT, 8 sequences per GPU, no compilation there, AdamW with
clipping, a Hugging Face Llama): a plain loop over shuffled samples, one batch per step, with autocast to bf16 where the
configuration computes in it. Sorting or bucketing by length, which would pad less, is not part of it.
"""

from __future__ import annotations

import sys

import numpy as np
import torch

from benchmarks.bundled import IGNORED, Sample, paired_samples
from benchmarks.loops.hf_model import fresh_model
from benchmarks.talker import Talker
from titan_speech.estimate.offline import run_vocabulary
from titan_speech.preflight.config_checks import load_config

# Shape legend: B samples of a batch, L tokens of its longest.


def main(batch_samples: int, words: list[str]) -> None:
    config = load_config(words).config
    talker, samples, model = Talker(), paired_samples(config), fresh_model(config)
    device, pad_id = model.device, run_vocabulary(config).vocabulary.pad_id
    table = config.optimizer
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=table.lr, betas=table.betas, eps=table.eps, weight_decay=table.weight_decay, fused=True
    )
    in_bf16 = config.training.mixed_precision_param == "bfloat16"
    random = np.random.default_rng(config.data.seed)
    order: list[int] = []
    while talker.at_boundary():
        if len(order) < batch_samples:
            order = random.permutation(len(samples)).tolist()
        batch = padded([samples[order.pop()] for _ in range(batch_samples)], pad_id)
        is_real_BL, labels_BL = batch["attention_mask"], batch["labels"]
        talker.count(is_real_BL.numel(), int((labels_BL[:, 1:] != IGNORED).sum()), int((is_real_BL == 0).sum()))
        with torch.autocast(device.type, torch.bfloat16, enabled=in_bf16):
            loss = model(**{name: value.to(device) for name, value in batch.items()}, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.training.max_norm)
        optimizer.step()
        optimizer.zero_grad()


def padded(samples: list[Sample], pad_id: int) -> dict[str, torch.Tensor]:
    """A batch as long as its longest sample."""
    longest = max(len(sample.ids) for sample in samples)
    shape = (len(samples), longest)
    ids_BL, labels_BL = torch.full(shape, pad_id), torch.full(shape, IGNORED)
    is_real_BL = torch.zeros(shape, dtype=torch.int64)
    for row, sample in enumerate(samples):
        size = len(sample.ids)
        ids_BL[row, :size], labels_BL[row, :size] = torch.tensor(sample.ids), torch.tensor(sample.labels)
        is_real_BL[row, :size] = 1
    return {"input_ids": ids_BL, "attention_mask": is_real_BL, "labels": labels_BL}


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
