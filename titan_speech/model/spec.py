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

from titan_speech.errors import ConfigError
from titan_speech.model.attention import attention_config
from titan_speech.model.flavors import decoder_config
from titan_speech.model.shape import BackboneShape

_PARALLELIZE = {"llama3": parallelize_llama, "qwen3": parallelize_qwen3}
ADAPTERS = {"llama3": Llama3StateDictAdapter, "qwen3": Qwen3StateDictAdapter}


def model_spec(shape: BackboneShape, attention: str, num_rows: int, tensor_parallel_degree: int = 1) -> ModelSpec:
    """Model specification of a backbone grown to `num_rows` vocabulary rows.

    Raises:
        ConfigError: its heads cannot be shared by the tensor-parallel ranks, or the attention back end cannot run here.
    """
    config = decoder_config(shape, num_rows, attention_config(attention))
    num_kv_heads = shape.num_kv_heads
    if num_kv_heads % tensor_parallel_degree:
        raise ConfigError(
            f"parallelism.tensor_parallel_degree = {tensor_parallel_degree} does not divide the {num_kv_heads} key and "
            f"value heads of this {shape.family}; give a divisor of {num_kv_heads}"
        )
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
