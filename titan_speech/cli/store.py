"""Verbs on token stores: made, looked at, changed, moved."""

from __future__ import annotations

import argparse

from titan_speech.cli.arguments import (
    ENDPOINT_URL,
    local_folder,
    local_folder_or_s3,
    local_store,
    positive,
    s3_address,
    storage_of,
)
from titan_speech.cli.command import EXIT_DONE, EXIT_FOUND_WRONG, Argument, Command, deferred

_STORE_PATH = Argument("path", "folder of a token store, or s3://bucket/prefix", type=local_folder_or_s3)
_STORE_URL = Argument("url", "s3://bucket/prefix", type=s3_address)


def store_describe(args: argparse.Namespace, words: list[str]) -> int:
    from titan_speech.store.describe import describe_store, describe_store_json

    print((describe_store_json if args.json else describe_store)(args.path, storage_of(args, args.path)))
    return EXIT_DONE


def store_verify(args: argparse.Namespace, words: list[str]) -> int:
    from titan_speech.store.verify import verify_store

    verification = verify_store(args.path, args.workers, args.quick, storage_of(args, args.path))
    print(verification)
    return EXIT_DONE if verification.is_sound else EXIT_FOUND_WRONG


def store_push(args: argparse.Namespace, words: list[str]) -> int:
    from titan_speech.storage.s3_url import S3Url
    from titan_speech.store.transfer import push_store

    print(push_store(args.path, S3Url.parse(args.url), storage_of(args, args.url)))
    return EXIT_DONE


def store_pull(args: argparse.Namespace, words: list[str]) -> int:
    from titan_speech.storage.s3_url import S3Url
    from titan_speech.store.transfer import pull_store

    print(pull_store(S3Url.parse(args.url), args.path, storage_of(args, args.url)))
    return EXIT_DONE


COMMANDS = (
    Command(
        "store",
        "build",
        "Build a token store from arrays, WebDataset, MDS, parquet, JSONL, audio or text.",
        "titan-speech store build --from inworld --input vectorized --dataset-source podcasts --output stores/podcasts "
        "--tokenizer tokenizer/tiny --name podcasts --licence CC-BY-4.0 --codec-name xcodec2 --codec-hash HASH",
        deferred("titan_speech.cli.store_build"),
        is_deferred=True,
    ),
    Command(
        "store",
        "describe",
        "Print what a token store holds: parts, languages, tokens, hours, versions.",
        "titan-speech store describe demo_data",
        store_describe,
        (_STORE_PATH, Argument("--json", "print it as JSON", is_switch=True), ENDPOINT_URL),
    ),
    Command(
        "store",
        "verify",
        "Read every byte of a token store and name all that is wrong (exit code 1).",
        "titan-speech store verify demo_data --workers 8",
        store_verify,
        (
            _STORE_PATH,
            Argument("--workers", "shards read at once (default: one a core)", type=positive),
            Argument("--quick", "compare the files and their sizes only", is_switch=True),
            ENDPOINT_URL,
        ),
    ),
    Command(
        "store",
        "audit",
        "Look at samples of every language, write a page to read and listen to; exit code 1 above thresholds.",
        "titan-speech store audit demo_data --tokenizer tokenizer/tiny --output audit.html",
        deferred("titan_speech.cli.store_audit"),
        is_deferred=True,
    ),
    Command(
        "store",
        "gold",
        "Cut a frozen validation set out of stores, which training never reads.",
        "titan-speech store gold demo_data --output gold --num-ce 150 --num-decode 16 --by sample",
        deferred("titan_speech.cli.store_held_out"),
        is_deferred=True,
    ),
    Command(
        "store",
        "merge",
        "Make one store of several of one codec, tokenizer and normalization; all or nothing.",
        "titan-speech store merge stores/youtube stores/studio --output stores/all",
        deferred("titan_speech.cli.store_merge"),
        is_deferred=True,
    ),
    Command(
        "store",
        "migrate",
        "Bring a store to another tokenizer or normalization, or say what must be rebuilt or encoded again.",
        "titan-speech store migrate stores/all --tokenizer tokenizer/qwen3 --old-tokenizer tokenizer/llama3 --plan",
        deferred("titan_speech.cli.store_migrate"),
        is_deferred=True,
    ),
    Command(
        "store",
        "push",
        "Send a token store to object storage, file by file with its sha256; goes on where it was stopped.",
        "titan-speech store push my_store s3://bucket/my_store",
        store_push,
        (Argument("path", "folder of a token store", type=local_store), _STORE_URL, ENDPOINT_URL),
    ),
    Command(
        "store",
        "pull",
        "Fetch a token store from object storage into a new folder; goes on where it was stopped.",
        "titan-speech store pull s3://bucket/my_store my_store",
        store_pull,
        (_STORE_URL, Argument("path", "folder that is not there yet", type=local_folder), ENDPOINT_URL),
    ),
)
