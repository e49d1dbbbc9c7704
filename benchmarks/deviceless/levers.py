"""Changes of a recipe that might make its step cheaper, each compiled next to the unchanged recipe.

In: nothing. Out: `LEVERS`. What a recipe can be configured to do is given as its words; what only TorchTitan's
overrides do is given as their names, since such an override becomes a configuration key only if it gains something.
"""

from __future__ import annotations

from dataclasses import dataclass

RECIPE = "train_configs/pt_s1_llama3_1b.toml"


@dataclass(frozen=True)
class Lever:
    """One change."""

    name: str
    words: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    """Factories of TorchTitan (`torchtitan.overrides`)."""


LEVERS = (
    Lever("the recipe"),
    Lever("selective recomputation", ("--activation_checkpoint.kind", "selective")),
    Lever("8 packs", ("--training.local_batch_packs", "8")),
    Lever("8 chunks of the loss", ("--loss.num_chunks", "8")),
    Lever("all logits at once", ("--loss.num_chunks", "1")),
    Lever("AdamW's moments in bf16", ("--optimizer.implementation", "fused_opt_states_bf16")),
    Lever("gate and up fused", overrides=("torchtitan.overrides.fused_swiglu.fused_swiglu",)),
)
