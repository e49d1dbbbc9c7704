"""Which checkpoints go and which lose their optimizer, as a pure function.

In: what there is, and the policy. Out: steps to delete and steps to thin to their weights. Newest first, the last
`keep_last_full` that are full stay full; of the others the last `keep_last_model_only` stay as weights, the rest goes.
Left as they are: milestones, what is pinned, what somebody holds (an upload or an export that runs) or waits for, and
what is not sound, since nothing is known of it. One sound checkpoint always stays.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from titan_speech.checkpoint.commit import Kind


@dataclass(frozen=True)
class Kept:
    """A checkpoint that is there."""

    step: int
    kind: Kind = "full"
    is_sound: bool = True
    is_pinned: bool = False
    is_held: bool = False
    is_waiting: bool = False
    """To be sent to an address that keeps everything."""


@dataclass(frozen=True)
class RetentionPolicy:
    """The settings of [checkpoint] that say what stays."""

    keep_last_full: int
    """0 keeps everything."""

    keep_last_model_only: int
    milestone_every_steps: int
    """0: none."""

    def is_milestone(self, step: int) -> bool:
        return self.milestone_every_steps > 0 and step > 0 and step % self.milestone_every_steps == 0


@dataclass(frozen=True)
class Removal:
    """What is to be done, in rising order of steps."""

    delete: tuple[int, ...] = ()
    thin: tuple[int, ...] = ()


def removal(kept: Collection[Kept], policy: RetentionPolicy) -> Removal:
    """What the policy does not keep."""
    if policy.keep_last_full == 0:
        return Removal()
    num_full = num_model = 0
    delete, thin = [], []
    for one in sorted((one for one in kept if one.is_sound), key=lambda one: -one.step):
        if one.kind == "full" and num_full < policy.keep_last_full:
            num_full += 1
        elif one.is_pinned or one.is_held or one.is_waiting or policy.is_milestone(one.step):
            continue
        elif num_model < policy.keep_last_model_only or num_full == 0:
            num_model += 1
            thin += [one.step] if one.kind == "full" else []
        else:
            delete.append(one.step)
    return Removal(tuple(sorted(delete)), tuple(sorted(thin)))
