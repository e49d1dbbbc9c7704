"""Other transcript variants by share: which samples, with which text, and what the fingerprint knows of it."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.plan_samples import World
from tests.support.store_samples import CODEC, write_tokenizer
from titan_speech.config.schema import SpeechConfig
from titan_speech.data.documents import Documents
from titan_speech.data.plan import DataPlan
from titan_speech.errors import DataError
from titan_speech.preflight.data_checks import check_sources
from titan_speech.store.sample import SampleInfo
from titan_speech.store.writer import StoreWriter
from titan_speech.tokenization.text_tokenizer import TextTokenizer

NUM_SAMPLES = 400
TEXTS = {"native": "press one", "romanized": "press one to hear this again", "code_mixed": "press this"}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Of every fourth sample there is no code-mixed transcript."""
    folder = tmp_path_factory.mktemp("variants")
    write_tokenizer(folder / "tokenizer")
    with StoreWriter(
        folder / "store",
        name="variants",
        codec=CODEC,
        tokenizer=TextTokenizer.load(folder / "tokenizer"),
        normalization_version="nfc-1",
        licence="CC0-1.0",
    ) as writer:
        for i in range(NUM_SAMPLES):
            texts = {name: text for name, text in TEXTS.items() if name != "code_mixed" or i % 4}
            info = SampleInfo(sample_id=f"s{i}", dataset_source="calls", language="hi", speaker_id=f"p{i % 9}")
            writer.add_speech(info, np.arange(i % 7 + 2, dtype=np.uint16), texts)
    return World(folder / "tokenizer", folder / "store")


def configured(world: World, task: str = "tts", **source: object) -> SpeechConfig:
    return world.config(world.source(task, 1.0, **source))


def documents_of(config: SpeechConfig) -> Documents:
    (stream,) = DataPlan.load(config).streams
    (documents,) = stream.documents
    assert isinstance(documents, Documents)
    return documents


def read_as(world: World, documents: Documents) -> list[str]:
    """The variant of each sample, by the ids of its document."""
    tokenizer = TextTokenizer.load(world.tokenizer)
    names = {tuple(tokenizer.encode(text)): name for name, text in TEXTS.items()}
    return [names[tuple(documents.text([i])[0].tolist())] for i in range(NUM_SAMPLES)]


def test_each_variant_has_its_share_of_the_samples_that_have_it(world: World) -> None:
    documents = documents_of(configured(world, augment={"romanized": 0.2, "code_mixed": 0.1}))
    found = read_as(world, documents)
    assert found.count("romanized") == pytest.approx(0.2 * NUM_SAMPLES, abs=2)
    assert found.count("code_mixed") == pytest.approx(0.1 * 0.75 * NUM_SAMPLES, abs=6)
    half = found[: NUM_SAMPLES // 2]
    assert half.count("romanized") == pytest.approx(0.1 * NUM_SAMPLES, abs=2)
    assert read_as(world, documents_of(configured(world, augment={"code_mixed": 0.1, "romanized": 0.2}))) == found


@pytest.mark.parametrize("task", ["tts", "clone"])
def test_lengths_and_tokens_are_those_of_the_text_that_is_read(world: World, task: str) -> None:
    documents = documents_of(configured(world, task, augment={"romanized": 0.5}))
    lengths = documents.lengths(0, NUM_SAMPLES)
    for i in range(NUM_SAMPLES):
        assert lengths[i] == len(documents.document(i).ids_T)
    plain = documents_of(configured(world, task))
    assert not np.array_equal(lengths, plain.lengths(0, NUM_SAMPLES))


def test_the_fingerprint_and_the_key_of_documents_know_of_it(world: World) -> None:
    shares: list[dict[str, float]] = [{}, {"romanized": 0.2}, {"romanized": 0.3}]
    plans = [DataPlan.load(configured(world)), *(DataPlan.load(configured(world, augment=some)) for some in shares)]
    fingerprints = [plan.fingerprint for plan in plans]
    assert fingerprints[0] == fingerprints[1]
    assert len(set(fingerprints)) == 3
    keys = [plan.streams[0].documents[0].key for plan in plans]
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3


def test_a_variant_that_no_sample_has_is_refused_by_name(world: World) -> None:
    with pytest.raises(DataError, match=r"augment audio_tagged not in store .*; it has code_mixed, native, romanized"):
        DataPlan.load(configured(world, augment={"audio_tagged": 0.2}))


def test_what_contradicts_itself_is_found_before_a_store_is_opened(world: World) -> None:
    def found(task: str = "tts", **source: object) -> list[str]:
        config = configured(world, task, **source)
        return [f"{finding.found}, expected {finding.expected}" for finding in check_sources(config.data)]

    assert found(augment={"romanized": 0.2}) == []
    assert "other transcripts of task speech" in found("speech", augment={"romanized": 0.2})[0]
    assert '"romanised", expected one of native, romanized' in found(augment={"romanised": 0.2})[0]
    assert '"native" twice' in found(augment={"native": 0.2})[0]
    assert "add up to 1.2" in found(augment={"romanized": 0.7, "code_mixed": 0.5})[0]
