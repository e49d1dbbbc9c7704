"""Checks of [lora]: what it adapts, what it starts from, and what has no effect or no meaning with it.

In: a configuration; the sizes of the backbone, where they are known. Out: findings. TorchTitan's converter only warns
of a target that matches nothing and takes any rank; both are refused here, before weights are loaded.
"""

from __future__ import annotations

from collections.abc import Iterator

from titan_speech.config.problem import Finding, nearest_name
from titan_speech.config.schema import SpeechConfig
from titan_speech.model.backbones import BackboneShape

TARGETS = ("wqkv", "wo", "w1", "w2", "w3")
_OF_OTHERS = {
    **dict.fromkeys(("wq", "wk", "wv", "q_proj", "k_proj", "v_proj"), "wqkv"),
    **{"o_proj": "wo", "gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"},
}
"""Names that other projects have for the same matrices."""


def check_lora(config: SpeechConfig) -> Iterator[Finding]:
    """Targets, the base, and settings that contradict an adapter."""
    lora = config.lora
    if not lora.is_on:
        return
    yield from _check_targets(lora.targets)
    if not (config.stage.from_ or config.model.initial or config.checkpoint.initial_load_path):
        keys = ("lora.rank", "stage.from", "model.initial")
        yield Finding(keys, "an adapter without a base", "stage.from or model.initial, the weights that it adapts")
    if not config.checkpoint.enable:
        keys = ("checkpoint.enable", "lora.rank")
        yield Finding(keys, "false with lora.rank", "true: the checkpointer loads the base", "true")
    if config.checkpoint.create_seed_checkpoint:
        keys = ("checkpoint.create_seed_checkpoint", "lora.rank")
        yield Finding(keys, "true with lora.rank", "false: an adapter's first weights come with its base", "false")
    if config.stage.optimizer:
        keys = ("stage.optimizer", "lora.rank")
        yield Finding(
            keys, "true with lora.rank", "false: the optimizer state of the base is of other weights", "false"
        )
    if config.optimizer.frozen_backbone_ratio:
        keys = ("optimizer.frozen_backbone_ratio", "lora.rank")
        found = f"{config.optimizer.frozen_backbone_ratio:g} with lora.rank"
        yield Finding(keys, found, "0: LoRA freezes the backbone in every step", "0")
    if config.optimizer.new_rows_lr_factor != 1 and not lora.train_new_rows:
        keys = ("optimizer.new_rows_lr_factor", "lora.train_new_rows")
        found = f"{config.optimizer.new_rows_lr_factor:g} without lora.train_new_rows"
        yield Finding(keys, found, "1, or lora.train_new_rows = true: frozen rows have no rate", "1")


def _check_targets(targets: tuple[str, ...]) -> Iterator[Finding]:
    if not targets:
        yield Finding(("lora.targets",), "no target", f"at least one of {', '.join(TARGETS)}")
    for index, name in enumerate(targets):
        if name in ("lm_head", "tok_embeddings"):
            expected = f"one of {', '.join(TARGETS)}; rows of the vocabulary are trained by lora.train_new_rows = true"
            yield Finding((f"lora.targets.{index}",), f'"{name}"', expected)
        elif name not in TARGETS:
            expected = f"one of {', '.join(TARGETS)}: no other name matches a matrix"
            nearest = f'"{_OF_OTHERS[name]}"' if name in _OF_OTHERS else nearest_name(name, TARGETS)
            yield Finding((f"lora.targets.{index}",), f'"{name}"', expected, nearest)
        elif name in targets[:index]:
            yield Finding((f"lora.targets.{index}",), f'"{name}" twice', "each target once")


def check_lora_widths(config: SpeechConfig, shape: BackboneShape) -> Iterator[Finding]:
    """A rank above a matrix's smaller side would be larger than the matrix, and no more general."""
    lora = config.lora
    widths = {name: min(sides) for name, sides in shape.matrix_widths.items() if name in lora.targets}
    if lora.is_on and widths and lora.rank > min(widths.values()):
        name = min(widths, key=lambda one: widths[one])
        expected = f"at most {widths[name]}, the smaller side of {name} in this backbone"
        yield Finding(("lora.rank", "lora.targets", "model.flavor"), str(lora.rank), expected)
