"""JSON that somebody else wrote: bounded in size before it is read, and never a traceback.

In: text, or a small file (a manifest, a marker, a config.json). Out: its value; anything else is a `ValueError`, which
callers turn into an error of theirs. `json.loads` alone raises `RecursionError` for 100 kB of `[`, and a parsed text
takes up to 25 times its bytes of memory (`[[],[],...]`): hence the limit.
"""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any, TypeGuard

BLOCK_BYTES = 1 << 20
MAX_JSON_BYTES = 256 << 20
"""A manifest of 10,000 shards has 8 MB."""
MAX_NUMBER = 1e300


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: it is no JSON, is not UTF-8, has more than `MAX_JSON_BYTES` bytes, or is nested too deeply.
    """
    if len(text) > MAX_JSON_BYTES:
        raise ValueError(f"{len(text):,} bytes of JSON, expected at most {MAX_JSON_BYTES:,}")
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("JSON that is nested too deeply") from error


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether a value is a number that others can calculate with: JSON has integers of 400 digits, NaN and 1e999."""
    return type(value) in (int, float) and -MAX_NUMBER < value < MAX_NUMBER  # pyright: ignore[reportOperatorIssue]


def read_json_file(path: Path) -> Any:
    """The value of a JSON file; its size is checked before it is read.

    Raises:
        OSError: the file cannot be read.
        ValueError: as `parse_json`.
    """
    return parse_json(read_small_file(path))


def read_small_file(path: Path, max_bytes: int = MAX_JSON_BYTES) -> bytes:
    """A file that ought to be small; its size is checked before it is read.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is a pipe, a device or a folder, or it has more than `max_bytes` bytes.
    """
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:  # a pipe would be waited for
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise ValueError("not a regular file, but a pipe, a device or a folder")
        num_bytes = found.st_size
        data = bytearray()  # in blocks: a read of `max_bytes` would reserve them at once
        while num_bytes <= max_bytes and (block := file.read(min(BLOCK_BYTES, max_bytes + 1 - len(data)))):
            data += block
    if max(num_bytes, len(data)) > max_bytes:
        raise ValueError(f"more than {max_bytes:,} bytes, expected a small file")
    return bytes(data)
