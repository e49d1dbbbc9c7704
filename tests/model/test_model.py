"""Backbones: published sizes, documents that never see each other, and logits against an independent implementation."""

from __future__ import annotations

from typing import cast

import pytest
import torch
from torchtitan.models.common.decoder import Decoder
from torchtitan.models.qwen3 import Qwen3Model
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, Qwen3Config, Qwen3ForCausalLM

from titan_speech.errors import ConfigError
from titan_speech.model.attention import attention_config
from titan_speech.model.backbones import FLAVORS, published_shape
from titan_speech.model.spec import HFAdapter, decoder_config

FAMILIES = ("llama3", "qwen3")
NUM_ROWS = 1024

PUBLISHED = [
    # family, flavor, rows, layers, width, heads, kv heads, hidden, theta, parameters: config.json and model cards
    ("llama3", "1B", 128_256, 16, 2048, 32, 8, 8192, 500_000, 1_235_814_400),
    ("llama3", "8B", 128_256, 32, 4096, 32, 8, 14336, 500_000, 8_030_261_248),
    ("qwen3", "0.6B", 151_936, 28, 1024, 16, 8, 3072, 1_000_000, 596_049_920),
    ("qwen3", "1.7B", 151_936, 28, 2048, 16, 8, 6144, 1_000_000, 1_720_574_976),
    # grown as the speech model of arXiv 2507.21138 is
    ("llama3", "1B", 193_856, 16, 2048, 32, 8, 8192, 500_000, 1_370_163_200),
]


def num_parameters(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def debug_model(family: str, num_rows: int = NUM_ROWS) -> Decoder:
    torch.manual_seed(0)
    model = decoder_config(published_shape(family, "debug"), num_rows, attention_config("dense")).build()
    model.init_weights()
    with torch.no_grad():  # the small initial weights would hide differences
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                parameter.mul_(5)
    return model.eval()


def logits_of(model: Decoder, documents: list[torch.Tensor]) -> torch.Tensor:
    """Logits of the documents packed one after the other into one sequence."""
    ids_1L = torch.cat(documents).unsqueeze(0)
    positions_1L = torch.cat([torch.arange(len(document)) for document in documents]).unsqueeze(0)
    return model(ids_1L, positions_1L, model.get_attention_masks(positions_1L))[0]


@pytest.mark.parametrize("published", PUBLISHED, ids=lambda p: f"{p[0]}-{p[1]}-{p[2]}")
def test_flavors_have_their_published_figures(published: tuple) -> None:
    family, flavor, rows, layers, width, heads, kv_heads, hidden, theta, parameters = published
    config = decoder_config(published_shape(family, flavor), rows, attention_config("dense"))
    with torch.device("meta"):
        model = config.build()
    attention = config.layers[0].attention
    found = (len(config.layers), config.dim, attention.n_heads, attention.n_kv_heads)
    assert found == (layers, width, heads, kv_heads)
    assert config.layers[0].feed_forward.w1.out_features == hidden
    assert attention.rope.theta == theta
    assert num_parameters(model) == published_shape(family, flavor).num_parameters(rows) == parameters


def test_rope_scaling_is_that_of_each_llama_release() -> None:
    def factor(flavor: str) -> float:
        return (
            decoder_config(published_shape("llama3", flavor), 128_256, attention_config("dense"))
            .layers[0]
            .attention.rope.scaling_factor
        )

    assert factor("1B") == 32.0  # Llama 3.2
    assert factor("8B") == 8.0  # Llama 3.1


@pytest.mark.parametrize("family", FAMILIES)
def test_debug_models_stay_below_ten_million_parameters_at_the_bundled_vocabulary(family: str) -> None:
    with torch.device("meta"):
        model = decoder_config(published_shape(family, "debug"), 69_760, attention_config("dense")).build()
    assert num_parameters(model) < 10_000_000


def test_an_unknown_flavor_names_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"flavor = '3B'.*1B.*0\.6B"):
        published_shape("llama3", "3B")


def test_every_family_has_a_debug_flavor() -> None:
    assert set(FLAVORS) == set(FAMILIES)
    assert all("debug" in flavors for flavors in FLAVORS.values())


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_documents_get_the_logits_they_get_alone(family: str) -> None:
    model = debug_model(family)
    generator = torch.Generator().manual_seed(1)
    documents = [torch.randint(0, NUM_ROWS, (length,), generator=generator) for length in (37, 1, 64, 26)]
    packed = logits_of(model, documents).split([len(document) for document in documents])
    for document, logits_LV in zip(documents, packed, strict=True):
        torch.testing.assert_close(logits_LV, logits_of(model, [document]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_document_is_deaf_to_the_one_before_it(family: str) -> None:
    """The same property without a tolerance: other neighbours of the same length change not one bit."""
    model = debug_model(family)
    own = torch.arange(40)
    first, second = (logits_of(model, [torch.full((24,), token), own])[24:] for token in (5, 600))
    assert torch.equal(first, second)


def transformers_twin(family: str, model: Decoder) -> PreTrainedModel:
    """The same weights in the independent implementation."""
    config = model.config
    attention = config.layers[0].attention
    shared = {
        "vocab_size": config.vocab_size,
        "hidden_size": config.dim,
        "intermediate_size": config.layers[0].feed_forward.w1.out_features,
        "num_hidden_layers": len(config.layers),
        "num_attention_heads": attention.n_heads,
        "num_key_value_heads": attention.n_kv_heads,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": attention.rope.theta},
        "attention_bias": False,
    }
    if family == "qwen3":
        twin = Qwen3ForCausalLM(Qwen3Config(head_dim=attention.head_dim, **shared))
    else:
        twin = LlamaForCausalLM(LlamaConfig(**shared))
    weights = HFAdapter(cast(Qwen3Model.Config, config), None).to_hf(model.state_dict())
    missing, unexpected = twin.load_state_dict(weights, strict=False)
    assert set(missing) <= {"lm_head.weight"}, missing
    assert not unexpected, unexpected
    twin.tie_weights()
    return twin.eval()


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_logits_equal_those_of_transformers(family: str) -> None:
    model = debug_model(family)
    ids_L = torch.randint(0, NUM_ROWS, (80,), generator=torch.Generator().manual_seed(2))
    theirs = transformers_twin(family, model)(ids_L.unsqueeze(0)).logits[0]
    torch.testing.assert_close(logits_of(model, [ids_L]), theirs, rtol=1e-4, atol=1e-4)
