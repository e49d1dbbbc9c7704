"""Arguments that several commands take in one meaning."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from titan_speech.verbs.values import MB, megabytes, positive
from titan_speech.verbs.verb import Argument

if TYPE_CHECKING:
    from titan_speech.config.tables import StorageTable

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


def storage_of(args: argparse.Namespace, *places: object) -> StorageTable:
    """What `--endpoint-url` says, once the server was reached if one of the places is an address."""
    from titan_speech.config.tables import StorageTable

    storage = StorageTable(endpoint_url=args.endpoint_url)
    if any(str(place).startswith("s3:") for place in places):
        from titan_speech.remote.contact import reach  # boto3 takes 0.2 s to import

        reach(storage, map(str, places))
    return storage
