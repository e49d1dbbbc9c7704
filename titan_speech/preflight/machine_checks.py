"""What only the start of a run knows: the device, and the sizes of `model.initial`. Told before a process group exists.

In: a configuration, the sizes of the backbone, the device of this process. Out: one `ConfigError` with everything that
cannot run here and what would. A configuration does not say where it will run, so `config check` cannot know this.

Folders that a run needs and this machine does not have, all told before anything is opened.

In: a configuration. Out: findings, at the line that names the folder: a recipe's places are found in one go and not one
start after another. Only asked of runs and of `config check --here`: a configuration is checked, planned and shown on
machines without data as well. What lies at s3:// is found out by those who open it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from titan_speech.config.problem import Finding
from titan_speech.config.schema import SpeechConfig
from titan_speech.errors import ConfigError
from titan_speech.model.backbones import BackboneShape
from titan_speech.preflight.compatibility import Composition, broken_rules
from titan_speech.preflight.parallel_degrees import check_shape

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


STORE_EXPECTED = (
    "a token store there (titan-speech store build makes one), or another folder or s3://bucket/prefix here"
)
HELD_OUT_EXPECTED = "a gold pack there (titan-speech store held-out makes one), or another place here, or no held_out"
TOKENIZER_EXPECTED = "the folder of the backbone's tokenizer"
STAGE_EXPECTED = (
    "the run folder of the stage before or one of its checkpoints (.../checkpoint/step-N), or s3://bucket/prefix"
)
INITIAL_EXPECTED = "the backbone's Hugging Face folder (config.json, safetensors), or another here"


def check_folders_exist(config: SpeechConfig) -> Iterator[Finding]:
    needed = [("tokenizer.path", config.tokenizer.path, TOKENIZER_EXPECTED)]
    if config.model.initial and not config.stage.from_:
        needed.append(("model.initial", config.model.initial, INITIAL_EXPECTED))
    if _begins_from_the_stage_before(config):
        needed.append(("stage.from", config.stage.from_, STAGE_EXPECTED))
    stores = config.data.stores
    uses = [(f"data.source.{i}.store", source.store, STORE_EXPECTED) for i, source in enumerate(config.data.source)]
    uses += [(f"data.held_out.{i}", place, HELD_OUT_EXPECTED) for i, place in enumerate(config.data.held_out)]
    needed += [
        (f"data.stores.{place}" if place in stores else key, stores.get(place, place), what)
        for key, place, what in uses
    ]
    for key, place, expected in dict.fromkeys(needed):
        if place and "://" not in place and not Path(place).exists():
            yield Finding((key,), f'no folder "{place}"', expected)


def _begins_from_the_stage_before(config: SpeechConfig) -> bool:
    """A run with checkpoints of its own, here or perhaps where it uploads them to, goes on from those."""
    table = config.checkpoint
    if table.create_seed_checkpoint or config.upload.to:
        return False
    return not any((Path(config.job.dump_folder) / table.folder).glob("step-*"))
