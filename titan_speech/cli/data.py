"""Commands on what a run reads: `data order`, `data show`, `data phases`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from titan_speech.cli.arguments import natural, naturals, positive
from titan_speech.cli.command import Argument, Command, announce

if TYPE_CHECKING:
    from titan_speech.config.schema import SpeechConfig


def data_order(args: argparse.Namespace) -> None:
    from titan_speech.config.budget import smallest_world_size
    from titan_speech.preflight.config_checks import load_config

    loaded = load_config(args.config_words, world_size=args.world_size)
    announce(f"data order: planning the data of {loaded.files[-1]}")
    from titan_speech.data.inspect import order_digest, order_lines

    config = _with_read_positions(loaded.config)
    world_size = args.world_size or smallest_world_size(config.parallelism)
    if args.digest:
        print(order_digest(config, args.start, args.count, world_size))
        return
    for line in order_lines(config, args.start, args.count, world_size):
        print(line)


def data_show(args: argparse.Namespace) -> None:
    from titan_speech.preflight.config_checks import load_config

    loaded = load_config(args.config_words)
    announce(f"data show: planning the data of {loaded.files[-1]}")
    from titan_speech.checkpoint.initial_load import later_phase
    from titan_speech.data.inspect import show_lines

    config = loaded.config
    resumed = later_phase(config)
    config = _with_read_positions(config, is_resumed=resumed is not None)
    for line in show_lines(config, args.slots, args.source, resumed=resumed):
        print(line)


def _with_read_positions(config: SpeechConfig, is_resumed: bool = False) -> SpeechConfig:
    """The configuration with the read positions of the previous stage, if there is one.

    Raises:
        DataError: the object storage of a store cannot be reached.
    """
    from titan_speech.checkpoint.initial_load import preview_data
    from titan_speech.storage.connect import check_reachable

    check_reachable(config.storage, [config.stage.from_, *(source.store for source in config.data.source)])
    if is_resumed:  # the run's own checkpoint has its read positions
        return config
    config, remark = preview_data(config)
    if remark:
        print(remark, file=sys.stderr)
    return config


def data_phases(args: argparse.Namespace) -> None:
    from titan_speech.checkpoint.commit import committed_at
    from titan_speech.data.phase_report import phases_json, phases_text

    run_folder = Path(args.run_folder)
    newest = next((checkpoint.path for checkpoint in committed_at(run_folder)), None)
    print((phases_json if args.json else phases_text)(run_folder, newest))


COMMANDS = (
    Command(
        "data",
        "order",
        "Print, or digest into one line, which documents all ranks of a run read together, one line per slot.",
        "titan-speech data order --job.config_file train_configs/demo.toml --start 0 --count 16 --world-size 2",
        data_order,
        (
            Argument("--start", "first global slot (default: 0)", type=natural, default=0),
            Argument("--count", "number of slots (default: 16)", type=positive, default=16),
            Argument(
                "--world-size",
                "number of processes to simulate (default: the smallest that fits the parallelism degrees)",
                type=positive,
            ),
            Argument("--digest", "print one digest of all these slots, equal at any world size", action="store_true"),
        ),
        takes_config=True,
    ),
    Command(
        "data",
        "show",
        "Print packs with the trained tokens in color and a border around each document.",
        "titan-speech data show --job.config_file train_configs/demo.toml --slots 0,1 --source tts",
        data_show,
        (
            Argument(
                "--slots",
                "global slots and ranges of them, separated by commas, such as 0,4-6 (default: 0)",
                type=naturals,
                default=(0,),
            ),
            Argument("--source", "show the same number of packs from the beginning of this source instead"),
        ),
        takes_config=True,
    ),
    Command(
        "data",
        "phases",
        "Print the phases of a run: what each read of each stream, and from which positions it resumed.",
        "titan-speech data phases outputs/demo",
        data_phases,
        (Argument("run_folder", "run folder (job.dump_folder)"), Argument("--json", "print JSON", action="store_true")),
    ),
)
