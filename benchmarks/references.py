"""Published rates and our goals, with their MFU.

In: benchmarks/references/*.json. Out: `Published` runs and `Aim`s; MFU of any rate by the formula of the plan
(titan_speech/model/flops.py): 6 P for each matrix, attention 12 x layers x heads x head_dim x length. `mfu` takes the
full length of a pack, as published values do; `mfu_of_documents` the mean length of the documents of all tokens, since
tokens of packed documents attend to no more. MFU is over the dense bf16 peak, float8 runs too, so that one scale holds
all. On other hardware than the published, rates say little and MFU is what is compared.

    python -m benchmarks.references            the table
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from benchmarks.large_store import speech_lengths
from benchmarks.record import Goal
from titan_speech.estimate.devices import DEVICES
from titan_speech.model.backbones import published_shape
from titan_speech.model.flops import count_flops
from titan_speech.utils.text_table import table_lines

FOLDER = Path(__file__).parent / "references"
GOALS = "goals.json"


@dataclass(frozen=True, kw_only=True)
class Published:
    """One published run."""

    name: str
    case: str
    """Ours that it is compared with."""
    family: str
    flavor: str
    num_rows: int
    seq_len: int
    packs_per_gpu: int
    precision: str
    how: str
    source: str
    hardware: str
    num_gpus: int
    tokens_per_sec_per_gpu: float = 0.0
    model_flops_per_sec_per_gpu: float = 0.0
    """Given by those who publish no rate."""

    @property
    def flops_per_token(self) -> float:
        return flops_per_token(self.family, self.flavor, self.num_rows, self.seq_len)

    @property
    def rate(self) -> float:
        """Tokens per second per GPU."""
        return self.tokens_per_sec_per_gpu or self.model_flops_per_sec_per_gpu / self.flops_per_token

    @property
    def mfu(self) -> float:
        return self.rate * self.flops_per_token / peak_flops("h100")

    @property
    def mfu_of_documents(self) -> float:
        length = mean_document_tokens() if self.seq_len == 2048 else self.seq_len
        at_length = flops_per_token(self.family, self.flavor, self.num_rows, length)
        return self.rate * at_length / peak_flops("h100")


@dataclass(frozen=True)
class Aim:
    """Target of a metric of a case."""

    case: str
    figure: str
    goal: Goal
    why: str


def flops_per_token(family: str, flavor: str, num_rows: int, attended: float) -> float:
    """Training FLOPs of a token whose attention covers `attended` positions."""
    shape = published_shape(family, flavor)
    return count_flops(shape, num_rows).at(attended)


def peak_flops(device: str) -> float:
    return DEVICES[device].bf16_flops


def mfu(tokens_per_sec: float, flops_of_token: float, device: str) -> float:
    return tokens_per_sec * flops_of_token / peak_flops(device)


@cache
def mean_document_tokens() -> float:
    """Mean over tokens of the length of their document, for speech segments of 9.5 s on average."""
    lengths = speech_lengths(40_960).astype(np.float64)
    return float((lengths**2).sum() / lengths.sum())


def published() -> list[Published]:
    return [one for path in sorted(FOLDER.glob("*.json")) if path.name != GOALS for one in _runs(path)]


def _runs(path: Path) -> Iterator[Published]:
    content = json.loads(path.read_text(encoding="utf-8"))
    shared = {name: content[name] for name in ("source", "hardware", "num_gpus")}
    for run in content["runs"]:
        yield Published(**shared, **run)


def aims() -> list[Aim]:
    """For H100-class GPUs."""
    content = json.loads((FOLDER / GOALS).read_text(encoding="utf-8"))
    return [Aim(one["case"], one["figure"], Goal("at least", one["at_least"]), one["why"]) for one in content["goals"]]


def reference_table() -> list[str]:
    head = ("published", "GPUs", "length", "tokens/s/GPU", "MFU", "at documents' length", "how")
    rows = [
        (
            one.name,
            f"{one.num_gpus}",
            f"{one.seq_len:,}",
            f"{one.rate:,.0f}",
            f"{one.mfu:.1%}",
            f"{one.mfu_of_documents:.1%}",
            one.how,
        )
        for one in published()
    ]
    return table_lines([head, *rows], "<>>>>><")


if __name__ == "__main__":
    print(
        "\n".join(
            [*reference_table(), "", *(f"goal: {one.case} {one.figure} {one.goal} ({one.why})" for one in aims())]
        )
    )
