"""Arguments that several commands take in one meaning."""

from __future__ import annotations

import argparse

from titan_speech.verbs.values import MB, megabytes, positive

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
