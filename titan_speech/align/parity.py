"""Whether trainer, transformers and generator give the same tokens the same log-probability, before a first step.

In: an exported folder, the same model loaded by transformers, and prompts. Out: `PolicyParity`: the model answers the
prompts as it will be sampled (left-padded batch, key-value cache), and each token of the answers has a log-probability
by three ways:

    trainer       titan_speech's own forward pass, one answer at a time, without padding
    transformers  the forward pass that reward training takes its gradients from, on the padded batch
    generator     the logits that each token was sampled from, step by step with the cache

Sampling from one model and training another shows only as noise in the reward; here it is refused before it costs
anything. The bounds are those of an export (evaluate/parity.py). Eight answers of a 1.7B in fp32 need 7 GB for
the trainer's copy, which is freed before training begins.

Shapes: B answers, T tokens of prompt and answer, A of them of the longest answer, V rows of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from titan_speech.errors import ModelError
from titan_speech.evaluate.parity import BOUNDS, QUANTILES, ParityBounds
from titan_speech.generate.load import load_folder

NUM_PROMPTS = 8
"""Prompts that are answered for the comparison, once each."""
EDGES = tuple(10.0**power for power in range(-8, 1))
"""Borders of the histogram in nats; what is below the first and above the last is in the first and last bin."""


@dataclass(frozen=True)
class LogProbabilityDifference:
    """How far one way is from the trainer's log-probabilities, in nats."""

    median: float
    p99: float
    greatest: float
    counts: tuple[int, ...]
    """Tokens in each bin of `EDGES`."""

    @classmethod
    def of(cls, apart_N: NDArray[np.floating]) -> LogProbabilityDifference:
        """Of absolute differences."""
        inside_N = np.clip(apart_N, EDGES[0], EDGES[-1])
        median, p99, greatest = (float(one) for one in np.quantile(apart_N, QUANTILES))
        return cls(median, p99, greatest, tuple(np.histogram(inside_N, bins=np.array(EDGES))[0].tolist()))

    def is_within(self, bounds: ParityBounds) -> bool:
        """Whether every quantile is; NaN is not."""
        return self.median <= bounds.median and self.p99 <= bounds.p99 and self.greatest <= bounds.greatest


@dataclass(frozen=True)
class PolicyParity:
    """What a comparison found; `record` is what parity.json holds."""

    num_answers: int
    num_tokens: int
    apart: dict[str, LogProbabilityDifference]
    """By way: transformers, generator."""
    bounds: ParityBounds

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return {**asdict(self), "edges": EDGES}

    def check(self) -> None:
        """Refuse a way that computes another model.

        Raises:
            ModelError: log-probabilities are further apart than the bounds.
        """
        wrong = [
            f"{way} by {apart.median:.2g} (median), {apart.p99:.2g} (99 %) and {apart.greatest:.2g} (most)"
            for way, apart in self.apart.items()
            if not apart.is_within(self.bounds)
        ]
        if wrong:
            most = f"{self.bounds.median:g}, {self.bounds.p99:g} and {self.bounds.greatest:g}"
            raise ModelError(
                f"log-probabilities of the same {self.num_tokens:,} tokens differ from the trainer's: "
                f"{'; '.join(wrong)}; expected at most {most} nats. What is sampled would not be what is trained: "
                "export the model again, and check it with titan-speech model compare"
            )


def measure_parity(
    folder: Path, model: Any, prefixes: Sequence[NDArray[np.int64]], stop_id: int, sampling: dict[str, Any]
) -> PolicyParity:
    """Answer prompts and compare.

    Args:
        folder: the exported folder that `model` was loaded from.
        model: transformers' causal language model, in a type that has bounds (evaluate/parity.py).
        prefixes: token ids of prompts.
        stop_id: ends an answer.
        sampling: how it is sampled: temperature, top_k, max_new_tokens.
    """
    ids_BT, mask_BT, num_prompt = _padded(prefixes)
    was_training = model.training
    model.eval()
    with torch.inference_mode(), torch.random.fork_rng():
        torch.manual_seed(0)
        answered = model.generate(
            ids_BT.to(model.device),
            attention_mask=mask_BT.to(model.device),
            do_sample=True,
            eos_token_id=stop_id,
            pad_token_id=stop_id,
            output_logits=True,
            return_dict_in_generate=True,
            **sampling,
        )
        ids_BT = answered.sequences
        answer_BA = ids_BT[:, num_prompt:]
        is_answer_BA = ((answer_BA == stop_id).cumsum(-1) - (answer_BA == stop_id).long()) == 0
        mask_BT = torch.cat([mask_BT.to(ids_BT.device), is_answer_BA.long()], dim=1)
        generator_BA = _log_probabilities(torch.stack(answered.logits, dim=1), answer_BA)
        logits_BTV = model(input_ids=ids_BT, attention_mask=mask_BT).logits[:, num_prompt - 1 : -1]
        transformers_BA = _log_probabilities(logits_BTV, answer_BA)
        del logits_BTV, answered
        trainer = _trainer_log_probabilities(load_folder(folder), ids_BT.cpu(), mask_BT.cpu(), num_prompt)
    model.train(was_training)
    kept_BA = is_answer_BA.cpu()
    ways = {"transformers": transformers_BA, "generator": generator_BA}
    expected_N = torch.cat(trainer).double().numpy()
    apart = {
        name: LogProbabilityDifference.of(np.abs(way_BA.cpu()[kept_BA].double().numpy() - expected_N))
        for name, way_BA in ways.items()
    }
    return PolicyParity(len(prefixes), len(expected_N), apart, BOUNDS[str(model.dtype).removeprefix("torch.")])


def _padded(prefixes: Sequence[NDArray[np.int64]]) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Ids and mask, padded on the left as reward training does, and their length."""
    longest = max(map(len, prefixes))
    ids_BT, mask_BT = (torch.zeros(len(prefixes), longest, dtype=torch.long) for _ in range(2))
    for row, prefix in enumerate(prefixes):
        ids_BT[row, longest - len(prefix) :] = torch.from_numpy(prefix)
        mask_BT[row, longest - len(prefix) :] = 1
    return ids_BT, mask_BT, longest


def _log_probabilities(logits_BAV: torch.Tensor, ids_BA: torch.Tensor) -> torch.Tensor:
    logits_BAV = logits_BAV.float()
    return logits_BAV.gather(-1, ids_BA[..., None])[..., 0] - logits_BAV.logsumexp(-1)


def _trainer_log_probabilities(
    model: Any, ids_BT: torch.Tensor, mask_BT: torch.Tensor, num_prompt: int
) -> list[torch.Tensor]:
    """Of the tokens of each answer."""
    found = []
    for ids_T, mask_T in zip(ids_BT, mask_BT.bool(), strict=True):
        row_1T = ids_T[mask_T][None]
        positions_1T = torch.arange(row_1T.shape[1])[None]
        start = int(mask_T[:num_prompt].sum())
        logits_1TV = model(row_1T, positions_1T, model.get_attention_masks(positions_1T))[:, start - 1 : -1]
        found.append(_log_probabilities(logits_1TV, row_1T[:, start:])[0])
    return found
