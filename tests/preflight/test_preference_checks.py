"""[preference]: what contradicts it is refused with a reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from titan_speech.errors import ConfigError
from titan_speech.preflight.config_checks import load_config

ASSETS = Path(__file__).parents[1] / "assets"


def problems(*words: str, config: str = "preference.toml") -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(["--job.config_file", str(ASSETS / config), *words])
    return str(caught.value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--preference.loss", "none"), 'loss = "dpo"'),
        (("--preference.loss", "orpo"), "simpo"),
        (("--preference.beta", "0"), "preference.beta"),
        (("--preference.target_margin", "0.5"), "only simpo has a target margin"),
        (("--preference.reference", "adapters_off"), "this reference is the model with its adapters turned off"),
        (("--data.source.0.train_on", "all"), "what is compared are the answers"),
        (("--data.source.0.task", "tts"), "preference.sft_weight adds cross-entropy"),
        (("--data.too_long", "split"), "an answer is compared as a whole"),
        (("--parallelism.pipeline_parallel_degree", "2"), "preference loss with pipeline parallel"),
        (("--training.cuda_graphs", "true"), "preference loss with CUDA graphs"),
    ],
)
def test_what_contradicts_a_preference_loss_is_refused(words: tuple[str, ...], message: str) -> None:
    assert message in problems(*words)


def test_trained_rows_are_no_adapter_that_could_be_off() -> None:
    words = ("--lora.rank", "4", "--lora.train_new_rows", "true", "--stage.from", "outputs/base")
    found = problems(*words, "--preference.reference", "adapters_off")
    assert "rows of the vocabulary are trained without an adapter" in found


def test_a_preference_loss_needs_pairs() -> None:
    assert "task speech with a preference loss" in problems("--preference.loss", "dpo", config="small.toml")
