"""Which layers are in float8, and that an emulated recipe rounds as the recipe does."""

from __future__ import annotations

import pytest
import torch
from torchtitan.components.quantization import Float8Linear
from torchtitan.models.common.decoder import Decoder
from torchtitan.models.common.linear import Linear

from titan_speech.config.schema_parallelism import Float8Config
from titan_speech.errors import ConfigError
from titan_speech.model.attention import attention_config
from titan_speech.model.backbones import published_shape
from titan_speech.model.float8 import convert_to_float8
from titan_speech.model.spec import decoder_config

NUM_ROWS = 1024
RECIPES = ("rowwise", "rowwise_with_gw_hp", "tensorwise")


def decoder(family: str = "llama3") -> Decoder.Config:
    return decoder_config(published_shape(family, "debug"), NUM_ROWS, attention_config("dense"))


def linears(config: Decoder.Config) -> dict[str, bool]:
    """Names of the linear layers, and whether they are in float8."""
    return {name: isinstance(one, Float8Linear.Config) for name, one, _, _ in config.traverse(Linear.Config)}


@pytest.mark.parametrize("family", ["llama3", "qwen3"])
def test_every_linear_layer_but_the_head_is_in_float8(family: str) -> None:
    found = linears(
        convert_to_float8(decoder(family), Float8Config(recipe="rowwise", emulate=True), compiles_layers=False)
    )
    assert found.pop("lm_head") is False
    assert len(found) == 4 * 5  # fused qkv, output, three of the feed-forward layer; four layers
    assert all(found.values()), found


def test_filters_keep_what_they_name() -> None:
    table = Float8Config(recipe="rowwise", emulate=True, filter_fqns=("lm_head", "attention", "layers.0"))
    found = linears(convert_to_float8(decoder(), table, compiles_layers=False))
    assert {name for name, is_float8 in found.items() if is_float8} == {
        f"layers.{layer}.feed_forward.w{i}" for layer in (1, 2, 3) for i in (1, 2, 3)
    }


def test_filters_that_leave_no_layer_are_refused() -> None:
    table = Float8Config(recipe="rowwise", emulate=True, filter_fqns=("layers", "lm_head"))
    with pytest.raises(ConfigError, match="converts no layer"):
        convert_to_float8(decoder(), table, compiles_layers=False)


def output_error(recipe: str) -> float:
    """Relative error of one layer's product in a recipe, of rows whose sizes differ by a factor of a million."""
    table = Float8Config(recipe=recipe, emulate=True)  # type: ignore[arg-type]
    config = convert_to_float8(decoder(), table, compiles_layers=False).layers[0].feed_forward.w1
    torch.manual_seed(0)
    layer = config.build()
    torch.nn.init.normal_(layer.weight, std=0.02)
    x_NI = torch.randn(64, config.in_features) * torch.logspace(-6, 0, 64).unsqueeze(1)
    exact_NO = x_NI @ layer.weight.T
    errors_N = (layer(x_NI) - exact_NO).norm(dim=1) / exact_NO.norm(dim=1)
    return errors_N.max().item()


def test_an_emulated_recipe_rounds_as_that_recipe() -> None:
    error = {recipe: output_error(recipe) for recipe in RECIPES}
    assert error["rowwise"] == error["rowwise_with_gw_hp"]  # they differ in the backward pass only
    assert 0.01 < error["rowwise"] < 0.06 < error["tensorwise"]  # one scale for all rows crushes the small ones
