"""A tiny XCodec2 with random weights, saved as the real one is."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import Wav2Vec2BertConfig, Xcodec2Config, Xcodec2Model


def write_xcodec2(folder: Path, seed: int = 0) -> Path:
    """Fresh weights give one and the same code for all sound; a wide projection in front of the quantizer varies it."""
    torch.manual_seed(seed)
    semantic = Wav2Vec2BertConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        feature_projection_input_dim=160,
    )
    config = Xcodec2Config(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=8,
        encoder_hidden_size=4,
        quantization_dim=64,
        semantic_model_config=semantic,  # type: ignore[arg-type]
    )
    model = Xcodec2Model(config)
    with torch.no_grad():
        model.quantizer.project_in.weight.mul_(400)
    model.save_pretrained(folder)
    return folder
