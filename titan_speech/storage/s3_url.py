"""Addresses in object storage: `s3://bucket/prefix`.

In: text. Out: `S3Url`, or a `DataError` that says what was expected. A `pathlib.Path` made of such text has lost one
slash (`s3:/bucket`); it is read as what was meant, since no folder is called `s3:`. Imports no boto3, which takes
0.25 s.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from titan_speech.errors import DataError

_SCHEME = re.compile(r"s3:/+")
_BUCKET = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]{1,61}[a-zA-Z0-9]")


@dataclass(frozen=True)
class S3Url:
    """An object, or the prefix of several objects; the key neither begins nor ends with a slash."""

    bucket: str
    key: str

    @classmethod
    def parse(cls, text: str | os.PathLike[str]) -> S3Url:
        """
        Raises:
            DataError: the text is not an address in object storage.
        """
        scheme = _SCHEME.match(os.fspath(text))
        bucket, _, key = os.fspath(text)[scheme.end() if scheme else 0 :].partition("/")
        if scheme is None:
            raise DataError(f'"{text}" is not an address in object storage; expected s3://bucket/prefix')
        if not _BUCKET.fullmatch(bucket):
            raise DataError(
                f'"{text}" names the bucket "{bucket}"; expected s3://bucket/prefix, a bucket of 3 to 63 letters, '
                'digits, ".", "_" and "-"'
            )
        if "//" in key or set(key.split("/")) & {".", ".."}:
            raise DataError(f'"{text}": expected a prefix without empty parts, "." and ".."')
        return cls(bucket, key.strip("/"))

    def child(self, path: str) -> S3Url:
        """The address of `path` below this prefix."""
        return S3Url(self.bucket, f"{self.key}/{path}" if self.key else path)

    @property
    def name(self) -> str:
        """The last part of the address."""
        return (self.key or self.bucket).rpartition("/")[2]

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}" if self.key else f"s3://{self.bucket}"


def is_s3(text: str | os.PathLike[str]) -> bool:
    """Whether a path is an address in object storage."""
    return _SCHEME.match(os.fspath(text)) is not None
