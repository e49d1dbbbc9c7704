"""`titan-speech store merge`: its arguments, and what it prints."""

from __future__ import annotations

import argparse

from titan_speech.cli.arguments import (
    ENDPOINT_URL,
    add_shard_mb,
    add_workers,
    local_folder,
    local_folder_or_s3,
    natural,
    storage_of,
)
from titan_speech.store.merge import MergeOptions, merge_stores


def add_arguments(parser: argparse.ArgumentParser) -> None:
    places = "token stores: folders, or s3://bucket/prefix"
    parser.add_argument("stores", help=places, nargs="+", type=local_folder_or_s3)
    ENDPOINT_URL.add_to(parser)
    parser.add_argument("--output", help="folder of the new store; must not exist", type=local_folder, required=True)
    parser.add_argument("--name", help="name of the new store (default: the names of the stores)")
    parser.add_argument("--seed", help="seed of its order (default: that of the first store)", type=natural)
    add_shard_mb(parser)
    add_workers(parser)


def run(args: argparse.Namespace) -> None:
    options = MergeOptions(args.name, args.seed, args.shard_bytes, args.workers)
    merged = merge_stores(args.stores, args.output, options, storage_of(args, *args.stores))
    samples = sum(part.num_samples for part in merged.parts)
    print(
        f"{args.output}: {samples:,} samples in {len(merged.parts)} parts from {len(args.stores)} stores, "
        f"fingerprint {merged.fingerprint}"
    )
