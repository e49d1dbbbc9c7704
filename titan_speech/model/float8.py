"""Linear layers in float8: TorchTitan's converter, with a third recipe and an emulation that has the recipe's rounding.

In: a decoder configuration and the [float8] table. Out: the configuration with its linear layers replaced, but for the
filtered ones. Differences from TorchTitan's own: `tensorwise` is offered; emulation keeps the chosen recipe (TorchTitan
emulates tensorwise whatever was asked for), so the emulated numbers are those of the recipe; a filter that leaves no
layer is an error. torchao's automatic filter is not offered: it looks at modules, is given configurations, and converts
nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torchao.float8 import Float8LinearConfig
from torchtitan.components.quantization import Float8Linear, Float8LinearConverter
from torchtitan.models.common.decoder import Decoder

from titan_speech.config.schema_parallelism import Float8Config
from titan_speech.errors import ConfigError


class RecipeConverter(Float8LinearConverter):
    """Float8 by recipe, on a device or emulated."""

    @dataclass(kw_only=True, slots=True)
    class Config(Float8LinearConverter.Config):
        pass

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        recipe = Float8LinearConfig.from_recipe_name(config.recipe_name)
        self.torchao_config = replace(recipe, emulate=config.emulate)


def in_float8(decoder: Decoder.Config, table: Float8Config, *, compiles_layers: bool) -> Decoder.Config:
    """The decoder with its linear layers in float8.

    Raises:
        ConfigError: the filters leave no layer, or widths are no multiples of 16.
    """
    recipe: Any = table.recipe  # TorchTitan's type names two of torchao's three
    converter = RecipeConverter.Config(
        recipe_name=recipe,
        filter_fqns=list(table.filter_fqns),
        emulate=table.emulate,
        model_compile_enabled=compiles_layers,
    ).build()
    converted = converter.convert(decoder)
    assert isinstance(converted, Decoder.Config)
    if not any(True for _ in converted.traverse(Float8Linear.Config)):
        raise ConfigError(
            f'float8.recipe = "{table.recipe}" converts no layer: float8.filter_fqns {list(table.filter_fqns)} leave '
            'none whose widths are multiples of 16; give narrower filters, such as ["lm_head"]'
        )
    return converted
