"""Compares a run that was killed again and again with one that was not.

In: the folders of two runs of `tests/support/digest_train.py`: metrics.jsonl, and packs/LIFE-RANK.jsonl.
Out: `Comparison`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.support.runs import figures, losses, metrics_lines

Packs = dict[int, dict[int, str]]
"""By step the digest of the pack in each slot."""


@dataclass(frozen=True)
class Comparison:
    """The killed run against the one that was not."""

    num_steps: int
    num_logged_steps_of_all_lives: int
    num_packs_compared: int
    """Of all lives: a step that was trained again counts again."""

    same_pack_in_every_slot_of_every_step: bool
    """By digest; also in steps that a kill cut short, as far as they came."""

    same_tokens_of_each_group_in_every_step: bool
    largest_relative_gap_of_a_loss: float
    """Of all steps and groups; some have few tokens, or a loss near 0."""

    relative_gap_of_the_final_loss: float
    """Groups included."""

    gap_of_the_mean_loss_by_step: dict[int, float]
    """At each power of two and in the last step: how rounding grows as training goes on."""

    equal_to_the_last_bit: bool
    """Losses, tokens, gradient norms and learning rates of every step, in its last life."""


def compare(killed: Path, whole: Path) -> Comparison:
    expected, found = losses(figures(whole)), losses(figures(killed))
    lines = [line for line in metrics_lines(killed) if "event" not in line]
    gaps = {step: gap(found[step], of_step, ("loss",)) for step, of_step in expected.items()}
    is_same_data = sorted(found) == sorted(expected)
    last = max(expected)
    lives = packs_of_lives(killed)
    return Comparison(
        num_steps=last,
        num_logged_steps_of_all_lives=len(lines),
        num_packs_compared=sum(len(packs) for steps in lives.values() for packs in steps.values()),
        same_pack_in_every_slot_of_every_step=have_same_packs(lives, packs_of_lives(whole)),
        same_tokens_of_each_group_in_every_step=is_same_data
        and all(tokens(line) == tokens(expected[line["step"]]) for line in lines),
        largest_relative_gap_of_a_loss=max(
            gap(found[step], of_step, all_losses(of_step)) for step, of_step in expected.items()
        ),
        relative_gap_of_the_final_loss=gap(found[last], expected[last], all_losses(expected[last])),
        gap_of_the_mean_loss_by_step={step: gaps[step] for step in gaps if not step & (step - 1) or step == last},
        equal_to_the_last_bit=found == expected,
    )


def packs_of_lives(folder: Path) -> dict[int, Packs]:
    """What the ranks of each life of a run trained on; a line that a kill cut short is left out."""
    lives: dict[int, Packs] = {}
    for path in (folder / "packs").glob("*.jsonl"):
        steps = lives.setdefault(int(path.stem.split("-")[0]), {})
        for line in path.read_text().splitlines():
            if line.endswith("}}"):
                record = json.loads(line)
                packs = {int(slot): digest for slot, digest in record["packs"].items()}
                steps.setdefault(record["step"], {}).update(packs)
    return lives


def have_same_packs(lives: dict[int, Packs], whole: dict[int, Packs]) -> bool:
    """Whether every pack of every life is that of the uninterrupted run, and no step lacks one in its last life."""
    (expected,) = whole.values()
    are_same = all(
        packs.items() <= expected.get(step, {}).items() for steps in lives.values() for step, packs in steps.items()
    )
    last = {step: packs for life in sorted(lives) for step, packs in lives[life].items()}
    return are_same and last == expected


def tokens(figures_of_step: dict[str, float]) -> dict[str, float]:
    """Trained tokens of each group."""
    return {name: value for name, value in figures_of_step.items() if name.startswith("trained_tokens/")}


def all_losses(figures_of_step: dict[str, float]) -> list[str]:
    return [name for name in figures_of_step if name == "loss" or name.startswith("loss/")]


def gap(found: dict[str, float], expected: dict[str, float], names: Iterable[str]) -> float:
    """The largest relative gap of these losses."""
    return max(abs(found[name] - expected[name]) / abs(expected[name]) for name in names)
