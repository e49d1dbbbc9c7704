"""Log-probabilities of trainer, transformers and generator before a first step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.hf_folders import Backbone, write_backbone
from titan_speech.align.parity import measure_parity
from titan_speech.errors import ModelError

NUM_ROWS, STOP_ID = 256, 7
SAMPLING = {"temperature": 1.0, "top_k": 50, "max_new_tokens": 24}


def prefixes() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(8, NUM_ROWS, length) for length in (5, 19, 12)]


@pytest.fixture(params=["llama3", "qwen3"])
def backbone(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Any]:
    return tmp_path, write_backbone(tmp_path, Backbone(request.param, num_rows=NUM_ROWS))


def test_three_ways_agree_on_padded_and_cached_answers(backbone: tuple[Path, Any]) -> None:
    folder, model = backbone
    model.train()
    before = torch.random.get_rng_state()
    found = measure_parity(folder, model, prefixes(), STOP_ID, SAMPLING)
    found.check()
    assert model.training
    assert torch.equal(torch.random.get_rng_state(), before)
    assert 3 <= found.num_tokens <= 3 * 24
    assert set(found.apart) == {"transformers", "generator"}
    for apart in found.apart.values():
        assert sum(apart.counts) == found.num_tokens
        assert apart.greatest < 1e-4
    assert len(found.record()["edges"]) == len(found.apart["generator"].counts) + 1


def test_another_model_than_that_of_the_folder_is_refused_with_how_far_it_is(backbone: tuple[Path, Any]) -> None:
    folder, model = backbone
    with torch.no_grad():
        model.model.layers[1].self_attn.v_proj.weight.mul_(1.1)
    found = measure_parity(folder, model, prefixes(), STOP_ID, SAMPLING)
    with pytest.raises(ModelError, match=r"transformers by .* \(median\).*; generator by .*titan-speech model compare"):
        found.check()
