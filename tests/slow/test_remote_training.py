"""A run whose stores lie in object storage trains on the same tokens: losses equal to the last bit."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.runs import ROOT, losses, train_well
from tests.support.s3_server import BUCKET, S3Server
from titan_speech.storage.s3_url import S3Url
from titan_speech.store.transfer import push_store

SHORT = ("--training.target_tokens", "3072", "--checkpoint.enable", "false")
NUM_STEPS = 3


@pytest.mark.slow
def test_losses_from_object_storage_equal_those_from_a_folder_to_the_last_bit(
    s3_server: S3Server, tmp_path: Path
) -> None:
    url = S3Url(BUCKET, "demo_data")
    push_store(ROOT / "demo_data", url, s3_server.settings(tmp_path / "unused"))
    stores = [word for i in range(3) for word in (f"--data.source.{i}.store", str(url))]
    cache = tmp_path / "cache"
    where = ("--storage.endpoint_url", s3_server.endpoint_url, "--storage.cache_dir", str(cache))
    local = losses(train_well(tmp_path / "local", *SHORT))
    remote = losses(train_well(tmp_path / "remote", *SHORT, *stores, *where))
    assert len(local) == NUM_STEPS
    assert remote == local
    assert list((cache / "files").iterdir()), "nothing was read from object storage"
