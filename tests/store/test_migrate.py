"""Migrating stores: equal, byte for byte, to the store built with the new tokenizer, or an error that says why not."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.support.store_samples import (
    CODEC,
    SENTENCES,
    info,
    manifest_content,
    speech_codes,
    write_store,
    write_tokenizer,
)
from titan_speech.cli.main import main
from titan_speech.errors import DataError
from titan_speech.store import manifest_reader
from titan_speech.store.manifest import FORMAT_VERSION, content_fingerprint
from titan_speech.store.manifest_reader import UPGRADES, read_manifest
from titan_speech.store.merge import merge_stores
from titan_speech.store.migrate import MigrateOptions, migrate_store, plan_migration
from titan_speech.store.reader import open_store
from titan_speech.store.verify import verify_store
from titan_speech.store.writer import StoreWriter
from titan_speech.tokenization.normalize import normalization_version, normalize
from titan_speech.tokenization.text_tokenizer import TextTokenizer

SHARD_BYTES = 1500


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokenizer(tmp_path_factory.mktemp("tokenizers") / "old")


@pytest.fixture(scope="module")
def new(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokenizer(tmp_path_factory.mktemp("tokenizers") / "new", vocab_size=330)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, old: Path) -> Path:
    path = tmp_path_factory.mktemp("store") / "small"
    return write_store(path, TextTokenizer.load(old), num_samples=20, shard_bytes=SHARD_BYTES)


@pytest.fixture
def options(old: Path, new: Path) -> MigrateOptions:
    return MigrateOptions(tokenizer=new, old_tokenizer=old, shard_bytes=SHARD_BYTES)


def files_of(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def write_speech(path: Path, tokenizer: Path, *texts: str, language: str = "hi") -> Path:
    with StoreWriter(
        path,
        name="speech",
        codec=CODEC,
        tokenizer=TextTokenizer.load(tokenizer),
        normalization_version="none",
        licence="CC0-1.0",
    ) as writer:
        for i, text in enumerate(texts):
            sample = replace(info(f"s-{i}", language=language), segment_order=i, start_time=0.5 * i)
            writer.add_speech(sample, speech_codes(i), {"native": text})
    return path


@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_migrated_store_is_byte_for_byte_the_one_built_with_the_new_tokenizer(
    store: Path, new: Path, options: MigrateOptions, tmp_path: Path, num_workers: int
) -> None:
    migrate_store(store, tmp_path / "migrated", replace(options, num_workers=num_workers))
    write_store(tmp_path / "built", TextTokenizer.load(new), num_samples=20, shard_bytes=SHARD_BYTES)
    assert files_of(tmp_path / "migrated") == files_of(tmp_path / "built")
    assert verify_store(tmp_path / "migrated").is_sound


def test_stores_of_two_tokenizers_can_be_merged_once_one_is_migrated(
    store: Path, new: Path, options: MigrateOptions, tmp_path: Path
) -> None:
    other = TextTokenizer.load(new)
    with StoreWriter(
        tmp_path / "other", name="o", codec=CODEC, tokenizer=other, normalization_version="nfc-1", licence="CC0-1.0"
    ) as writer:
        writer.add_text(info("extra", "wiki"), "more text")
    with pytest.raises(DataError, match="store migrate STORE --tokenizer DIR"):
        merge_stores([store, tmp_path / "other"], tmp_path / "merged")
    migrate_store(store, tmp_path / "migrated", options)
    assert merge_stores([tmp_path / "migrated", tmp_path / "other"], tmp_path / "merged").num_samples == 81


def test_transcripts_get_the_normal_form_and_a_new_hash(old: Path, tmp_path: Path) -> None:
    text = "\u0915\u093c\u0932\u092e  \u2018hello\u2019 \u0967\u0968"
    path = write_speech(tmp_path / "store", old, text, "plain")
    before = {row.sample_id: row for row in map(open_store(path).parts[0].row, range(2))}
    migrate_store(path, tmp_path / "migrated", MigrateOptions(tokenizer=old, normalize=True))
    part = open_store(tmp_path / "migrated").parts[0]
    for i in range(2):
        row = part.row(i)
        expected = normalize(before[row.sample_id].transcript_native or "", "hi")
        assert row.transcript_native == expected
        assert TextTokenizer.load(old).decode(part.text(i, "native").tolist()) == expected
        assert (row.transcript_hash != before[row.sample_id].transcript_hash) == (row.sample_id == "s-0")
        assert row.normalization_version == normalization_version()
    assert normalize(text, "hi") != text
    assert verify_store(tmp_path / "migrated").is_sound


# What cannot be done is reported, and nothing is written


def test_without_the_old_tokenizer_text_parts_are_named_with_what_they_hold(
    store: Path, options: MigrateOptions, tmp_path: Path
) -> None:
    with pytest.raises(DataError) as caught:
        migrate_store(store, tmp_path / "migrated", replace(options, old_tokenizer=None))
    tokens = {part.name: part.num_tokens for part in open_store(store).parts}
    both = tokens["wiki.en.text"] + tokens["chat.en.text"]
    for expected in (
        f"wiki.en.text (20 samples, {tokens['wiki.en.text']:,} tokens): must be rebuilt",
        f"to rebuild: 40 samples, {both:,} text tokens",
        "--old-tokenizer DIR",
        "prompts.en.speech",
    ):
        assert expected in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_another_codec_says_how_much_must_be_encoded_again(store: Path, tmp_path: Path) -> None:
    options = MigrateOptions(codec_name="xcodec2", codec_hash="feedbeef")
    parts = {part.name: part.info for part in open_store(store).parts}
    minutes = sum(part.duration_sec for part in parts.values()) / 60
    with pytest.raises(DataError) as caught:
        migrate_store(store, tmp_path / "migrated", options)
    for expected in (
        f"embedded, hash {CODEC.hash} -> xcodec2, hash feedbeef",
        f"prompts.en.speech (20 samples, {parts['prompts.en.speech'].num_tokens:,} tokens",
        f"to encode again: 40 samples, {minutes:.1f} min of audio",
    ):
        assert expected in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_the_plan_prints_the_same_and_writes_nothing(
    store: Path, new: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files_of(store)
    words = ["store", "migrate", str(store), "--tokenizer", str(new), "--plan"]
    assert main([*words, "--output", str(tmp_path / "migrated")]) == 0
    printed = capsys.readouterr().out
    assert "wiki.en.text" in printed
    assert "transcripts are tokenized again" in printed
    assert files_of(store) == before
    assert not list(tmp_path.iterdir())
    assert main(words[:-1]) == 2
    assert "no --output" in capsys.readouterr().err
    assert main(["store", "migrate", str(store), "--codec", "xcodec2", "--plan"]) == 2
    assert "give both" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--plan", "--output"])
def test_with_nothing_to_change_the_command_says_so_and_writes_nothing(
    store: Path, old: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flag: str
) -> None:
    words = ["store", "migrate", str(store), "--tokenizer", str(old), flag]
    assert main([*words, str(tmp_path / "new")] if flag == "--output" else words) == 0
    assert f"nothing to migrate: {store}" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_cleaning_outlives_another_normalization(old: Path, tmp_path: Path) -> None:
    tokenizer, path = TextTokenizer.load(old), tmp_path / "store"
    with StoreWriter(
        path, name="s", codec=None, tokenizer=tokenizer, normalization_version="text-0+clean-1", licence="MIT"
    ) as writer:
        writer.add_text(info("a", "wiki", "en"), "It has ...  all of it")
    migrated = migrate_store(path, tmp_path / "new", MigrateOptions(tokenizer=old, old_tokenizer=old, normalize=True))
    assert migrated.normalization_version == f"{normalization_version()}+clean-1"
    assert verify_store(tmp_path / "new").is_sound


def test_a_wrong_old_tokenizer_is_refused(store: Path, old: Path, new: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing to migrate"):
        migrate_store(store, tmp_path / "new", MigrateOptions(tokenizer=old, codec_hash=CODEC.hash))
    with pytest.raises(DataError, match=r"was built with .* give that one"):
        plan_migration(store, MigrateOptions(tokenizer=new, old_tokenizer=new))
    with pytest.raises(DataError, match="name the tokenizer too"):
        plan_migration(store, MigrateOptions(normalize=True))


def test_ids_that_are_not_those_of_their_text_are_refused(
    store: Path, old: Path, options: MigrateOptions, tmp_path: Path
) -> None:
    """Ids of single bytes decode to the same text, which the tokenizer would have merged."""
    tokenizer = TextTokenizer.load(old)
    with StoreWriter(
        tmp_path / "store", name="s", codec=None, tokenizer=tokenizer, normalization_version="1", licence="MIT"
    ) as writer:
        writer.add_text(info("odd", "wiki"), "store")
        writer.add_text(info("even", "wiki"), SENTENCES[0])
        encode_batch = tokenizer.encode_batch
        tokenizer.encode_batch = lambda texts: [  # a tokenizer that does not merge
            [tokenizer.encode(c)[0] for c in text] if text == "store" else encode_batch([text])[0] for text in texts
        ]
    with pytest.raises(DataError, match=r"part wiki.en.text: the ids of sample odd .* rebuild this part"):
        migrate_store(tmp_path / "store", tmp_path / "migrated", options)
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_a_text_of_which_normalization_leaves_nothing_is_named(old: Path, tmp_path: Path) -> None:
    path = write_speech(tmp_path / "store", old, "fine", "\u200e\u00ad", "\u200e")
    with pytest.raises(DataError, match=r"nothing is left of a text of sample s-\d by normalization \(nor of 1 more"):
        migrate_store(path, tmp_path / "migrated", MigrateOptions(tokenizer=old, normalize=True))
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_a_damaged_store_is_named_before_it_is_migrated(store: Path, options: MigrateOptions, tmp_path: Path) -> None:
    damaged = Path(shutil.copytree(store, tmp_path / "damaged"))
    file = damaged / "wiki.en.text/00000.tokens"
    file.write_bytes(bytes([file.read_bytes()[0] ^ 1]) + file.read_bytes()[1:])
    with pytest.raises(DataError, match=r"wiki.en.text/00000.tokens is damaged"):
        migrate_store(damaged, tmp_path / "migrated", options)
    assert [path.name for path in tmp_path.iterdir()] == ["damaged"]


def test_every_older_format_version_has_its_upgrade(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert sorted(UPGRADES) == list(range(1, FORMAT_VERSION))
    monkeypatch.setattr(manifest_reader, "FORMAT_VERSION", FORMAT_VERSION + 1)
    monkeypatch.setitem(UPGRADES, FORMAT_VERSION, lambda content: content | {"name": f"{content['name']}, upgraded"})
    manifest = read_manifest(store)
    assert (manifest.name, manifest.format_version) == ("small, upgraded", FORMAT_VERSION + 1)
    assert manifest.fingerprint == content_fingerprint(manifest_content(store))
    assert "transcript_native" in pq.read_schema(store / "prompts.en.speech/00000.parquet").names
