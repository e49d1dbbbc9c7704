"""Commands on configurations: `config show`, `config check`."""

from __future__ import annotations

import argparse

from titan_speech.cli.arguments import positive
from titan_speech.cli.command import Argument, Command


def config_show(args: argparse.Namespace) -> None:
    from titan_speech.config.resolved import resolved_toml
    from titan_speech.preflight.config_checks import load_config

    print(resolved_toml(load_config(args.config_words)), end="")


def config_check(args: argparse.Namespace) -> None:
    from titan_speech.config.budget import describe_budget
    from titan_speech.doctor.checks import check_inputs
    from titan_speech.preflight.compatibility import Composition, describe_composition
    from titan_speech.preflight.config_checks import load_config
    from titan_speech.preflight.machine_checks import check_folders_exist

    checks = (check_folders_exist,) if args.here else ()
    loaded = load_config(args.config_words, world_size=args.world_size, checks=checks)
    print(f"no problems in {', '.join(str(path) for path in loaded.files)}")
    if args.here:
        check_inputs(loaded.config)
        print("the stores, the tokenizer and the backbone open and fit together")
    else:
        print("stores are not opened: --here opens them")
    print(f"composition: {describe_composition(Composition.of(loaded.config))}")
    print(describe_budget(loaded.config, args.world_size))


COMMANDS = (
    Command(
        "config",
        "show",
        "Print the resolved configuration as TOML, each value with its origin.",
        "titan-speech config show --job.config_file train_configs/demo.toml --training.seq_len 1024",
        config_show,
        takes_config=True,
    ),
    Command(
        "config",
        "check",
        "Report every problem of a configuration at once, or print the budget derived from it; with --here what "
        "it reads is opened too.",
        "titan-speech config check --job.config_file train_configs/demo.toml --world-size 2",
        config_check,
        (
            Argument("--world-size", "number of processes of the run", type=positive),
            Argument("--here", "also open what it reads: folders, stores, tokenizer, backbone", action="store_true"),
        ),
        takes_config=True,
    ),
)
