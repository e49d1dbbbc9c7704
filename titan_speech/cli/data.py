"""Verbs on what a run reads."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from titan_speech.cli.arguments import natural, naturals, positive
from titan_speech.cli.command import EXIT_DONE, Argument, Command

if TYPE_CHECKING:
    from titan_speech.config.schema import SpeechConfig


def data_order(args: argparse.Namespace, words: list[str]) -> int:
    from titan_speech.config.budget import smallest_world
    from titan_speech.preflight.config_checks import load_config
    from titan_speech.utils.logging import quieten_dependencies

    quieten_dependencies()
    from titan_speech.data.inspect import order_digest, order_lines

    config = _continued(load_config(words, world_size=args.world_size).config)
    world_size = args.world_size or smallest_world(config.parallelism)
    if args.digest:
        print(order_digest(config, args.start, args.count, world_size))
        return EXIT_DONE
    for line in order_lines(config, args.start, args.count, world_size):
        print(line)
    return EXIT_DONE


def data_show(args: argparse.Namespace, words: list[str]) -> int:
    from titan_speech.data.inspect import show_lines
    from titan_speech.preflight.config_checks import load_config

    for line in show_lines(_continued(load_config(words).config), args.slots, args.source):
        print(line)
    return EXIT_DONE


def _continued(config: SpeechConfig) -> SpeechConfig:
    """With the place of the stage before, if there is one, once the server of its stores was reached."""
    from titan_speech.checkpoint.initial_load import previewed
    from titan_speech.storage.s3 import check_reachable

    check_reachable(config.storage, [config.stage.from_, *(source.store for source in config.data.source)])
    config, remark = previewed(config)
    if remark:
        print(remark, file=sys.stderr)
    return config


def data_phases(args: argparse.Namespace, words: list[str]) -> int:
    from titan_speech.data.phase_report import phases_json, phases_text

    print((phases_json if args.json else phases_text)(Path(args.run_folder)))
    return EXIT_DONE


COMMANDS = (
    Command(
        "data",
        "order",
        "Print, or digest as one line, what all ranks of a run read together, slot by slot.",
        "titan-speech data order --job.config_file train_configs/demo.toml --start 0 --count 16 --world-size 2",
        data_order,
        (
            Argument("--start", "first global slot (default: 0)", type=natural, default=0),
            Argument("--count", "number of slots (default: 16)", type=positive, default=16),
            Argument("--world-size", "processes to simulate (default: the fewest that fit)", type=positive),
            Argument("--digest", "one digest of all these slots, equal at any world size", is_switch=True),
        ),
        takes_config=True,
    ),
    Command(
        "data",
        "show",
        "Print packs with the trained tokens in colour and a border for each document.",
        "titan-speech data show --job.config_file train_configs/demo.toml --slots 0,1 --source tts",
        data_show,
        (
            Argument(
                "--slots",
                "global slots and ranges between commas, such as 0,4-6 (default: 0)",
                type=naturals,
                default=(0,),
            ),
            Argument("--source", "show as many of this source's first packs instead"),
        ),
        takes_config=True,
    ),
    Command(
        "data",
        "phases",
        "Print the phases of a run: where each lies, what it read of each stream, what was carried over.",
        "titan-speech data phases outputs/demo",
        data_phases,
        (
            Argument("run_folder", "run folder (job.dump_folder)"),
            Argument("--json", "as JSON", is_switch=True),
        ),
    ),
)
