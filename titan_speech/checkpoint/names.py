"""Which names of a saved state are weights.

In: a name of DCP's flat state. Out: its role. TorchTitan saves weights under their own names and all else under a key
of its own; a checkpoint without those is one of weights only.
"""

from __future__ import annotations

from titan_speech.checkpoint.commit import Role

INDEX = ".metadata"
"""DCP's index: names, shapes, and the place of each piece."""

STATE_KEYS = ("optimizer", "lr_scheduler", "dataloader", "train_state")
"""TorchTitan's keys, without its import: they are part of the format."""

_PREFIXES = tuple(f"{key}." for key in STATE_KEYS)


def role_of_name(name: str) -> Role:
    return "state" if f"{name}.".startswith(_PREFIXES) else "model"
