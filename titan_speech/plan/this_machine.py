"""A configuration as a machine without CUDA can build it.

In: a configuration. Out: the same without what asks for CUDA or for weights of another place, and what that was. It
needs no torch, whose import is a third of the time of a plan.
"""

from __future__ import annotations

from dataclasses import replace

from titan_speech.config.tables import SpeechConfig


def on_this_machine(config: SpeechConfig) -> tuple[SpeechConfig, list[str]]:
    """The configuration without what asks for CUDA or for weights of another place, and what was left out."""
    kind = config.activation_checkpoint.kind
    switched_on = {
        "compilation": config.compile.enable,
        "CUDA graphs": config.training.cuda_graphs,
        "float8": config.float8.recipe != "none",
        "the compiler's own recomputation (selective instead)": kind == "memory_budget",
    }
    changed = replace(
        config,
        compile=replace(config.compile, enable=False, enable_async_tensor_parallel=False),
        float8=replace(config.float8, recipe="none", emulate=False),
        parallelism=replace(config.parallelism, context_parallel_load_balancer="headtail"),
        activation_checkpoint=replace(
            config.activation_checkpoint, kind="selective" if kind == "memory_budget" else kind
        ),
        training=replace(config.training, cuda_graphs=False),
        model=replace(config.model, attention="dense", initial=""),
        checkpoint=replace(config.checkpoint, enable=False, initial_load_path="", create_seed_checkpoint=False),
    )
    return changed, [name for name, is_on in switched_on.items() if is_on]
