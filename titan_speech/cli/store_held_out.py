"""`titan-speech store gold`: its arguments, and what it prints."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

from titan_speech.cli.arguments import ENDPOINT_URL, local_folder, local_folder_or_s3, natural, positive, storage_of
from titan_speech.store.held_out_set import BY, HeldOutOptions, HeldOutSet, make_held_out_set
from titan_speech.store.reader import open_store


def add_arguments(parser: argparse.ArgumentParser) -> None:
    places = "token stores: folders, or s3://bucket/prefix"
    parser.add_argument("stores", help=places, nargs="+", type=local_folder_or_s3)
    ENDPOINT_URL.add_to(parser)
    parser.add_argument("--output", help="folder of the gold pack; must not exist", type=local_folder, required=True)
    parser.add_argument("--num-ce", help="samples to score (default: 1000)", type=positive, default=1000)
    parser.add_argument("--num-decode", help="samples to speak (default: 64)", type=natural, default=64)
    parser.add_argument("--seed", help="seed of the choice (default: 0)", type=natural, default=0)
    parser.add_argument("--max-tokens", help="longest sample (default: 2048)", type=positive, default=2048)
    parser.add_argument(
        "--by",
        help="hold out all samples that share this with a chosen one (default: source_video_id)",
        choices=BY,
        default=BY[0],
    )


def run(args: argparse.Namespace) -> None:
    options = HeldOutOptions(args.num_ce, args.num_decode, args.seed, args.by, args.max_tokens)
    storage = storage_of(args, *args.stores)
    gold = make_held_out_set(args.stores, args.output, options, storage)
    num_samples = sum(open_store(path, storage).manifest.num_samples for path in args.stores)
    print("\n".join(_report(args.output, gold, num_samples)))


def _report(output: Path, gold: HeldOutSet, num_samples: int) -> list[str]:
    tasks = Counter(prompt.task for prompt in gold.decode)
    languages = {prompt.language for prompt in gold.decode}
    held = gold.held_out
    spoken = ", ".join(f"{count} {task}" for task, count in sorted(tasks.items()))
    return [
        f"{output}: {len(gold.ce):,} samples to score, {len(gold.decode)} to speak in {len(languages)} languages "
        f"({spoken})",
        f"held out: {len(held.all):,} of {num_samples:,} samples: {len(held.chosen):,} of the pack, "
        f"{len(held.recording):,} others by {gold.by}, {len(held.duplicate):,} copies of their codes or transcripts",
        f'a run never reads them with: [data] held_out = ["{output}"]',
    ]
