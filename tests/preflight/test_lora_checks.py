"""[lora]: what matches nothing, is too large or has no effect is refused with a reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from titan_speech.errors import ConfigError
from titan_speech.model.backbones import FLAVORS
from titan_speech.preflight.config_checks import load_config
from titan_speech.preflight.lora_checks import TARGETS

SMALL = Path(__file__).parents[1] / "assets" / "small.toml"
LORA = ("--lora.rank", "8", "--stage.from", "outputs/base")


def problems(*words: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(["--job.config_file", str(SMALL), *words])
    return str(caught.value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--lora.targets", '["wq"]'), "no other name matches a matrix"),
        (("--lora.targets", '["q_proj"]'), '"wqkv"'),
        (("--lora.targets", '["lm_head"]'), "lora.train_new_rows = true"),
        (("--lora.targets", '["wo", "wo"]'), '"wo" twice'),
        (("--lora.targets", "[]"), "no target"),
        (("--lora.rank", "97"), "at most 96, the smaller side of"),
        (("--lora.rank", "-1"), "lora.rank"),
        (("--stage.optimizer", "true"), "of other weights"),
        (("--optimizer.frozen_backbone_ratio", "0.5"), "LoRA freezes the backbone in every step"),
        (("--optimizer.new_rows_lr_factor", "2"), "frozen rows have no rate"),
        (("--checkpoint.create_seed_checkpoint", "true"), "come with its base"),
    ],
)
def test_a_wrong_adapter_is_refused(words: tuple[str, ...], message: str) -> None:
    assert message in problems(*LORA, *words)


def test_an_adapter_needs_a_base() -> None:
    assert "an adapter without a base" in problems("--lora.rank", "8")


def test_without_lora_its_other_keys_are_not_looked_at() -> None:
    assert not load_config(["--job.config_file", str(SMALL), "--lora.targets", '["wq"]']).config.lora.is_on


def test_the_widths_are_those_of_the_layers_that_are_built() -> None:
    from titan_speech.config.schema_training import LoRAConfig
    from titan_speech.model.lora import adapted_layers
    from titan_speech.model.spec import model_spec

    for family in ("llama3", "qwen3"):
        shape = FLAVORS[family]["debug"]
        model = model_spec(shape, "dense", 128, None, LoRAConfig(rank=2, targets=TARGETS)).model.build()
        found = {name.rpartition(".")[2]: (a.shape[1], b.shape[0]) for name, _, a, b, _ in adapted_layers(model)}
        assert found == shape.matrix_widths
