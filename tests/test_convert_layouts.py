"""Checkpoints of other trainers: the same logits token by token, and the same bits after the way there and back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tests.hf_folders import TOKENIZER, Backbone, write_backbone
from titan_speech.errors import ModelError
from titan_speech.hf.convert import export_model, import_model
from titan_speech.hf.expand import expand
from titan_speech.hf.rows import NewRows
from titan_speech.hf.tensors import EMBEDDING
from titan_speech.layouts import LAYOUTS, Layout
from titan_speech.text_tokenizer import TextTokenizer

NUM_BASE = TextTokenizer.load(TOKENIZER).num_base


def small(name: str) -> Layout:
    """The layout over the bundled tokenizer's base instead of Llama 3's."""
    return replace(LAYOUTS[name], num_base=NUM_BASE)


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ours")
    write_backbone(folder / "base", Backbone(is_tied=False, num_rows=NUM_BASE))
    expand(folder / "base", folder / "grown", NewRows(), lambda _: None)
    return folder / "grown"


@pytest.mark.parametrize("name", LAYOUTS)
def test_there_and_back_gives_the_same_logits_and_the_same_bits(grown: Path, tmp_path: Path, name: str) -> None:
    layout, vocabulary = small(name), TextTokenizer.load(TOKENIZER).vocabulary()
    export_model(grown, tmp_path / "theirs", layout)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "theirs")
    ours = AutoModelForCausalLM.from_pretrained(grown)
    assert theirs.config.vocab_size == layout.num_rows
    rows_R = layout.rows_of_ours(vocabulary)
    their_ids = torch.randint(0, NUM_BASE + len(layout.tokens), (50,), generator=torch.Generator().manual_seed(5))
    our_ids = torch.from_numpy(layout.ids_to_ours(their_ids.numpy(), vocabulary))
    known = torch.from_numpy(rows_R >= 0)
    with torch.no_grad():
        theirs_LV, ours_LV = theirs(their_ids[None]).logits[0], ours(our_ids[None]).logits[0]
    torch.testing.assert_close(theirs_LV[:, known], ours_LV[:, torch.from_numpy(rows_R)[known]])

    import_model(tmp_path / "theirs", tmp_path / "back", layout, NewRows())
    export_model(tmp_path / "back", tmp_path / "again", layout)
    assert (tmp_path / "again/model.safetensors").read_bytes() == (tmp_path / "theirs/model.safetensors").read_bytes()
    back, original = load_file(tmp_path / "back/model.safetensors"), load_file(grown / "model.safetensors")
    moved = torch.from_numpy(rows_R[rows_R >= 0])
    assert torch.equal(back[EMBEDDING][moved], original[EMBEDDING][moved])
    assert TextTokenizer.load(tmp_path / "back").fingerprint == TextTokenizer.load(TOKENIZER).fingerprint


def test_a_folder_of_another_size_is_refused_with_both_numbers(grown: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="has 69,760 vocabulary rows, layout llasa has 69,640"):
        import_model(grown, tmp_path / "out", small("llasa"), NewRows())
    assert not list(tmp_path.iterdir())
