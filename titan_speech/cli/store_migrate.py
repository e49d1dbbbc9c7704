"""`titan-speech store migrate`: its arguments, and what it prints."""

from __future__ import annotations

import argparse
from pathlib import Path

from titan_speech.cli.arguments import (
    ENDPOINT_URL,
    add_shard_mb,
    add_workers,
    local_folder,
    local_folder_or_s3,
    storage_of,
)
from titan_speech.errors import DataError
from titan_speech.importers.migrate import MigrateOptions, migrate_store, plan_migration


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("store", help="token store: folder, or s3://bucket/prefix", type=local_folder_or_s3)
    ENDPOINT_URL.add_to(parser)
    parser.add_argument("--output", help="folder of the new store; must not exist", type=local_folder)
    parser.add_argument("--tokenizer", help="folder of the new tokenizer", type=Path)
    parser.add_argument("--old-tokenizer", help="folder of the store's tokenizer, to decode text parts", type=Path)
    parser.add_argument("--normalization", help="bring texts to this version's one form", action="store_true")
    parser.add_argument("--codec", help="name of the new codec")
    parser.add_argument("--codec-hash", help="hash of the new codec")
    parser.add_argument("--plan", help="print what would be done, and write nothing", action="store_true")
    add_shard_mb(parser)
    add_workers(parser)


def run(args: argparse.Namespace) -> None:
    if args.codec is not None and args.codec_hash is None:
        raise DataError(
            f"--codec {args.codec} without --codec-hash: a codec is known by the hash of its weights; give both"
        )
    options = MigrateOptions(
        args.tokenizer,
        args.old_tokenizer,
        args.normalization,
        args.codec,
        args.codec_hash,
        args.shard_bytes,
        args.workers,
    )
    storage = storage_of(args, args.store)
    plan = plan_migration(args.store, options, storage)
    if args.plan or not plan.changes:
        print(plan)
        return
    if args.output is None:
        raise DataError("no --output: give the folder of the new store, or --plan to see what would be done")
    migrated = migrate_store(args.store, args.output, options, storage)
    print(
        f"{args.output}: {migrated.num_samples:,} samples, tokenizer {migrated.tokenizer.fingerprint}, normalization "
        f"{migrated.normalization_version}, fingerprint {migrated.fingerprint}"
    )
