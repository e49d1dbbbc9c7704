"""A run's configuration on a machine without its GPU, its tokenizer or its weights.

In: a configuration. Out: the same as a CPU can build it with a list of what was left out, the vocabulary, the sizes of
the backbone, and where each was read. Where the tokenizer's folder is missing, the rows of the published backbone are
taken: sizes, memory and speed depend on nothing else of it. No torch, whose import takes a third of an estimate's time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from titan_speech.config.schema import SpeechConfig
from titan_speech.hf.config_json import model_shape
from titan_speech.model.backbones import BackboneShape, published_shape
from titan_speech.tokenization.known_tokenizers import LLAMA3_ROWS, QWEN3_ROWS
from titan_speech.tokenization.text_tokenizer import TextTokenizer
from titan_speech.tokenization.vocabulary import Vocabulary

PUBLISHED_ROWS = {"llama3": LLAMA3_ROWS, "qwen3": QWEN3_ROWS}
"""Embedding rows of the published backbones of a family (vocab_size of their config.json)."""


def offline_config(config: SpeechConfig) -> tuple[SpeechConfig, list[str]]:
    """The configuration without what needs CUDA or weights, and the names of the features that were left out."""
    checkpointing = config.activation_checkpoint
    needs_compiler = checkpointing.kind == "memory_budget"
    has_bf16_moments = config.optimizer.implementation == "fused_opt_states_bf16"
    is_on = {
        "compilation": config.compile.enable,
        "CUDA graphs": config.training.cuda_graphs,
        "float8": config.float8.recipe != "none",
        "FSDP in symmetric memory": config.parallelism.enable_fsdp_symm_mem,
        "moments in bf16 (fp32 instead)": has_bf16_moments,
        "the compiler's own recomputation (selective instead)": needs_compiler,
    }
    changed = replace(
        config,
        compile=replace(config.compile, enable=False, enable_async_tensor_parallel=False),
        float8=replace(config.float8, recipe="none", emulate=False),
        optimizer=replace(config.optimizer, implementation="fused") if has_bf16_moments else config.optimizer,
        parallelism=replace(config.parallelism, context_parallel_load_balancer="headtail", enable_fsdp_symm_mem=False),
        activation_checkpoint=replace(checkpointing, kind="selective" if needs_compiler else checkpointing.kind),
        training=replace(config.training, cuda_graphs=False),
        model=replace(config.model, attention="dense", initial=""),
        checkpoint=replace(config.checkpoint, enable=False, initial_load_path="", create_seed_checkpoint=False),
    )
    return changed, [name for name, was_on in is_on.items() if was_on]


@dataclass(frozen=True)
class RunVocabulary:
    """The vocabulary of a run, and where it was read."""

    vocabulary: Vocabulary
    is_published: bool
    """Taken from the family's published number of rows, since the tokenizer is not on this machine."""
    origin: str


def run_vocabulary(config: SpeechConfig) -> RunVocabulary:
    """The vocabulary the run will have."""
    path, family = config.tokenizer.path, config.model.family
    if Path(path).exists():
        return RunVocabulary(TextTokenizer.load(path).vocabulary(), False, f"tokenizer {path}")
    rows = PUBLISHED_ROWS[family]
    origin = f"published {family} backbones: {rows:,} rows (tokenizer {path} is not on this machine)"
    return RunVocabulary(Vocabulary(num_base=rows, bos_id=0, eos_id=1), True, origin)


def run_shape(config: SpeechConfig) -> tuple[BackboneShape, str]:
    """Sizes of the backbone, and where they were read."""
    model = config.model
    published = f"published sizes of {model.family} {model.flavor}"
    if not model.initial:
        return published_shape(model.family, model.flavor), published
    if not Path(model.initial).exists() and model.flavor != "initial":
        return published_shape(model.family, model.flavor), f"{published} ({model.initial} is not on this machine)"
    return model_shape(model), model.initial
