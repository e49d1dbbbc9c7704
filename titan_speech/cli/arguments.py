"""Values of the command line, as argparse wants types: the value, or an error that says what was expected.

Arguments that several commands take in one meaning.
"""

from __future__ import annotations

import argparse
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING

from titan_speech.cli.command import Argument

if TYPE_CHECKING:
    from titan_speech.config.schema_data import StorageConfig


MB = 1 << 20
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
_S3 = "s3://"


def natural(text: str) -> int:
    """A whole number from 0, also written 1_000 or 1e9."""
    try:
        value = int(text) if "e" not in text.lower() else float(text)
    except ValueError:
        value = -1
    if not value >= 0 or value % 1:  # infinity and NaN too
        raise argparse.ArgumentTypeError(f'"{text}" is no whole number from 0')
    return int(value)


def positive(text: str) -> int:
    value = natural(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f'"{text}" is not at least 1')
    return value


def not_negative(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f'"{text}" is no number from 0')
    return value


def megabytes(text: str) -> int:
    """Bytes of a number of MB."""
    return int(not_negative(text) * MB)


def local_file(text: str) -> str:
    if not Path(text).is_file():
        raise argparse.ArgumentTypeError(f'found no file "{text}", expected the path of one')
    return text


def local_folder(text: str) -> Path:
    """A folder of this machine: what looks like an address would make a folder called `s3:`."""
    if _SCHEME.match(text):
        raise argparse.ArgumentTypeError(
            f'found "{text}", expected a folder of this machine; a finished store is sent with '
            "titan-speech store push FOLDER s3://bucket/prefix"
        )
    return Path(text)


def local_folder_or_s3(text: str) -> str:
    if _SCHEME.match(text) and not text.startswith(_S3):
        raise argparse.ArgumentTypeError(
            f'found "{text}", expected a folder of this machine or s3://bucket/prefix{_meant(text)}'
        )
    return text


def s3_address(text: str) -> str:
    if not text.startswith(_S3):
        raise argparse.ArgumentTypeError(f'found "{text}", expected s3://bucket/prefix{_meant(text)}')
    return text


def _meant(text: str) -> str:
    """The end of a sentence: the address that was probably meant."""
    scheme, _, rest = text.partition(":/")
    is_likely = scheme.lower() in ("s3", "s3a", "s3n", "r2") and rest.strip("/")
    return f"; did you mean {_S3}{rest.lstrip('/')}?" if is_likely else ""


def local_input(text: str) -> Path:
    if _SCHEME.match(text):
        raise argparse.ArgumentTypeError(
            f'found "{text}", expected a file or folder of this machine: fetch what lies at an address first'
        )
    return Path(text)


def local_store(text: str) -> Path:
    if _SCHEME.match(text):
        raise argparse.ArgumentTypeError(
            f'found "{text}", expected the folder of a store on this machine; titan-speech store pull fetches one'
        )
    return Path(text)


def local_path(text: str) -> Path:
    """Something of this machine that is looked at; what lies at an address is fetched first."""
    if _SCHEME.match(text):
        raise argparse.ArgumentTypeError(
            f'found "{text}", expected a path of this machine; titan-speech checkpoint list shows what is at an '
            "address, checkpoint pull fetches and verifies it"
        )
    return Path(text)


def naturals(text: str) -> tuple[int, ...]:
    """Whole numbers and ranges, both ends included, between commas: 0,4-6."""
    return tuple(number for part in text.split(",") for number in _naturals(part))


def _naturals(part: str) -> range:
    first, _, last = part.partition("-")
    numbers = range(natural(first), natural(last or first) + 1)
    if not numbers:
        raise argparse.ArgumentTypeError(f'"{part}" ends before it begins')
    return numbers


ENDPOINT_URL = Argument(
    "--endpoint-url", "server of s3:// that is not Amazon's (default: AWS_ENDPOINT_URL)", default=""
)

Arguments = argparse._ActionsContainer
"""A parser, or a group of one."""


def add_shard_mb(arguments: Arguments) -> None:
    arguments.add_argument(
        "--shard-mb",
        dest="shard_bytes",
        help="tokens of a shard, in MB (default: 128)",
        type=megabytes,
        metavar="MB",
        default=128 * MB,
    )


def add_workers(arguments: Arguments, default: int | None = None, said: str = "one a core") -> None:
    arguments.add_argument(
        "--workers", help=f"processes (default: {said})", type=positive, default=default, metavar="N"
    )


def storage_of(args: argparse.Namespace, *places: object) -> StorageConfig:
    """What `--endpoint-url` says, once the server was reached if one of the places is an address."""
    from titan_speech.config.schema_data import StorageConfig

    storage = StorageConfig(endpoint_url=args.endpoint_url)
    if any(str(place).startswith("s3:") for place in places):
        from titan_speech.storage.s3 import check_reachable  # boto3 takes 0.2 s to import

        check_reachable(storage, map(str, places))
    return storage
