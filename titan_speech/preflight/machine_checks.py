"""Checks that need the machine a run starts on: its folders, its device, and the sizes of `model.initial`.

In: a configuration; the sizes of the backbone; the device of this process. Out: for folders, findings at the line that
names them, so that all missing folders of a recipe are reported at once; for the rest, one `ConfigError` with all that
cannot run here and what would. Both come before a process group exists.

A configuration does not say where it will run, and it is checked, estimated and shown on machines without data too. So
folders are only looked for by a run and by `config check --here`, the device only by a run. What is at s3:// is
checked when it is opened.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

from titan_speech.config.problem import Finding
from titan_speech.config.schema import SpeechConfig
from titan_speech.errors import ConfigError
from titan_speech.model.backbones import BackboneShape
from titan_speech.preflight.compatibility import Composition, broken_rules
from titan_speech.preflight.parallel_degrees import check_backbone

FLASH_ATTENTION_3, FLASH_ATTENTION_4 = "flash_attn_interface", "flash_attn.cute"
"""What torch imports for attention of variable length on Hopper, and on Blackwell and in flex's FLASH kernel."""

FLOAT8_CAPABILITY = (8, 9)
"""Lowest compute capability with float8 matrix products."""

SYMMETRIC_MEMORY_CAPABILITY = (9, 0)
"""Lowest compute capability on which TorchTitan puts FSDP's collectives into symmetric memory."""


def refuse_unsupported_run(config: SpeechConfig, shape: BackboneShape) -> None:
    """Refuse a run that this backbone or this device does not support.

    Raises:
        ConfigError: with every reason.
    """
    import torch  # the other checks are made without it

    found = [*broken_rules(Composition(config, shape)), *check_backbone(config, shape)]
    capability = torch.cuda.get_device_capability() if torch.cuda.is_available() else None
    reasons = [str(finding) for finding in found] + missing_device_features(config, capability)
    if reasons:
        raise ConfigError("\n  ".join(["this run cannot be done here:", *reasons]))


def flash_attention_package(attention: str, capability: tuple[int, int] | None) -> str:
    """The package that torch loads for an attention back end on a device; empty if it needs none."""
    if attention == "flex_flash":
        return FLASH_ATTENTION_4
    if attention != "varlen" or capability is None or capability < (9, 0):
        return ""
    return FLASH_ATTENTION_4 if capability >= (10, 0) else FLASH_ATTENTION_3


def is_installed(package: str) -> bool:
    """Whether a package can be found, without importing it."""
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:  # its parent is missing
        return False


def missing_device_features(
    config: SpeechConfig, capability: tuple[int, int] | None, is_installed: Callable[[str], bool] = is_installed
) -> list[str]:
    """What the configuration needs and a device does not have.

    Args:
        config: of the run.
        capability: compute capability of the device; None for a machine without CUDA.
        is_installed: whether a package can be found.

    Returns:
        one message per missing feature, each with what to set instead.
    """
    missing = []
    attention = config.model.attention
    package = flash_attention_package(attention, capability)
    if capability is None and attention in ("flex", "flex_flash", "varlen"):
        missing.append(f'model.attention = "{attention}" needs CUDA, which this machine lacks; use "auto" or "dense"')
    elif package and not is_installed(package):
        missing.append(
            f'model.attention = "{attention}" needs the Python package `{package}` of FlashAttention on this device, '
            'which is not installed: build it from github.com/Dao-AILab/flash-attention, or use "flex", which needs no '
            "other package"
        )
    if capability is None and config.compile.enable_async_tensor_parallel:
        missing.append("compile.enable_async_tensor_parallel needs CUDA, which this machine lacks; set it to false")
    if config.parallelism.enable_fsdp_symm_mem and (capability is None or capability < SYMMETRIC_MEMORY_CAPABILITY):
        missing.append(
            f"parallelism.enable_fsdp_symm_mem needs a device of compute capability 9.0 (H100), {_this(capability)}; "
            "set it to false"
        )
    if capability is None and config.optimizer.implementation == "fused_opt_states_bf16":
        missing.append(
            'optimizer.implementation = "fused_opt_states_bf16" needs CUDA: a CPU\'s fused AdamW has one type for '
            'weights and moments; use "fused"'
        )
    float8 = config.float8
    if float8.recipe != "none" and not float8.emulate and (capability is None or capability < FLOAT8_CAPABILITY):
        missing.append(
            f'float8.recipe = "{float8.recipe}" needs a device of compute capability 8.9 (H100, L40S), '
            f"{_this(capability)}; use "
            '"none", or float8.emulate = true without compile to look at its numbers'
        )
    return missing


def _this(capability: tuple[int, int] | None) -> str:
    return f"this one has {capability[0]}.{capability[1]}" if capability else "there is no CUDA here"


STORE_EXPECTED = (
    "a token store there (titan-speech store build creates one), or another folder or s3://bucket/prefix here"
)
HELD_OUT_EXPECTED = (
    "a held-out set there (titan-speech store held-out creates one), or another path here, or no held_out"
)
TOKENIZER_EXPECTED = "the folder of the backbone's tokenizer"
STAGE_EXPECTED = (
    "the run folder of the previous stage or one of its checkpoints (.../checkpoint/step-N), or s3://bucket/prefix"
)
INITIAL_EXPECTED = "the backbone's Hugging Face folder (config.json, safetensors), or another here"


def check_folders_exist(config: SpeechConfig) -> Iterator[Finding]:
    """A finding for each local folder that the run needs and that is missing."""
    needed = [("tokenizer.path", config.tokenizer.path, TOKENIZER_EXPECTED)]
    if config.model.initial and not config.stage.from_:
        needed.append(("model.initial", config.model.initial, INITIAL_EXPECTED))
    if _starts_from_previous_stage(config):
        needed.append(("stage.from", config.stage.from_, STAGE_EXPECTED))
    stores = config.data.stores
    uses = [(f"data.source.{i}.store", source.store, STORE_EXPECTED) for i, source in enumerate(config.data.source)]
    uses += [(f"data.held_out.{i}", path, HELD_OUT_EXPECTED) for i, path in enumerate(config.data.held_out)]
    needed += [
        (f"data.stores.{path}" if path in stores else key, stores.get(path, path), expected)
        for key, path, expected in uses
    ]
    for key, path, expected in dict.fromkeys(needed):
        if path and "://" not in path and not Path(path).exists():
            yield Finding((key,), f'no folder "{path}"', expected)


def _starts_from_previous_stage(config: SpeechConfig) -> bool:
    """A run resumes from its own checkpoints if there are any, here or perhaps where it uploads them to."""
    checkpoint = config.checkpoint
    if checkpoint.create_seed_checkpoint or config.upload.to:
        return False
    return not any((Path(config.job.dump_folder) / checkpoint.folder).glob("step-*"))
