"""Merging stores: equal, byte for byte, to the store built from all inputs at once, or nothing."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.store_samples import (
    CODEC,
    SENTENCES,
    add_all_kinds,
    info,
    speech_codes,
    write_store,
    write_tokenizer,
)
from titan_speech.cli.main import main
from titan_speech.errors import DataError
from titan_speech.store.manifest import CodecInfo, Kind
from titan_speech.store.merge import MergeOptions, merge_stores
from titan_speech.store.reader import open_store
from titan_speech.store.verify import verify_store
from titan_speech.store.writer import StoreWriter
from titan_speech.tokenization.text_tokenizer import TextTokenizer

SMALL = MergeOptions(name="small", shard_bytes=1500)


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory, tokenizer: TextTokenizer) -> Path:
    return write_store(tmp_path_factory.mktemp("together") / "small", tokenizer, num_samples=40, shard_bytes=1500)


def write_range(path: Path, tokenizer: TextTokenizer, samples: range, **changes: Any) -> Path:
    """The samples of `write_store` with these numbers."""
    options: dict[str, Any] = {
        "codec": CODEC,
        "normalization_version": "nfc-1",
        "licence": "CC0-1.0",
        "seed": 0,
        "shard_bytes": 1000,
    }
    with StoreWriter(path, name=path.name, tokenizer=tokenizer, **(options | changes)) as writer:
        for i in samples:
            add_all_kinds(writer, i)
    return path


@pytest.fixture
def thirds(tmp_path: Path, tokenizer: TextTokenizer) -> list[Path]:
    ranges = (range(13), range(13, 29), range(29, 40))
    return [write_range(tmp_path / f"store-{n}", tokenizer, some) for n, some in enumerate(ranges)]


def files_of(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def nothing_written(folder: Path, output: Path, paths: list[Path]) -> bool:
    return sorted(folder.iterdir()) == sorted(paths) and not output.exists()


@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_merged_store_is_byte_for_byte_the_one_built_from_all_inputs(
    together: Path, thirds: list[Path], tmp_path: Path, num_workers: int
) -> None:
    options = MergeOptions(name="small", shard_bytes=1500, num_workers=num_workers)
    merged = merge_stores(thirds, tmp_path / "merged", options)
    assert files_of(tmp_path / "merged") == files_of(together)
    assert merged.fingerprint == open_store(together).fingerprint
    assert verify_store(tmp_path / "merged").is_sound


def test_the_order_of_the_stores_does_not_matter(together: Path, thirds: list[Path], tmp_path: Path) -> None:
    merge_stores(thirds[::-1], tmp_path / "merged", SMALL)
    assert files_of(tmp_path / "merged") == files_of(together)


def test_stores_of_other_seeds_are_reordered_under_one(
    together: Path, tokenizer: TextTokenizer, tmp_path: Path
) -> None:
    seeds = ((0, range(20)), (5, range(20, 40)))
    paths = [write_range(tmp_path / f"seed-{seed}", tokenizer, some, seed=seed) for seed, some in seeds]
    merge_stores(paths, tmp_path / "merged", SMALL)
    assert files_of(tmp_path / "merged") == files_of(together)
    merge_stores(paths, tmp_path / "other", MergeOptions(name="small", shard_bytes=1500, seed=9))
    assert open_store(tmp_path / "other").manifest.seed == 9
    assert verify_store(tmp_path / "other").is_sound


def test_parts_and_variants_of_one_store_only_are_kept(tokenizer: TextTokenizer, tmp_path: Path) -> None:
    options: dict[str, Any] = {"tokenizer": tokenizer, "normalization_version": "nfc-1", "licence": "CC0-1.0"}
    mit: dict[str, Any] = options | {"licence": "MIT"}
    with StoreWriter(tmp_path / "speech", name="speech", codec=CODEC, **options) as writer:
        writer.add_speech(info("a"), speech_codes(1), {"native": "one"})
    with StoreWriter(tmp_path / "more", name="more", codec=CODEC, **options) as writer:
        writer.add_speech(info("b"), speech_codes(2), {"romanized": "two"})
        writer.add_speech(info("c", "wild"), speech_codes(3))
    with StoreWriter(tmp_path / "text", name="text", codec=None, **mit) as writer:
        writer.add_text(info("d", "wiki"), SENTENCES[0])
    merge_stores([tmp_path / "text", tmp_path / "speech", tmp_path / "more"], tmp_path / "merged")
    store = open_store(tmp_path / "merged")
    assert [part.name for part in store.parts] == ["prompts.en.speech", "wiki.en.text", "wild.en.speech"]
    assert (store.manifest.licence, store.manifest.codec) == ("MIT AND CC0-1.0", CODEC)
    prompts = store.part("prompts", "en", Kind.SPEECH)
    texts = {
        prompts.row(i).sample_id: tuple(tokenizer.decode(prompts.text(i, v).tolist()) for v in ("native", "romanized"))
        for i in range(2)
    }
    assert texts == {"a": ("one", ""), "b": ("", "two")}
    assert verify_store(tmp_path / "merged").is_sound


def test_cleaned_text_joins_speech_and_each_keeps_the_version_it_was_made_with(
    tokenizer: TextTokenizer, tmp_path: Path
) -> None:
    versions = ("text-1", "text-1+clean-1", "text-1+clean-2")
    paths = [tmp_path / version for version in versions]
    for n, (path, version) in enumerate(zip(paths, versions, strict=True)):
        with StoreWriter(
            path, name="s", codec=CODEC, tokenizer=tokenizer, normalization_version=version, licence="MIT"
        ) as writer:
            for i in range(3):
                if n == 0:
                    writer.add_speech(info(f"0-{i}", "all"), speech_codes(i))
                else:
                    writer.add_text(info(f"{n}-{i}", "all"), SENTENCES[i])
    merge_stores(paths[:0:-1], tmp_path / "texts")
    merged = merge_stores([tmp_path / "texts", paths[0]], tmp_path / "merged")
    assert merged.normalization_version == "text-1 and text-1+clean-1 and text-1+clean-2"
    rows = [part.row(i) for part in open_store(tmp_path / "merged").parts for i in range(part.info.num_samples)]
    found = {row.sample_id: row.normalization_version for row in rows}
    assert found == {f"{n}-{i}": versions[n] for n in range(3) for i in range(3)}
    assert verify_store(tmp_path / "merged").is_sound


# Refused, and nothing is left


def test_another_codec_is_refused_naming_both(tokenizer: TextTokenizer, tmp_path: Path) -> None:
    paths = [
        write_range(tmp_path / "a", tokenizer, range(3)),
        write_range(tmp_path / "b", tokenizer, range(3, 6), codec=CodecInfo("xcodec2", "0ther")),
    ]
    with pytest.raises(DataError, match=r"codecs differ(.|\n)*a: embedded, hash c0dec(.|\n)*b: xcodec2, hash 0ther"):
        merge_stores(paths, tmp_path / "merged", SMALL)
    assert nothing_written(tmp_path, tmp_path / "merged", paths)


def test_another_tokenizer_or_normalization_is_refused_pointing_to_migrate(
    tokenizer: TextTokenizer, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = write_tokenizer(tmp_path_factory.mktemp("other"), vocab_size=300)
    other = TextTokenizer.load(folder)
    paths = [
        write_range(tmp_path / "a", tokenizer, range(3)),
        write_range(tmp_path / "b", other, range(3, 6), normalization_version="nfc-2"),
    ]
    with pytest.raises(DataError) as caught:
        merge_stores(paths, tmp_path / "merged", SMALL)
    message = str(caught.value)
    migrate = ("STORE --tokenizer DIR", f"{paths[1]} --normalization --tokenizer DIR --old-tokenizer DIR --output NEW")
    for expected in (tokenizer.fingerprint, other.fingerprint, "nfc-1", "nfc-2", *migrate):
        assert expected in message
    assert nothing_written(tmp_path, tmp_path / "merged", paths)


def test_repeated_sample_ids_are_refused_first_named_rest_counted(
    thirds: list[Path], tokenizer: TextTokenizer, tmp_path: Path
) -> None:
    again = write_range(tmp_path / "again", tokenizer, range(27, 31))
    with pytest.raises(DataError, match=r"duplicate sample_id in .*store-.* and .*again \(and 15 more samples\)"):
        merge_stores([*thirds, again], tmp_path / "merged", SMALL)
    assert nothing_written(tmp_path, tmp_path / "merged", [*thirds, again])


def test_a_damaged_store_is_named_and_nothing_is_left(thirds: list[Path], tmp_path: Path) -> None:
    file = thirds[1] / "wild.hi.speech/00000.tokens"
    file.write_bytes(bytes([file.read_bytes()[0] ^ 1]) + file.read_bytes()[1:])
    with pytest.raises(DataError, match=r"store-1/wild.hi.speech/00000.tokens is damaged"):
        merge_stores(thirds, tmp_path / "merged", SMALL)
    assert nothing_written(tmp_path, tmp_path / "merged", thirds)


def test_an_existing_output_one_store_or_a_store_twice_are_refused(thirds: list[Path], tmp_path: Path) -> None:
    for paths in (thirds[:1], [thirds[0], thirds[0]]):
        with pytest.raises(DataError, match="expected two or more different ones"):
            merge_stores(paths, tmp_path / "merged", SMALL)
    shutil.copytree(thirds[0], tmp_path / "merged")
    before = files_of(tmp_path / "merged")
    with pytest.raises(DataError, match="exists already"):
        merge_stores(thirds, tmp_path / "merged", SMALL)
    assert files_of(tmp_path / "merged") == before


def test_the_command_merges_and_prints_the_number_of_samples(
    thirds: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["store", "merge", *map(str, thirds), "--output", str(tmp_path / "merged")]
    assert main(words) == 0
    assert "160 samples" in capsys.readouterr().out
    assert np.sum([part.num_samples for part in open_store(tmp_path / "merged").parts]) == 160
    assert main(words) == 2
    assert "exists already" in capsys.readouterr().err
