"""The speech backbone as a TorchTitan `ModelSpec`.

In: the [model] table and the number of vocabulary rows. Out: what TorchTitan's trainer needs to build, parallelise
and pipeline the model. The parallelisation is TorchTitan's own.
"""

from __future__ import annotations

import torch
from torchtitan.distributed.pipeline_parallel import pipeline_llm
from torchtitan.models.llama3 import parallelize_llama
from torchtitan.models.llama3.state_dict_adapter import Llama3StateDictAdapter
from torchtitan.models.qwen3 import parallelize_qwen3
from torchtitan.models.qwen3.state_dict_adapter import Qwen3StateDictAdapter
from torchtitan.protocols.model_spec import ModelSpec

from titan_speech.config.tables import ModelTable
from titan_speech.errors import ConfigError
from titan_speech.model.attention import attention_config
from titan_speech.model.flavors import decoder_config, published_shape
from titan_speech.model.shape import BackboneShape

_PARALLELIZE = {"llama3": parallelize_llama, "qwen3": parallelize_qwen3}
_ADAPTERS = {"llama3": Llama3StateDictAdapter, "qwen3": Qwen3StateDictAdapter}


def model_shape(table: ModelTable) -> BackboneShape:
    """Sizes the [model] table asks for.

    Raises:
        ConfigError: the family has no such flavor.
    """
    return published_shape(table.family, table.flavor)


def model_spec(table: ModelTable, num_rows: int, tensor_parallel_degree: int = 1) -> ModelSpec:
    """Model specification of a backbone grown to `num_rows` vocabulary rows.

    Raises:
        ConfigError: the family has no such flavor, its heads cannot be shared by the tensor-parallel ranks, or the
            attention back end cannot run here.
    """
    shape = model_shape(table)
    config = decoder_config(shape, num_rows, attention_config(table.attention))
    num_kv_heads = shape.num_kv_heads
    if num_kv_heads % tensor_parallel_degree:
        raise ConfigError(
            f"parallelism.tensor_parallel_degree = {tensor_parallel_degree} does not divide the {num_kv_heads} key and "
            f"value heads of {table.family} {table.flavor}; give a divisor of {num_kv_heads}"
        )
    parallelize = _PARALLELIZE[table.family]
    if not torch.cuda.is_available():
        from titan_speech import cpu

        cpu.initialise_alike(config)
        parallelize = cpu.with_plain_sums(parallelize)
    return ModelSpec(
        name=table.family,
        flavor=table.flavor,
        model=config,
        parallelize_fn=parallelize,
        pipelining_fn=pipeline_llm,
        post_optimizer_build_fn=None,
        state_dict_adapter=_ADAPTERS[table.family],
    )
