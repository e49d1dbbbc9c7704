"""Checkpoints of other trainers: the same logits token by token, the same bits after the way there and back, and
special tokens that keep their work under the names they have there."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.support.hf_folders import TOKENIZER, Backbone, write_backbone, write_run
from titan_speech.errors import ModelError, VocabularyError
from titan_speech.hf.convert import export_model, import_model
from titan_speech.hf.expand import expand, read_expansion
from titan_speech.hf.export import WeightsCheckpoint, export
from titan_speech.hf.model_folder import EMBEDDING
from titan_speech.hf.row_initialization import NewRows
from titan_speech.tokenization.foreign_layouts import FOREIGN_LAYOUTS, VocabularyLayout
from titan_speech.tokenization.known_tokenizers import LLAMA3_ROWS
from titan_speech.tokenization.text_tokenizer import TextTokenizer

NUM_BASE = TextTokenizer.load(TOKENIZER).num_base
STOPS = {"inworld": "<|speech_end|>", "llasa": "<|SPEECH_GENERATION_END|>"}
CONFIGS = ("config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.json")


def small(name: str) -> VocabularyLayout:
    """The layout over the bundled tokenizer's base instead of Llama 3's."""
    return replace(FOREIGN_LAYOUTS[name], num_base=NUM_BASE)


def exported_run(folder: Path, kind: Backbone) -> Path:
    """A trained run's folder, as `model export` writes it."""
    write_backbone(folder / "base", kind)
    if kind.num_rows is not None:  # the bundled tokenizer has fewer entries, and says so
        (folder / "base" / "recipe.json").write_text(json.dumps({"num_base": kind.num_rows}))
    expand(folder / "base", folder / "extended", NewRows(), lambda _: None)
    export(
        WeightsCheckpoint.open(write_run(folder / "run", folder / "extended", kind.family)),
        folder / "hf",
        torch.float32,
    )
    return folder / "hf"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported_run(tmp_path_factory.mktemp("ours"), Backbone(is_tied=False))


def parsed(folder: Path) -> list[dict[str, Any]]:
    return [json.loads((folder / name).read_text()) for name in CONFIGS]


def assert_there_and_back(ours: Path, folder: Path, layout: VocabularyLayout) -> None:
    """Logits by token, special tokens by name, and all bits that have a place on both sides."""
    vocabulary = TextTokenizer.load(ours).vocabulary()
    export_model(ours, folder / "theirs", layout)
    their_model: Any = AutoModelForCausalLM.from_pretrained(folder / "theirs")
    _assert_same_logits(ours, their_model, layout)
    _assert_named(folder / "theirs", their_model, layout)

    import_model(folder / "theirs", folder / "back", layout, NewRows())
    assert parsed(folder / "back") == parsed(ours)
    back, original = (load_file(path / "model.safetensors") for path in (folder / "back", ours))
    moved = torch.from_numpy(layout.rows_of_ours(vocabulary))
    for name, tensor in original.items():
        rows = moved if len(tensor) == vocabulary.num_rows else slice(None)
        assert torch.equal(back[name][rows], tensor[rows]), name
    assert TextTokenizer.load(folder / "back").fingerprint == TextTokenizer.load(ours).fingerprint
    origin = json.loads((folder / "back" / "conversion.json").read_text())["origin"]
    assert origin == str(read_expansion(ours)) == "step 5 of a run"

    export_model(folder / "back", folder / "again", layout)
    for file in (folder / "theirs").iterdir():
        if file.name != "conversion.json":
            assert (folder / "again" / file.name).read_bytes() == file.read_bytes(), file.name


def _assert_same_logits(ours: Path, their_model: Any, layout: VocabularyLayout) -> None:
    vocabulary, our_model = TextTokenizer.load(ours).vocabulary(), AutoModelForCausalLM.from_pretrained(ours)
    assert their_model.config.vocab_size == layout.num_rows
    their_ids = torch.randint(0, layout.num_rows, (50,), generator=torch.Generator().manual_seed(5))
    our_ids = torch.from_numpy(layout.rows_of_ours(vocabulary)[their_ids.numpy()])
    with torch.no_grad():
        theirs_LV, ours_LV = their_model(their_ids[None]).logits[0], our_model(our_ids[None]).logits[0]
    torch.testing.assert_close(theirs_LV, ours_LV[:, torch.from_numpy(layout.rows_of_ours(vocabulary))])


def _assert_named(theirs: Path, model: Any, layout: VocabularyLayout) -> None:
    """What transformers makes of the folder."""
    tokenizer: Any = AutoTokenizer.from_pretrained(theirs)
    assert len(tokenizer) == layout.num_rows
    for ids in (model.config, model.generation_config):
        assert tokenizer.convert_ids_to_tokens(ids.eos_token_id) == STOPS[layout.name]
        assert tokenizer.convert_ids_to_tokens(ids.bos_token_id) == tokenizer.bos_token == "<|begin_of_text|>"
        assert tokenizer.convert_ids_to_tokens(ids.pad_token_id) == tokenizer.pad_token == "<|end_of_text|>"
    words = f"Hold.<|s_0|><|s_10000|>{STOPS[layout.name]}"
    ids = tokenizer(words, add_special_tokens=False).input_ids
    assert ids[-3:] == [
        layout.num_base + layout.tokens.index(t) for t in ("<|s_0|>", "<|s_10000|>", STOPS[layout.name])
    ]
    assert "<|s_10000|>" in tokenizer.decode(ids, skip_special_tokens=True), "they read codes from decoded text"


def test_there_and_back_gives_the_same_logits_and_the_same_bits(exported: Path, tmp_path: Path) -> None:
    assert_there_and_back(exported, tmp_path, small("llasa"))


@pytest.mark.slow
@pytest.mark.parametrize("name", FOREIGN_LAYOUTS)
def test_the_same_at_the_full_vocabulary_with_a_tied_head(tmp_path: Path, name: str) -> None:
    ours = exported_run(tmp_path, Backbone(is_tied=True, num_rows=LLAMA3_ROWS))
    assert_there_and_back(ours, tmp_path, FOREIGN_LAYOUTS[name])


def _change(file: Path, **changes: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_ids_of_their_files_are_moved_by_name_whatever_they_stop_at(exported: Path, tmp_path: Path) -> None:
    """As their folders are: several ids that stop, a text token that pads, or no file for decoding at all."""
    layout, vocabulary = small("llasa"), TextTokenizer.load(exported).vocabulary()
    export_model(exported, tmp_path / "theirs", layout)
    stop = layout.num_base + layout.tokens.index(STOPS["llasa"])
    _change(tmp_path / "theirs/config.json", eos_token_id=[1, stop], pad_token_id=None)
    (tmp_path / "theirs/generation_config.json").unlink()
    import_model(tmp_path / "theirs", tmp_path / "back", layout, NewRows("mean"))
    config, decoding, names, _ = parsed(tmp_path / "back")
    assert config["eos_token_id"] == decoding["eos_token_id"] == [1, vocabulary.special("<|speech_end|>")]
    assert config["pad_token_id"] == decoding["pad_token_id"] == vocabulary.pad_id
    assert names["eos_token"] == "<|end_of_text|>"
    _change(tmp_path / "theirs/config.json", eos_token_id=layout.num_rows)
    with pytest.raises(ModelError, match=r"config.json: eos_token_id is 69640, which is not a row .* 0..69639"):
        import_model(tmp_path / "theirs", tmp_path / "none", layout, NewRows("mean"))
    assert not (tmp_path / "none").exists()


def test_rows_are_told_by_the_tokenizer_of_the_folder_not_by_their_place(exported: Path, tmp_path: Path) -> None:
    layout, vocabulary = small("llasa"), TextTokenizer.load(exported).vocabulary()
    tokens = list(layout.tokens)
    tokens[8], tokens[9] = tokens[9], tokens[8]  # <|s_0|> and <|s_1|>
    export_model(exported, tmp_path / "theirs", replace(layout, tokens=tuple(tokens)))
    import_model(tmp_path / "theirs", tmp_path / "back", layout, NewRows("mean"))
    back, original = (load_file(path / "model.safetensors")[EMBEDDING] for path in (tmp_path / "back", exported))
    codes = slice(vocabulary.first_code_id, vocabulary.first_special_id)
    assert torch.equal(back[codes], original[codes])
    assert not torch.equal(back[codes.start], back[codes.start + 1])
    content = json.loads((tmp_path / "theirs/tokenizer.json").read_text())
    _change(tmp_path / "theirs/tokenizer.json", added_tokens=content["added_tokens"][:2])
    with pytest.raises(VocabularyError, match="65,536 are not among them"):
        import_model(tmp_path / "theirs", tmp_path / "none", layout, NewRows("mean"))


def test_a_folder_of_another_size_is_refused_with_both_numbers(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="has 69,760 vocabulary rows, layout llasa has 69,640"):
        import_model(exported, tmp_path / "out", small("llasa"), NewRows())
    assert not list(tmp_path.iterdir())
