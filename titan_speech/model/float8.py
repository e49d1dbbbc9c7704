"""Linear layers in float8: TorchTitan's converter with a third recipe, and emulation with the recipe's rounding.

Switched on by the key `float8.recipe` (config/schema_parallelism.py; "none" is off), and applied by `model_spec` in
spec.py. In: a decoder configuration and the [float8] settings. Out: the configuration with its linear layers converted,
except the filtered ones. Differences from TorchTitan's converter: `tensorwise` is offered; emulation keeps the chosen
recipe (TorchTitan always emulates tensorwise), so that emulated numbers are those of the recipe; filters that leave no
layer are an error. torchao's automatic filter is not offered: it inspects modules, gets configurations, and converts
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
    """TorchTitan's float8 converter with the rounding of the recipe, on a device or emulated."""

    @dataclass(kw_only=True, slots=True)
    class Config(Float8LinearConverter.Config):
        pass

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        recipe = Float8LinearConfig.from_recipe_name(config.recipe_name)
        self.torchao_config = replace(recipe, emulate=config.emulate)


def convert_to_float8(decoder: Decoder.Config, settings: Float8Config, *, compiles_layers: bool) -> Decoder.Config:
    """The decoder configuration with its linear layers in float8.

    Raises:
        ConfigError: no layer is left to convert, by the filters or because widths are not multiples of 16.
    """
    recipe: Any = settings.recipe  # TorchTitan's type names two of torchao's three
    converter = RecipeConverter.Config(
        recipe_name=recipe,
        filter_fqns=list(settings.filter_fqns),
        emulate=settings.emulate,
        model_compile_enabled=compiles_layers,
    ).build()
    converted = converter.convert(decoder)
    assert isinstance(converted, Decoder.Config)
    if not any(True for _ in converted.traverse(Float8Linear.Config)):
        raise ConfigError(
            f'float8.recipe = "{settings.recipe}" converts no layer: float8.filter_fqns {list(settings.filter_fqns)} '
            'leave none whose widths are multiples of 16; give narrower filters, such as ["lm_head"]'
        )
    return converted
