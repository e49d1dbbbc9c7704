"""What a CPU can check of what a GPU will run: flex attention unfused, inputs of CUDA graphs, float8 layers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from torchtitan.components.quantization import Float8Linear
from torchtitan.distributed.cudagraph import CUDAGraphInputSpec
from torchtitan.models.common.attention import FlexAttention, VarlenMetadata, create_varlen_metadata_for_document
from torchtitan.models.common.decoder import Decoder
from torchtitan.models.common.linear import Linear

from titan_speech.config.schema_parallelism import Float8Config
from titan_speech.errors import ConfigError
from titan_speech.model.attention import DenseDocumentAttention, attention_config
from titan_speech.model.backbones import published_shape
from titan_speech.model.float8 import convert_to_float8
from titan_speech.model.spec import decoder_config

NUM_PACKS, SEQ_LEN, NUM_ROWS = 2, 256, 1024
RECIPES = ("rowwise", "rowwise_with_gw_hp", "tensorwise")


def positions(*lengths_of_packs: tuple[int, ...]) -> torch.Tensor:
    """Positions of packed documents, shape [packs, SEQ_LEN]."""
    return torch.stack([torch.cat([torch.arange(n) for n in lengths]) for lengths in lengths_of_packs])


ONE_BATCH = positions((100, 156), (30, 200, 26))
ANOTHER_BATCH = positions((256,), (1, 2, 3, 50, 200))


def decoder(family: str = "llama3") -> Decoder.Config:
    return decoder_config(published_shape(family, "debug"), NUM_ROWS, attention_config("dense"))


def masks(positions_BL: torch.Tensor) -> BlockMask:
    with torch.device("meta"):
        model = decoder().build()
    found = model.get_attention_masks(positions_BL)
    assert isinstance(found, BlockMask)
    return found


def attended(module: FlexAttention, mask: BlockMask) -> torch.Tensor:
    """Output, with fewer heads of keys than of queries; a CPU has no backward pass of flex attention."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(NUM_PACKS, SEQ_LEN, num_heads, 16) for num_heads in (4, 2, 2))
    return module(q, k, v, attention_masks=mask, enable_gqa=True)


def test_flex_attention_unfused_gives_what_dense_attention_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FlexAttention, "_compiled_flex_attn", flex_attention)
    mask = masks(ONE_BATCH)
    flex = attended(FlexAttention.Config().build(), mask)
    dense = attended(DenseDocumentAttention.Config().build(), mask)
    torch.testing.assert_close(flex, dense, rtol=1e-5, atol=1e-5)


def graph_inputs(positions_BL: torch.Tensor) -> dict[str, Any]:
    fresh_BL = positions_BL.clone()  # a replay writes into what was captured
    return {"positions": fresh_BL, "attention_masks": masks(fresh_BL)}


def test_a_graph_is_given_inputs_of_one_structure_by_any_packs() -> None:
    spec = CUDAGraphInputSpec(graph_inputs(ONE_BATCH))
    first, second = (spec.flatten(graph_inputs(batch)) for batch in (ONE_BATCH, ANOTHER_BATCH))
    shapes = [[leaf.shape for leaf in leaves if isinstance(leaf, torch.Tensor)] for leaves in (first, second)]
    assert shapes[0] == shapes[1]
    assert len(shapes[0]) > 4, "the mask's borders are among the inputs, not hidden in a closure"


def test_the_mask_a_graph_replays_is_that_of_the_new_packs() -> None:
    spec = CUDAGraphInputSpec(graph_inputs(ONE_BATCH))
    captured = spec.flatten(graph_inputs(ONE_BATCH))
    replayed = spec.unflatten(captured)["attention_masks"]
    for leaf, new in zip(captured, spec.flatten(graph_inputs(ANOTHER_BATCH)), strict=True):
        if isinstance(leaf, torch.Tensor):
            leaf.copy_(new)
    dense, new_mask = DenseDocumentAttention.Config().build(), masks(ANOTHER_BATCH)
    assert torch.equal(attended(dense, replayed), attended(dense, new_mask))


def test_inputs_of_varlen_attention_change_with_the_packs() -> None:
    found = [create_varlen_metadata_for_document(batch) for batch in (ONE_BATCH, ANOTHER_BATCH)]
    assert all(isinstance(metadata, VarlenMetadata) for metadata in found)
    assert found[0].cu_seq_q.shape != found[1].cu_seq_q.shape


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
