"""What was written is told from what was changed, by the fast checksum where there is one, by sha256 where not."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import xxhash

from tests.support.store_samples import write_store, write_tokenizer
from titan_speech.store.manifest import MANIFEST_NAME, FileInfo
from titan_speech.store.manifest_reader import read_manifest
from titan_speech.tokenization.text_tokenizer import TextTokenizer
from titan_speech.utils.checksum import is_intact

DATA = bytes(range(256)) * 5_000


def recorded(*, is_quick: bool) -> FileInfo:
    quick = xxhash.xxh3_128_hexdigest(DATA) if is_quick else ""
    return FileInfo("data", len(DATA), hashlib.sha256(DATA).hexdigest(), quick)


@pytest.mark.parametrize("is_quick", [True, False])
def test_one_changed_bit_is_seen(tmp_path: Path, is_quick: bool) -> None:
    path = tmp_path / "data"
    path.write_bytes(DATA)
    with open(path, "r+b") as opened:
        opened.seek(100)  # wherever the file stands, it is read from its beginning
        assert is_intact(opened, recorded(is_quick=is_quick))
        opened.seek(600_000)
        opened.write(bytes([DATA[600_000] ^ 1]))
        assert not is_intact(opened, recorded(is_quick=is_quick))


def test_a_damaged_record_condemns_no_file(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(DATA)
    with open(tmp_path / "data", "rb") as opened:
        assert is_intact(opened, FileInfo("data", len(DATA), recorded(is_quick=True).sha256, "0" * 32))


def test_a_store_has_both_of_every_file_and_one_without_the_fast_one_is_the_same_store(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", TextTokenizer.load(write_tokenizer(tmp_path / "tokenizer")))
    manifest = read_manifest(store)
    files = [file for part in manifest.parts for shard in part.shards for file in shard.files]
    for file in files:
        assert file.xxh3_128 == xxhash.xxh3_128_hexdigest((store / file.path).read_bytes())
    content = json.loads((store / MANIFEST_NAME).read_text())
    del content["xxh3_128"]
    (store / MANIFEST_NAME).write_text(json.dumps(content))
    without = read_manifest(store)
    assert without.fingerprint == manifest.fingerprint
    assert [part.fingerprint for part in without.parts] == [part.fingerprint for part in manifest.parts]
