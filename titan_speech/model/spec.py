"""The speech backbone as a TorchTitan `ModelSpec`.

In: the sizes of a backbone and the number of vocabulary rows. Out: what TorchTitan's trainer needs to build,
parallelise and pipeline the model. The parallelisation is TorchTitan's own.
"""

from __future__ import annotations

import torch
from torchtitan.distributed.pipeline_parallel import pipeline_llm
from torchtitan.models.llama3 import parallelize_llama
from torchtitan.models.llama3.state_dict_adapter import Llama3StateDictAdapter
from torchtitan.models.qwen3 import parallelize_qwen3
from torchtitan.models.qwen3.state_dict_adapter import Qwen3StateDictAdapter
from torchtitan.protocols.model_spec import ModelSpec

from titan_speech.config.tables import Float8Table
from titan_speech.model.attention import attention_config
from titan_speech.model.flavors import decoder_config
from titan_speech.model.shape import BackboneShape

_PARALLELIZE = {"llama3": parallelize_llama, "qwen3": parallelize_qwen3}
ADAPTERS = {"llama3": Llama3StateDictAdapter, "qwen3": Qwen3StateDictAdapter}


def model_spec(
    shape: BackboneShape,
    attention: str,
    num_rows: int,
    float8: Float8Table | None = None,
    *,
    compiles_layers: bool = False,
) -> ModelSpec:
    """Model specification of a backbone grown to `num_rows` vocabulary rows.

    Raises:
        ConfigError: the attention back end cannot run here, or float8 leaves no layer to convert.
    """
    config = decoder_config(shape, num_rows, attention_config(attention))
    if float8 is not None and float8.recipe != "none":
        from titan_speech.parallel.float8 import in_float8

        config = in_float8(config, float8, compiles_layers=compiles_layers)
    parallelize = _PARALLELIZE[shape.family]
    if not torch.cuda.is_available():
        from titan_speech import cpu

        cpu.initialise_alike(config)
        parallelize = cpu.with_plain_sums(parallelize)
    return ModelSpec(
        name=shape.family,
        flavor=f"{shape.num_layers}x{shape.dim}",
        model=config,
        parallelize_fn=parallelize,
        pipelining_fn=pipeline_llm,
        post_optimizer_build_fn=None,
        state_dict_adapter=ADAPTERS[shape.family],
    )
