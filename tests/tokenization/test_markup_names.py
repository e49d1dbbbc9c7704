"""Markup: names of reserved rows, part of text, fixed once they are used."""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from tests.support.store_samples import CODEC, SENTENCES, write_tokenizer
from titan_speech.checkpoint.provenance import Provenance
from titan_speech.config.schema_data import SourceConfig
from titan_speech.data.sources import documents_of
from titan_speech.errors import CheckpointError, DataError, VocabularyError
from titan_speech.hf.tokenizer import extended_tokenizer
from titan_speech.store.reader import Store, check_tokenizer, open_store
from titan_speech.store.sample import SampleInfo
from titan_speech.store.verify import verify_store
from titan_speech.store.writer import StoreWriter
from titan_speech.tokenization.prompt_template import Grammar
from titan_speech.tokenization.text_tokenizer import TextTokenizer
from titan_speech.tokenization.vocabulary import MAX_MARKUP, SPECIALS, TokenKind, bad_text_id, token_kinds

NAMES = ("<laugh>", "<sigh>")
TAGGED = "well <laugh> that is<sigh>it"


def with_markup(folder: Path, names: Sequence[object], **more: object) -> Path:
    write_tokenizer(folder)
    (folder / "recipe.json").write_text(json.dumps({"markup": list(names), **more}))
    return folder


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> TextTokenizer:
    return TextTokenizer.load(write_tokenizer(tmp_path_factory.mktemp("plain")))


@pytest.fixture(scope="module")
def tagged(tmp_path_factory: pytest.TempPathFactory) -> TextTokenizer:
    return TextTokenizer.load(with_markup(tmp_path_factory.mktemp("tagged"), NAMES))


def test_a_name_is_one_id_at_the_end_of_the_reserved_rows(plain: TextTokenizer, tagged: TextTokenizer) -> None:
    vocabulary = tagged.vocabulary()
    laugh, sigh = (vocabulary.markup_ids[name] for name in NAMES)
    assert (laugh, sigh) == (vocabulary.num_used_rows - 1, vocabulary.num_used_rows - 2)
    pieces = [plain.encode(text) for text in ("well ", " that is", "it")]
    assert tagged.encode(TAGGED) == [*pieces[0], laugh, *pieces[1], sigh, *pieces[2]]
    assert tagged.decode(tagged.encode(TAGGED)) == TAGGED
    assert vocabulary.token_name(laugh) == "<laugh>"
    assert vocabulary.special("<laugh>") == laugh
    assert token_kinds(laugh, vocabulary.kind_boundaries) == TokenKind.SPECIAL
    assert vocabulary.num_rows == plain.vocabulary().num_rows


def test_text_without_names_keeps_its_ids(plain: TextTokenizer, tagged: TextTokenizer) -> None:
    assert [tagged.encode(text) for text in SENTENCES] == [plain.encode(text) for text in SENTENCES]


def test_stores_get_the_same_ids_however_they_are_encoded(tagged: TextTokenizer) -> None:
    texts = [*SENTENCES, TAGGED, "<laugh>"]
    expected = [tagged.encode(text) for text in texts]
    assert tagged.encode_batch(texts) == expected
    assert [np.frombuffer(ids, np.uint32).tolist() for ids in tagged.encode_bytes(texts)] == expected
    sent: TextTokenizer = pickle.loads(pickle.dumps(tagged))
    assert [sent.encode(text) for text in texts] == expected
    assert sent.fingerprint == tagged.fingerprint


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["laugh"], "expected a name in <>"),
        (["<|speech_end|>"], "expected a name in <>"),
        (["<a b>"], "expected a name in <>"),
        (["<laugh>", "<laugh>"], "comes twice"),
        ([3], "expected a list of names"),
        ([f"<{i}>" for i in range(MAX_MARKUP + 1)], "109 names; there are 108 reserved rows"),
    ],
)
def test_names_that_are_none_are_refused(names: list[object], message: str, tmp_path: Path) -> None:
    with pytest.raises(VocabularyError, match=rf"recipe\.json: .*{message}"):
        TextTokenizer.load(with_markup(tmp_path, names))


def test_a_name_that_is_a_token_of_text_is_refused(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    token = {"id": 400, "content": "<laugh>", "special": False}
    token |= dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    content["added_tokens"].append(token)
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    (tmp_path / "recipe.json").write_text(json.dumps({"markup": ["<laugh>"]}))
    with pytest.raises(VocabularyError, match="<laugh> is an entry of the tokenizer already"):
        TextTokenizer.load(tmp_path)


def test_names_are_fixed_once_they_are_used(plain: TextTokenizer, tagged: TextTokenizer, tmp_path: Path) -> None:
    """More names may follow; fewer, other or moved ones are another vocabulary."""
    more = TextTokenizer.load(with_markup(tmp_path / "more", (*NAMES, "<cough>")))
    moved = TextTokenizer.load(with_markup(tmp_path / "moved", NAMES[::-1]))
    assert more.vocabulary().markup_ids.items() > tagged.vocabulary().markup_ids.items()
    store = write_store(tmp_path / "store", tagged)
    check_tokenizer(store, tagged)
    check_tokenizer(store, more)
    for other in (plain, moved):
        with pytest.raises(DataError, match="was built with tokenizer"):
            check_tokenizer(store, other)

    def identity(tokenizer: TextTokenizer) -> Provenance:
        vocabulary = tokenizer.vocabulary()
        return Provenance(
            vocabulary=vocabulary.fingerprint,
            older_vocabularies=vocabulary.older_fingerprints,
            grammar=Grammar(vocabulary).fingerprint,
            model="llama3 debug",
            global_batch_tokens=1,
        )

    identity(tagged).check_fits(identity(plain), tmp_path, weights_only=True)
    identity(more).check_fits(identity(tagged), tmp_path, weights_only=True)
    for ours, theirs, weights_only in ((tagged, plain, False), (plain, tagged, True), (moved, tagged, True)):
        with pytest.raises(CheckpointError, match="vocabulary: the checkpoint has"):
            identity(ours).check_fits(identity(theirs), tmp_path, weights_only=weights_only)


def test_without_markup_nothing_changes(plain: TextTokenizer) -> None:
    vocabulary = plain.vocabulary()
    assert vocabulary.specials == SPECIALS
    assert (vocabulary.older_fingerprints, plain.older_fingerprints) == ((), ())


def write_store(path: Path, tokenizer: TextTokenizer) -> Store:
    writer = StoreWriter(
        path, name="tagged", codec=CODEC, tokenizer=tokenizer, normalization_version="nfc-1", licence="CC0-1.0"
    )
    with writer:
        for i in range(8):
            info = SampleInfo(sample_id=f"s{i}", dataset_source="tagged", language="en")
            texts = {"native": "well that is it", "audio_tagged": TAGGED}
            writer.add_speech(info, np.arange(20, dtype=np.uint16), texts)
    return open_store(path)


def test_a_tagged_transcript_is_a_document_with_the_row_of_its_name(tagged: TextTokenizer, tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", tagged)
    assert not verify_store(tmp_path / "store").problems
    source = SourceConfig(name="tagged", store="", task="tts", share=1.0, transcript="audio_tagged", train_on="all")
    grammar = Grammar(tagged.vocabulary())
    [part] = store.parts  # type: ignore[attr-defined]
    documents = documents_of(part, source, grammar, 128)
    ids = documents.document(0).ids_T.tolist()
    assert [ids.count(id_) for id_ in tagged.vocabulary().markup_ids.values()] == [1, 1]


def test_damaged_text_ids_are_still_found(tagged: TextTokenizer) -> None:
    vocabulary = tagged.vocabulary()
    good = np.array([0, 5, vocabulary.markup_ids["<laugh>"]], np.uint32)
    assert bad_text_id(good, tagged.num_base) is None
    for bad in (tagged.num_base, vocabulary.first_special_id, vocabulary.num_rows):
        assert bad_text_id(np.append(good, np.uint32(bad)), tagged.num_base) == bad


def test_the_exported_tokenizer_has_one_id_for_each_name(tagged: TextTokenizer, tmp_path: Path) -> None:
    base = json.loads((with_markup(tmp_path, NAMES) / "tokenizer.json").read_text())
    exported = Tokenizer.from_str(json.dumps(extended_tokenizer(base, tagged.vocabulary())))
    assert exported.encode(TAGGED, add_special_tokens=False).ids == tagged.encode(TAGGED)
