"""An object sent in parts is the file, and a folder is sent whole or not at all."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from tests.support.s3_server import BUCKET, S3Server
from titan_speech.errors import DataError
from titan_speech.storage.s3 import client_of
from titan_speech.storage.s3_url import S3Url
from titan_speech.storage.upload import PART_BYTES, digest_file, upload_file, upload_folder


def test_an_object_in_parts_is_the_file(s3_server: S3Server, tmp_path: Path) -> None:
    data = np.random.default_rng(0).bytes(20_000_000)
    (tmp_path / "big").write_bytes(data)
    client, url = client_of(s3_server.settings(tmp_path / "cache")), S3Url(BUCKET, "big/big")
    digest = digest_file(tmp_path / "big", PART_BYTES)
    assert len(digest.parts) == 3
    upload_file(client, tmp_path / "big", url, digest)
    assert client.read(url) == data
    assert client.stored_sha256(url) == hashlib.sha256(data).hexdigest()


def test_a_folder_that_lacks_a_file_is_not_sent(s3_server: S3Server, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    client, url = client_of(s3_server.settings(tmp_path / "cache")), S3Url(BUCKET, "lacking")
    with pytest.raises(DataError, match="b is missing"):
        upload_folder(client, tmp_path, url, paths=["a", "b"])
    assert client.list_sizes(url) == {}
