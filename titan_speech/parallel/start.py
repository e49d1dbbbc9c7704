"""What only the start of a run knows: the device, and the sizes of `model.initial`. Told before a process group exists.

In: a configuration, the sizes of the backbone, the device of this process. Out: one `ConfigError` with everything that
cannot run here and what would. A configuration does not say where it will run, so `config check` cannot know this.
"""

from __future__ import annotations

import torch

from titan_speech.config.tables import SpeechConfig
from titan_speech.errors import ConfigError
from titan_speech.model.shape import BackboneShape
from titan_speech.parallel.features import Composition
from titan_speech.parallel.sizes import check_shape
from titan_speech.parallel.support import broken_rules

FLOAT8_CAPABILITY = (8, 9)
"""Compute capability from which float8 matrix products exist."""


def refuse_what_cannot_run(config: SpeechConfig, shape: BackboneShape) -> None:
    """Refuse a run that this backbone or this device cannot do.

    Raises:
        ConfigError: with every reason.
    """
    found = [*broken_rules(Composition(config, shape)), *check_shape(config, shape)]
    capability = torch.cuda.get_device_capability() if torch.cuda.is_available() else None
    reasons = [str(finding) for finding in found] + missing_on(config, capability)
    if reasons:
        raise ConfigError("\n  ".join(["this run cannot be done here:", *reasons]))


def missing_on(config: SpeechConfig, capability: tuple[int, int] | None) -> list[str]:
    """What a device of that compute capability lacks; None is a machine without CUDA."""
    missing = []
    attention = config.model.attention
    if capability is None and attention in ("flex", "varlen"):
        missing.append(f'model.attention = "{attention}" needs CUDA, and there is none here; use "auto" or "dense"')
    if capability is None and config.compile.enable_async_tensor_parallel:
        missing.append("compile.enable_async_tensor_parallel needs CUDA, and there is none here; set it to false")
    float8 = config.float8
    if float8.recipe != "none" and not float8.emulate and (capability is None or capability < FLOAT8_CAPABILITY):
        here = f"this one has {capability[0]}.{capability[1]}" if capability else "there is no CUDA here"
        missing.append(
            f'float8.recipe = "{float8.recipe}" needs a device of compute capability 8.9 (H100, L40S), {here}; use '
            '"none", or float8.emulate = true without compile to look at its numbers'
        )
    return missing
