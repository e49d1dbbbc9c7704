"""Checks of [preference]: what it reads, what its reference needs, and settings that contradict it.

In: a configuration. Out: findings.
"""

from __future__ import annotations

from collections.abc import Iterator

from titan_speech.config.problem import Finding
from titan_speech.config.schema import SpeechConfig


def check_preference(config: SpeechConfig) -> Iterator[Finding]:
    """Sources, masks, the reference, and constants of another loss."""
    yield from _check_sources(config)
    preference = config.preference
    if not preference.is_on:
        return
    if preference.target_margin and preference.loss != "simpo":
        keys = ("preference.target_margin", "preference.loss")
        found = f"{preference.target_margin:g} with loss {preference.loss}"
        yield Finding(keys, found, "0: only simpo has a target margin", "0")
    if config.data.too_long == "split":
        keys = ("data.too_long", "preference.loss")
        yield Finding(keys, '"split" with pairs', "drop or error: an answer is compared as a whole", '"drop"')
    if preference.has_reference and preference.reference == "adapters_off":
        yield from _check_adapters(config)


def _check_sources(config: SpeechConfig) -> Iterator[Finding]:
    for index, source in enumerate(config.data.source):
        key = f"data.source.{index}"
        if (source.task == "preference") != config.preference.is_on:
            keys = (f"{key}.task", "preference.loss")
            if config.preference.is_on:
                expected = "preference: a preference loss compares answers. preference.sft_weight adds cross-entropy"
                yield Finding(keys, f"task {source.task} with a preference loss", expected, '"preference"')
            else:
                yield Finding(
                    keys, "task preference with cross-entropy", "a loss for its pairs", '[preference] loss = "dpo"'
                )
        elif source.task == "preference" and source.train_on != "target":
            expected = "target: what is compared are the answers, not their prompt"
            yield Finding((f"{key}.train_on", f"{key}.task"), f'"{source.train_on}" with pairs', expected, '"target"')


def _check_adapters(config: SpeechConfig) -> Iterator[Finding]:
    keys = ("preference.reference", "lora.rank")
    if not config.lora.is_on:
        found = "adapters_off without LoRA"
        yield Finding(
            keys,
            found,
            "precomputed, or lora.rank above 0: this reference is the model with its adapters turned off",
            '"precomputed"',
        )
    elif config.lora.train_new_rows:
        keys = ("preference.reference", "lora.train_new_rows")
        found = "adapters_off with lora.train_new_rows"
        yield Finding(
            keys, found, "precomputed: rows of the vocabulary are trained without an adapter", '"precomputed"'
        )
