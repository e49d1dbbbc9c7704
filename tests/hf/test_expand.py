"""A backbone's folder with an extended vocabulary: old rows kept, new rows as stated, bad folders refused whole."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from tests.support.hf_folders import ALL_KINDS, TOKENIZER, Backbone, write_backbone
from titan_speech.errors import ModelError
from titan_speech.hf.expand import expand, read_expansion
from titan_speech.hf.model_folder import EMBEDDING, HEAD, HFFolder
from titan_speech.hf.row_initialization import NewRows
from titan_speech.tokenization.text_tokenizer import TextTokenizer


def silent(_: str) -> None:
    pass


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("backbone") / "tiny"
    write_backbone(folder, Backbone(is_tied=False))
    return folder


@pytest.mark.parametrize("kind", ALL_KINDS, ids=lambda kind: kind.name)
def test_a_extended_model_gives_the_backbones_logits_for_text(tmp_path: Path, kind: Backbone) -> None:
    model = write_backbone(tmp_path / "base", kind)
    record = expand(tmp_path / "base", tmp_path / "extended", NewRows(), silent)
    loaded: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "extended", output_loading_info=True)
    extended, info = loaded
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert extended.config.vocab_size == record.num_rows == TextTokenizer.load(TOKENIZER).vocabulary().num_rows
    ids = torch.randint(0, record.num_base, (1, 100), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(extended(ids).logits[..., : record.num_base], model(ids).logits)


def test_new_rows_have_mean_and_covariance_of_the_old(backbone: Path, tmp_path: Path) -> None:
    record = expand(backbone, tmp_path / "extended", NewRows(scale=0.25), silent)
    folder = HFFolder.open(tmp_path / "extended")
    for name in (EMBEDDING, HEAD):
        old = folder.rows(name, 0, record.num_base).double()
        new = folder.rows(name, record.num_base, record.num_rows).double()
        standard_error = old.std(0) * 0.5 / len(new) ** 0.5
        assert ((new.mean(0) - old.mean(0)).abs() < 5 * standard_error).all()
        expected = 0.25 * torch.cov(old.T, correction=0)
        gap = torch.linalg.matrix_norm(torch.cov(new.T) - expected) / torch.linalg.matrix_norm(expected)
        assert gap < 2 * (old.shape[1] / len(new)) ** 0.5  # the error of a sample covariance is about sqrt(D / N)


def test_singular_covariance_is_no_problem(tmp_path: Path) -> None:
    model = write_backbone(tmp_path / "base")
    with torch.no_grad():
        cast(torch.Tensor, model.get_input_embeddings().weight)[:, 10:] = 0.5
    model.save_pretrained(tmp_path / "base")
    record = expand(tmp_path / "base", tmp_path / "extended", NewRows(), silent)
    new = HFFolder.open(tmp_path / "extended").rows(EMBEDDING, record.num_base, record.num_rows)
    assert torch.isfinite(new).all()
    torch.testing.assert_close(new[:, 10:], torch.full_like(new[:, 10:], 0.5), atol=1e-4, rtol=0)


@pytest.mark.parametrize("method", ["mean_cov", "normal"])
def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(backbone: Path, tmp_path: Path, method) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        expand(backbone, tmp_path / name, NewRows(method, seed=seed), silent)
    a, b, c = ((tmp_path / name / "model.safetensors").read_bytes() for name in "abc")
    assert a == b
    assert a != c


def test_mean_rows_are_all_the_mean(backbone: Path, tmp_path: Path) -> None:
    record = expand(backbone, tmp_path / "extended", NewRows("mean"), silent)
    folder = HFFolder.open(tmp_path / "extended")
    mean = folder.rows(EMBEDDING, 0, record.num_base).double().mean(0).float()
    new = folder.rows(EMBEDDING, record.num_base, record.num_rows)
    torch.testing.assert_close(new, mean.expand_as(new), atol=1e-6, rtol=1e-5)


def test_every_speech_token_has_its_name_and_text_keeps_its_ids(backbone: Path, tmp_path: Path) -> None:
    expand(backbone, tmp_path / "extended", NewRows("mean"), silent)
    text, vocabulary = TextTokenizer.load(TOKENIZER), TextTokenizer.load(TOKENIZER).vocabulary()
    extended = Tokenizer.from_file(str(tmp_path / "extended" / "tokenizer.json"))
    for name in ("<|s_0|>", "<|s_9999|>", "<|s_65535|>", "<|speech_end|>", "<|pad|>", "<|reserved_speech_0|>"):
        assert vocabulary.token_name(extended.token_to_id(name) or -1) == name
    assert extended.get_vocab_size() == vocabulary.num_rows
    words = "Please hold the line. नमस्ते, வணக்கம்!"
    assert extended.encode(words, add_special_tokens=False).ids == text.encode(words)
    assert extended.encode("<|speech_start|><|s_17|>", add_special_tokens=False).ids == [
        vocabulary.special("<|speech_start|>"),
        int(vocabulary.codes_to_ids(17)),
    ]
    assert TextTokenizer.load(tmp_path / "extended").fingerprint == text.fingerprint


def test_rows_the_tokenizer_leaves_unused_do_not_shift_what_follows(tmp_path: Path) -> None:
    """Qwen3's embedding has 267 rows more than its tokenizer has entries."""
    num_base = TextTokenizer.load(TOKENIZER).num_base + 200
    write_backbone(tmp_path / "base", Backbone(num_rows=num_base))
    record = expand(tmp_path / "base", tmp_path / "extended", NewRows("mean"), silent)
    extended = Tokenizer.from_file(str(tmp_path / "extended" / "tokenizer.json"))
    assert extended.token_to_id("<|s_0|>") == record.num_base == num_base


def test_sharded_weights_give_the_rows_of_whole_ones(backbone: Path, tmp_path: Path) -> None:
    write_backbone(tmp_path / "sharded", Backbone(is_tied=False, max_shard_size="300KB"))
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 2
    for name, source in (("a", backbone), ("b", tmp_path / "sharded")):
        expand(source, tmp_path / name, NewRows(), silent)
    assert read_expansion(tmp_path / "a").source_sha256 == read_expansion(tmp_path / "b").source_sha256
    assert (tmp_path / "a/model.safetensors").read_bytes() == (tmp_path / "b/model.safetensors").read_bytes()


def _without(name: str):
    return lambda folder: (folder / name).unlink()


def _config(**changes: object):
    def change(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return change


def _cut(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def _type(dtype: torch.dtype):
    """One tensor as that type: the others keep theirs."""

    def change(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        tensors["model.norm.weight"] = tensors["model.norm.weight"].to(dtype)
        save_file(tensors, folder / "model.safetensors")

    return change


def _not_finite(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors[EMBEDDING][7, 3] = float("nan")
    save_file(tensors, folder / "model.safetensors")


def _lost_shard(folder: Path) -> None:
    write_backbone(folder, Backbone(max_shard_size="300KB"))
    (folder / "model.safetensors").unlink()
    sorted(folder.glob("model-*"))[1].unlink()


def _speech_already(folder: Path) -> None:
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text())
    taken = {"id": 4095, "content": "<|s_7|>", "single_word": False, "lstrip": False, "rstrip": False}
    content["model"]["vocab"] = {k: v for k, v in content["model"]["vocab"].items() if v != 4095}
    content["model"]["merges"] = content["model"]["merges"][:-1]
    content["added_tokens"].append(taken | {"normalized": False, "special": True})
    file.write_text(json.dumps(content))


def _weight_map(content: object):
    def change(folder: Path) -> None:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": content}))

    return change


def _extended_without_record(folder: Path) -> None:
    (folder / "text_tokenizer").mkdir()
    (folder / "tokenizer.json").rename(folder / "text_tokenizer" / "tokenizer.json")


def _misplaced(folder: Path) -> None:
    """Both shards are there, and the index takes one for the other."""
    write_backbone(folder, Backbone(max_shard_size="300KB"))
    (folder / "model.safetensors").unlink()
    file = folder / "model.safetensors.index.json"
    first, *_, last = sorted(path.name for path in folder.glob("model-*"))
    file.write_text(file.read_text().replace(first, "x").replace(last, first).replace('"x"', f'"{last}"'))


def _header(content: str, num_bytes: int) -> Callable[[Path], None]:
    """A file of safetensors with another header, which announces `num_bytes`."""

    def write(folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(num_bytes.to_bytes(8, "little") + content.encode())

    return write


HUGE_TENSOR = '{"model.norm.weight":{"dtype":"F32","shape":[1500000000000],"data_offsets":[0,6000000000000]}}'
MANY_DIMENSIONS = f'{{"a":{{"dtype":"F32","shape":[{",".join("1" * 9_000_000)}],"data_offsets":[0,4]}}}}'


def _unigram(folder: Path) -> None:
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text())
    specials = [token["content"] for token in content["added_tokens"]]
    vocab = [[name, -1.0] for name in [*specials, *map(str, range(len(specials), 4096))]]
    content["model"] = {"type": "Unigram", "unk_id": 0, "vocab": vocab}
    file.write_text(json.dumps(content))


BAD_FOLDERS = {
    "no-config": (_without("config.json"), "config.json is missing"),
    "no-weights": (_without("model.safetensors"), "has no weights"),
    "cut-short": (_cut, "damaged or cut short"),
    "header-of-18-mb": (_header(MANY_DIMENSIONS, len(MANY_DIMENSIONS)), r"announces 18,000,0\d\d bytes, expected at m"),
    "header-of-8-eb": (_header("{}", 2**63), "damaged or cut short"),
    "tensor-of-6-tb": (_header(HUGE_TENSOR, len(HUGE_TENSOR)), "damaged or cut short"),
    "integers": (_type(torch.int8), r"model\.norm\.weight is of type I8, expected F32, BF16 or F16"),
    "float8": (_type(torch.float8_e4m3fn), r"model\.norm\.weight is of type F8_E4M3, expected F32, BF16 or F16"),
    "several-types": (_type(torch.bfloat16), "tensors are of several types: BF16, F32"),
    "not-finite": (_not_finite, r"model\.embed_tokens\.weight in .* has values that are not finite"),
    "rope-without-factor": (
        _config(rope_parameters={"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0}),
        "low_freq_factor of the rope is missing",
    ),
    "missing-shard": (_lost_shard, "of which are missing: model-00002-of"),
    "no-weight-map": (_weight_map(3), "weight_map is 3, expected an object that gives the file of each tensor"),
    "weight-map-of-numbers": (_weight_map({EMBEDDING: 3}), r"weight_map is \{'model\.embed_tokens\.weight': 3\}, exp"),
    "size-as-text": (_config(hidden_size="64"), "hidden_size is '64', expected a whole number above 0"),
    "tied-as-text": (_config(tie_word_embeddings="yes"), "tie_word_embeddings is 'yes', expected true or false"),
    "quantized": (_config(quantization_config={"bits": 4}), r"quantization_config is \{'bits': 4\}, expected None"),
    "no-architecture": (_config(architectures=None), "architectures is missing, expected one of LlamaForCausalLM"),
    "heads-that-do-not-divide": (_config(num_key_value_heads=3), "is 4, not a multiple of num_key_value_heads, 3"),
    "record-lost": (
        _extended_without_record,
        r"was extended already \(text_tokenizer/ .* but expansion.json, .* is missing",
    ),
    "misplaced": (_misplaced, r"model\.\S+ is not in model-00\S+, where model.safetensors.index.json places it"),
    "no-byte-pairs": (_unigram, "the tokenizer is of type 'Unigram'; expected byte pairs"),
    "other-architecture": (_config(architectures=["MambaForCausalLM"]), "architecture 'MambaForCausalLM'"),
    "other-width": (_config(hidden_size=80), r"has shape \[\d+, 64\], config.json asks for \(\d+, 80\)"),
    "bias": (_config(attention_bias=True), "attention_bias is True, expected False"),
    "rope": (_config(rope_parameters={"rope_type": "yarn", "rope_theta": 1e4}), "rope_type is 'yarn'"),
    "speech-already": (_speech_already, "has 1 of the speech tokens already"),
    "other-tokenizer": (_config(vocab_size=4095), r"4096, 64\], config.json asks for \(4095, 64\)"),
}


@pytest.mark.parametrize(("spoil", "message"), BAD_FOLDERS.values(), ids=BAD_FOLDERS)
def test_a_folder_that_cannot_be_extended_is_named_and_nothing_is_left(tmp_path: Path, spoil, message: str) -> None:
    write_backbone(tmp_path / "base")
    spoil(tmp_path / "base")
    with pytest.raises(ModelError, match=message):
        expand(tmp_path / "base", tmp_path / "extended", NewRows(), silent)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base"]


def test_a_tokenizer_of_another_model_is_refused_with_both_numbers(tmp_path: Path) -> None:
    write_backbone(tmp_path / "base", Backbone(num_rows=8192))
    (tmp_path / "base" / "recipe.json").write_text('{"num_base": 4096}')
    with pytest.raises(ModelError, match=r"stands for 4096 rows, the embedding has 8192"):
        expand(tmp_path / "base", tmp_path / "extended", NewRows(), silent)


def test_a_tokenizer_with_far_fewer_entries_than_rows_needs_a_recipe_that_says_so(tmp_path: Path) -> None:
    write_backbone(tmp_path / "base", Backbone(num_rows=8192))
    with pytest.raises(ModelError, match=r"4,096 entries \(no vocabulary known by name\), the embedding 8,192 rows"):
        expand(tmp_path / "base", tmp_path / "extended", NewRows("mean"), silent)
    (tmp_path / "base" / "recipe.json").write_text('{"num_base": 8192}')
    assert expand(tmp_path / "base", tmp_path / "extended", NewRows("mean"), silent).num_base == 8192


def test_a_folder_that_was_extended_is_not_extended_again(backbone: Path, tmp_path: Path) -> None:
    expand(backbone, tmp_path / "extended", NewRows("mean"), silent)
    with pytest.raises(ModelError, match=r"has rows for speech tokens already \(expansion\.json says so\)"):
        expand(tmp_path / "extended", tmp_path / "again", NewRows("mean"), silent)
    assert not (tmp_path / "again").exists()


def test_an_output_that_exists_is_left_as_it_is(backbone: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="exists already"):
        expand(backbone, tmp_path, NewRows(), silent)
    assert not list(tmp_path.iterdir())
