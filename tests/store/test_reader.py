"""Reading a token store: round trip, same bytes, and every kind of damage named before its data is used."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.store_samples import (
    CODEC,
    NUM_SAMPLES,
    SENTENCES,
    files_of,
    info,
    manifest_content,
    speech_codes,
    store_writer,
    transcripts_of,
    write_store,
    write_tokenizer,
)
from titan_speech.errors import DataError
from titan_speech.store.manifest import CodecInfo, Kind, content_fingerprint
from titan_speech.store.reader import Part, Store, check_same_codec, check_tokenizer, open_store
from titan_speech.store.shard_reader import ShardReader
from titan_speech.store.writer import StoreWriter
from titan_speech.tokenization.text_tokenizer import TextTokenizer


def sample_ids(part: Part) -> list[str]:
    return part.column("sample_id").to_pylist()


def flip_bit(file: Path, byte: int, bit: int = 0) -> None:
    data = bytearray(file.read_bytes())
    data[byte] ^= 1 << bit
    file.write_bytes(data)


def reseal(path: Path, change: Callable[[dict], None]) -> None:
    """Edits a manifest as another program might have written it."""
    content = manifest_content(path)
    change(content)
    content["fingerprint"] = content_fingerprint(content)
    (path / "manifest.json").write_text(json.dumps(content))


# Round trip


def test_every_sample_comes_back_with_its_codes_transcripts_and_metadata(
    pristine: Path, tokenizer: TextTokenizer
) -> None:
    part = open_store(pristine).part("prompts", "en", Kind.SPEECH)
    assert sorted(sample_ids(part)) == sorted(f"prompt-{i}" for i in range(NUM_SAMPLES))
    for n in range(part.num_samples):
        row = part.row(n)
        i = int(row.sample_id.removeprefix("prompt-"))
        texts = transcripts_of(i)
        assert np.array_equal(part.codes(n), speech_codes(i))
        assert row.code_len == part.code_len_N[n] == len(speech_codes(i))
        assert (row.transcript_native, row.transcript_description) == (
            texts["native"],
            texts.get("description"),
        )
        for variant in ("native", "romanized", "description"):
            expected = tokenizer.encode(texts[variant]) if variant in texts else []
            assert part.text(n, variant).tolist() == expected
            assert part.text_len_N(variant)[n] == len(expected)
        assert (row.speaker_id, row.source_video_id, row.segment_order) == ("allison", "tape-1", 3)
        assert (row.start_time, row.end_time, row.sample_rate) == (1.5, 2.25, 16_000)
        assert (row.codec_ckpt_hash, row.tokenizer_version) == (CODEC.hash, tokenizer.fingerprint)


def test_text_and_instructions_come_back(pristine: Path, tokenizer: TextTokenizer) -> None:
    store = open_store(pristine)
    wiki, chat = store.part("wiki", "en", Kind.TEXT), store.part("chat", "en", Kind.TEXT)
    for n, sample_id in enumerate(sample_ids(wiki)):
        i = int(sample_id.removeprefix("wiki-"))
        assert tokenizer.decode(wiki.tokens(n).tolist()) == f"{SENTENCES[i % 5]} number {i}"
    for n, sample_id in enumerate(sample_ids(chat)):
        i = int(sample_id.removeprefix("chat-"))
        assert tokenizer.decode(chat.text(n, "user").tolist()) == f"what is {i}?"
        assert tokenizer.decode(chat.tokens(n).tolist()) == f"the answer is {i}"


@settings(max_examples=20, deadline=None)
@given(st.lists(st.lists(st.integers(0, 65_535), min_size=1, max_size=30), min_size=1, max_size=30), st.data())
def test_any_codes_survive_at_any_shard_size(
    tmp_path_factory: pytest.TempPathFactory,
    tokenizer: TextTokenizer,
    samples: list[list[int]],
    data: st.DataObject,
) -> None:
    path = tmp_path_factory.mktemp("any") / "store"
    shard_bytes = data.draw(st.integers(1, 200))
    with StoreWriter(
        path,
        name="any",
        codec=CODEC,
        tokenizer=tokenizer,
        normalization_version="none",
        licence="CC0-1.0",
        shard_bytes=shard_bytes,
    ) as out:
        for i, codes in enumerate(samples):
            out.add_speech(info(str(i)), codes)
    part = open_store(path).parts[0]
    for n, sample_id in enumerate(sample_ids(part)):
        codes = samples[int(sample_id)]
        assert part.codes(n).tolist() == codes
        assert part.codes(n)[1:3].tolist() == codes[1:3]
    assert part.num_samples == len(samples)
    assert part.num_tokens == sum(map(len, samples)) == part.code_len_N.sum()
    assert all(shard.num_samples > 0 for shard in part.info.shards)


def test_samples_are_views_of_the_file_and_cannot_be_written(pristine: Path) -> None:
    codes = open_store(pristine).part("wild", "hi", Kind.SPEECH).codes(0)
    assert codes.base is not None
    with pytest.raises(ValueError, match="read-only"):
        codes[0] = 1


def test_a_store_reads_the_same_after_pickling_into_another_process(pristine: Path) -> None:
    store = open_store(pristine)
    before = [part.codes(3).tolist() for part in store.parts if part.kind is Kind.SPEECH]
    copy = pickle.loads(pickle.dumps(store))
    assert [part.codes(3).tolist() for part in copy.parts if part.kind is Kind.SPEECH] == before
    assert len(pickle.dumps(store)) < 50_000
    assert copy.fingerprint == store.fingerprint


def test_reading_holds_no_file_open(pristine: Path) -> None:
    store = open_store(pristine)
    before = len(os.listdir("/proc/self/fd"))
    for part in store.parts:
        for n in range(part.num_samples):
            part.codes(n) if part.kind is Kind.SPEECH else part.tokens(n)
    assert len(os.listdir("/proc/self/fd")) == before


def test_manifest_totals_equal_what_the_shards_hold(pristine: Path) -> None:
    store = open_store(pristine)
    for part in store.parts:
        assert part.num_tokens == sum(shard.num_tokens for shard in part.info.shards) == part.code_len_N.sum()
        for variant in part.info.variants:
            lengths = part.text_len_N(variant.name)
            assert (variant.num_samples, variant.num_tokens) == (np.count_nonzero(lengths), lengths.sum())
    totals = manifest_content(pristine)["totals"]["language"]
    hindi = store.part("wild", "hi", Kind.SPEECH)
    assert totals["hi"]["num_tokens"] == hindi.num_tokens
    assert totals["hi"]["duration_sec"] == pytest.approx(hindi.num_tokens / 50)


# Order and bytes


def test_same_inputs_give_the_same_bytes_in_whatever_order_they_arrive(
    pristine: Path, tokenizer: TextTokenizer, tmp_path: Path
) -> None:
    again = write_store(tmp_path / "again", tokenizer, num_samples=NUM_SAMPLES)
    reverse = write_store(tmp_path / "reverse", tokenizer, num_samples=NUM_SAMPLES, reverse=True)
    assert files_of(again) == files_of(pristine) == files_of(reverse)


def test_samples_are_shuffled_by_the_seed(pristine: Path, tokenizer: TextTokenizer, tmp_path: Path) -> None:
    other = open_store(write_store(tmp_path / "other", tokenizer, num_samples=NUM_SAMPLES, seed=1))
    first = open_store(pristine)
    orders = [sample_ids(store.part("wild", "hi", Kind.SPEECH)) for store in (first, other)]
    arrival = [f"wild-{i}" for i in range(NUM_SAMPLES)]
    assert sorted(orders[0]) == sorted(orders[1]) == sorted(arrival)
    assert orders[0] != orders[1]
    assert arrival not in orders
    assert first.fingerprint != other.fingerprint


def test_the_fingerprint_sees_one_changed_code_and_not_a_new_name(tokenizer: TextTokenizer, tmp_path: Path) -> None:
    fingerprints = []
    for name, code in (("a", 5), ("b", 5), ("c", 6)):
        out = StoreWriter(
            tmp_path / name,
            name=name,
            codec=CODEC,
            tokenizer=tokenizer,
            normalization_version="nfc-1",
            licence="CC0-1.0",
        )
        with out:
            out.add_speech(info("one"), [1, code])
        fingerprints.append(open_store(tmp_path / name).fingerprint)
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]


# Damage


def test_missing_and_truncated_files_are_named_together_when_a_store_is_opened(store_path: Path) -> None:
    (store_path / "wild.hi.speech/00001.tokens").unlink()
    os.truncate(store_path / "prompts.en.speech/00000.text.native", 3)
    with pytest.raises(DataError) as error:
        open_store(store_path)
    message = str(error.value)
    assert "wild.hi.speech/00001.tokens is missing" in message
    assert "prompts.en.speech/00000.text.native is truncated: 3 bytes, expected" in message
    assert str(store_path) in message


@pytest.mark.parametrize(
    ("file", "read"),
    [
        ("wild.hi.speech/00000.tokens", lambda store: store.part("wild", "hi", Kind.SPEECH).codes(0)),
        (
            "prompts.en.speech/00000.text.native",
            lambda s: s.part("prompts", "en", Kind.SPEECH).text(0, "native"),
        ),
        ("wiki.en.text/00000.tokens", lambda store: store.part("wiki", "en", Kind.TEXT).tokens(0)),
        ("wild.hi.speech/00000.parquet", lambda store: store.part("wild", "hi", Kind.SPEECH).row(0)),
    ],
)
def test_a_flipped_bit_is_named_before_its_data_is_used(
    store_path: Path, file: str, read: Callable[[Store], object]
) -> None:
    read(open_store(store_path))
    flip_bit(store_path / file, (store_path / file).stat().st_size - 1, bit=7)
    with pytest.raises(DataError, match="is damaged") as error:
        read(open_store(store_path))
    assert file in str(error.value)


def test_no_flipped_bit_of_a_sidecar_changes_a_column_unnoticed(store_path: Path) -> None:
    store = open_store(store_path)
    part = store.part("prompts", "en", Kind.SPEECH)
    reader = ShardReader(store.files, part.info, part.info.shards[0], store.manifest.tokenizer.num_base)
    file = store_path / "prompts.en.speech/00000.parquet"
    sound, columns = file.read_bytes(), ("code_len", "sample_id")
    expected = [reader.column(name).to_pylist() for name in columns]
    outcomes = []
    for byte in range(0, len(sound), 13):
        flip_bit(file, byte, byte % 8)
        outcomes.append(outcome := [values_or_none(reader, name) for name in columns])
        assert all(found in (None, right) for found, right in zip(outcome, expected, strict=True)), byte
        file.write_bytes(sound)
    assert [None, None] in outcomes


def values_or_none(reader: ShardReader, name: str) -> list | None:
    """None where the damage was noticed."""
    try:
        return reader.column(name).to_pylist()
    except DataError:
        return None


def test_a_newer_format_version_is_refused(store_path: Path) -> None:
    reseal(store_path, lambda content: content.update(format_version=2))
    with pytest.raises(DataError, match="format version 2, this titan_speech reads 1 to 1; upgrade"):
        open_store(store_path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format_version": 1}', '{"format_version": "one"}'])
def test_a_manifest_that_is_none_is_refused(store_path: Path, text: str) -> None:
    (store_path / "manifest.json").write_text(text)
    with pytest.raises(DataError, match=r"manifest\.json"):
        open_store(store_path)


def test_an_edited_manifest_is_refused_but_an_added_key_is_read(store_path: Path) -> None:
    reseal(store_path, lambda content: content.update(note="a later minor addition"))
    assert open_store(store_path).manifest.fingerprint == manifest_content(store_path)["fingerprint"]
    content = manifest_content(store_path)
    content["parts"][0]["num_tokens"] += 1
    (store_path / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="a manifest is never edited"):
        open_store(store_path)


def test_text_ids_beyond_the_tokenizer_are_refused(store_path: Path) -> None:
    reseal(store_path, lambda content: content["tokenizer"].update(num_base=100))
    with pytest.raises(DataError, match="expected less than 100"):
        [open_store(store_path).part("wiki", "en", Kind.TEXT).tokens(n) for n in range(NUM_SAMPLES)]


def test_a_path_without_a_store_names_the_stores_beside_it(pristine: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"stores in .*: small"):
        open_store(pristine.parent / "smal")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"manifest\.json is missing"):
        open_store(tmp_path / "empty")


def test_asking_for_what_a_part_does_not_have_names_what_it_has(pristine: Path) -> None:
    store = open_store(pristine)
    paired, wiki = store.part("prompts", "en", Kind.SPEECH), store.part("wiki", "en", Kind.TEXT)
    with pytest.raises(DataError, match=r"no code_mixed text \(it has: native, romanized, description\)"):
        paired.text_len_N("code_mixed")
    with pytest.raises(DataError, match="holds text"):
        wiki.codes(0)
    with pytest.raises(DataError, match="holds speech"):
        paired.tokens(0)
    with pytest.raises(DataError, match=r"no part wiki\.hi\.text; it has chat\.en\.text"):
        store.part("wiki", "hi", Kind.TEXT)
    for n in (-1, NUM_SAMPLES):
        with pytest.raises(IndexError, match=str(n)):
            paired.codes(n)


def test_stores_of_two_codecs_are_both_named(pristine: Path, tokenizer: TextTokenizer, tmp_path: Path) -> None:
    other = CodecInfo("xcodec2", "feedbeef")
    second = open_store(write_store(tmp_path / "second", tokenizer, num_samples=2, codec=other))
    text_only = store_writer(tmp_path / "text", tokenizer, codec=None)
    with text_only:
        text_only.add_text(info("t"), "some text")
    first, text = open_store(pristine), open_store(tmp_path / "text")
    check_same_codec([first, first, text])
    with pytest.raises(DataError) as error:
        check_same_codec([first, text, second])
    for part in (str(pristine), str(tmp_path / "second"), CODEC.hash, "feedbeef"):
        assert part in str(error.value)
    assert str(tmp_path / "text") not in str(error.value)


def test_a_store_of_another_tokenizer_is_refused(pristine: Path, tokenizer: TextTokenizer, tmp_path: Path) -> None:
    other = TextTokenizer.load(write_tokenizer(tmp_path, ["other words make other merges"], 300))
    check_tokenizer(open_store(pristine), tokenizer)
    with pytest.raises(DataError, match=f"built with tokenizer {tokenizer.fingerprint}.*has {other.fingerprint}"):
        check_tokenizer(open_store(pristine), other)
