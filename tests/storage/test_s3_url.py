"""Addresses in object storage: what is one and what is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from titan_speech.errors import DataError
from titan_speech.storage.s3_url import S3Url, is_s3


@pytest.mark.parametrize("text", ["s3://bucket/a/b", "s3:/bucket/a/b", "s3://bucket/a/b/"])
def test_an_address_survives_being_a_path(text: str) -> None:
    assert is_s3(Path(text))
    assert S3Url.parse(Path(text)) == S3Url("bucket", "a/b")
    assert str(S3Url.parse(text).child("c")) == "s3://bucket/a/b/c"


@pytest.mark.parametrize(
    "text", ["s3://", "s3://b", "s3:///x", "gs://bucket/x", "folder", "s3://bucket/a//b", "s3://bucket/../a"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(DataError, match="expected"):
        S3Url.parse(text)
