"""Commands on token stores. `build`, `audit` and `score` are in store_build.py, store_audit.py and store_score.py."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from titan_speech.cli import store_audit, store_build, store_score
from titan_speech.cli.arguments import (
    ENDPOINT_URL,
    SEED,
    SHARD_MB,
    STORES,
    WORKERS,
    local_folder,
    local_folder_or_s3,
    local_store,
    natural,
    positive,
    s3_address,
    storage_of,
)
from titan_speech.cli.command import Argument, Command, announce
from titan_speech.errors import DataError
from titan_speech.exit_codes import EXIT_DONE, EXIT_FOUND_WRONG
from titan_speech.utils.text_table import counted

if TYPE_CHECKING:
    from titan_speech.store.held_out_set import HeldOutSet

HELD_OUT_BY = ("source_video_id", "speaker_id", "sample")


def store_describe(args: argparse.Namespace) -> None:
    from titan_speech.store.describe import describe_store, describe_store_json

    print((describe_store_json if args.json else describe_store)(args.path, storage_of(args, args.path)))


def store_verify(args: argparse.Namespace) -> int:
    from titan_speech.store.verify import verify_store

    verification = verify_store(args.path, args.workers, args.quick, storage_of(args, args.path))
    print(verification)
    return EXIT_DONE if verification.is_sound else EXIT_FOUND_WRONG


def store_held_out(args: argparse.Namespace) -> None:
    announce(f"store held-out: choosing from {' and '.join(map(str, args.stores))}")
    from titan_speech.store.held_out_choice import HeldOutOptions, make_held_out_set
    from titan_speech.store.reader import open_store

    options = HeldOutOptions(args.num_ce, args.num_decode, args.seed, args.by, args.max_tokens)
    storage = storage_of(args, *args.stores)
    held_out = make_held_out_set(args.stores, args.output, options, storage)
    num_samples = sum(open_store(path, storage).manifest.num_samples for path in args.stores)
    print("\n".join(_held_out_lines(args.output, held_out, num_samples)))


def _held_out_lines(output: Path, made: HeldOutSet, num_samples: int) -> Iterator[str]:
    from titan_speech.config.toml_text import toml_string

    tasks = Counter(prompt.task for prompt in made.decode)
    languages = {prompt.language for prompt in made.decode}
    by_task = ", ".join(f"{count} {task}" for task, count in sorted(tasks.items()))
    held = made.held_out
    yield (
        f"{output}: {counted(len(made.ce), 'cross-entropy sample')}, "
        f"{counted(len(made.decode), 'generation sample')} in {counted(len(languages), 'language')} ({by_task})"
    )
    yield (
        f"held out: {len(held.all):,} of {counted(num_samples, 'sample')}: {len(held.chosen):,} of the set, "
        f"{len(held.recording):,} more by {made.by}, {counted(len(held.duplicate), 'duplicate')} of their codes or "
        "transcripts"
    )
    yield f"to exclude them from training: [data] held_out = [{toml_string(str(output))}]"


def store_merge(args: argparse.Namespace) -> None:
    from titan_speech.store.merge import MergeOptions, merge_stores

    options = MergeOptions(args.name, args.seed, args.shard_bytes, args.workers)
    merged = merge_stores(args.stores, args.output, options, storage_of(args, *args.stores))
    num_samples = sum(part.num_samples for part in merged.parts)
    print(
        f"{args.output}: {counted(num_samples, 'sample')} in {counted(len(merged.parts), 'part')} from "
        f"{counted(len(args.stores), 'store')}, "
        f"fingerprint {merged.fingerprint}"
    )


def store_migrate(args: argparse.Namespace) -> None:
    from titan_speech.store.migrate import MigrateOptions, migrate_store, plan_migration

    if args.codec is not None and args.codec_hash is None:
        raise DataError(
            f"--codec {args.codec} without --codec-hash: a codec is identified by the hash of its weights; give both"
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
        f"{args.output}: {counted(migrated.num_samples, 'sample')}, tokenizer {migrated.tokenizer.fingerprint}, "
        f"normalization {migrated.normalization_version}, fingerprint {migrated.fingerprint}"
    )


def store_push(args: argparse.Namespace) -> None:
    from titan_speech.storage.s3_url import S3Url
    from titan_speech.store.transfer import push_store

    print(push_store(args.path, S3Url.parse(args.url), storage_of(args, args.url)))


def store_pull(args: argparse.Namespace) -> None:
    from titan_speech.storage.s3_url import S3Url
    from titan_speech.store.transfer import pull_store

    print(pull_store(S3Url.parse(args.url), args.path, storage_of(args, args.url)))


_STORE = Argument("path", "folder of a token store, or s3://bucket/prefix", type=local_folder_or_s3)
_STORE_URL = Argument("url", "s3://bucket/prefix", type=s3_address)
_NEW_STORE = Argument("--output", "folder of the new store; must not exist", type=local_folder, required=True)

COMMANDS = (
    *store_build.COMMANDS,
    Command(
        "store",
        "describe",
        "Print the contents of a token store: parts, languages, tokens, hours, versions.",
        "titan-speech store describe demo_data",
        store_describe,
        (_STORE, Argument("--json", "print JSON", action="store_true"), ENDPOINT_URL),
    ),
    Command(
        "store",
        "verify",
        "Read every byte of a token store and report all errors (exit code 1).",
        "titan-speech store verify demo_data --workers 8",
        store_verify,
        (
            _STORE,
            Argument("--workers", "number of shards read at once (default: one per core)", type=positive),
            Argument("--quick", "compare only file names and sizes", action="store_true"),
            ENDPOINT_URL,
        ),
    ),
    *store_audit.COMMANDS,
    *store_score.COMMANDS,
    Command(
        "store",
        "held-out",
        "Create a held-out validation set from stores; training never reads it.",
        "titan-speech store held-out demo_data --output held_out --num-ce 150 --num-decode 16 --by sample",
        store_held_out,
        (
            STORES,
            ENDPOINT_URL,
            Argument("--output", "folder of the held-out set; must not exist", type=local_folder, required=True),
            Argument("--num-ce", "number of cross-entropy samples (default: 1000)", type=positive, default=1000),
            Argument("--num-decode", "number of generation samples (default: 64)", type=natural, default=64),
            SEED,
            Argument(
                "--max-tokens", "maximum length of a sample in tokens (default: 2048)", type=positive, default=2048
            ),
            Argument(
                "--by",
                "hold out all samples that share this with a chosen one (default: source_video_id)",
                choices=HELD_OUT_BY,
                default=HELD_OUT_BY[0],
            ),
        ),
        old_name="gold",
    ),
    Command(
        "store",
        "merge",
        "Merge stores of the same codec, tokenizer and normalization into one.",
        "titan-speech store merge stores/youtube stores/studio --output stores/all",
        store_merge,
        (
            STORES,
            ENDPOINT_URL,
            _NEW_STORE,
            Argument("--name", "name of the new store (default: the names of the stores)"),
            Argument("--seed", "random seed of the sample order (default: that of the first store)", type=natural),
            SHARD_MB,
            WORKERS,
        ),
    ),
    Command(
        "store",
        "migrate",
        "Convert a store to another tokenizer or normalization, or report what must be rebuilt or re-encoded.",
        "titan-speech store migrate stores/all --tokenizer tokenizer/qwen3 --old-tokenizer tokenizer/llama3 --plan",
        store_migrate,
        (
            Argument("store", "token store: folder, or s3://bucket/prefix", type=local_folder_or_s3),
            ENDPOINT_URL,
            Argument("--output", "folder of the new store; must not exist", type=local_folder),
            Argument("--tokenizer", "folder of the new tokenizer", type=Path),
            Argument("--old-tokenizer", "folder of the store's tokenizer, to decode text parts", type=Path),
            Argument("--normalization", "normalize texts by the rules of this version", action="store_true"),
            Argument("--codec", "name of the new codec"),
            Argument("--codec-hash", "hash of the new codec"),
            Argument("--plan", "print what would be done and write nothing", action="store_true"),
            SHARD_MB,
            WORKERS,
        ),
    ),
    Command(
        "store",
        "push",
        "Upload a token store to object storage with the sha256 of each file; an interrupted upload resumes.",
        "titan-speech store push my_store s3://bucket/my_store",
        store_push,
        (Argument("path", "folder of a token store", type=local_store), _STORE_URL, ENDPOINT_URL),
    ),
    Command(
        "store",
        "pull",
        "Download a token store from object storage into a new folder; an interrupted download resumes.",
        "titan-speech store pull s3://bucket/my_store my_store",
        store_pull,
        (_STORE_URL, Argument("path", "folder that does not exist yet", type=local_folder), ENDPOINT_URL),
    ),
)
