"""`titan-speech ROOM VERB ...`: one command line over all rooms.

In: words. Out: text on stdout and an exit code: 0 done, 1 looked and found wrong (`store verify`), 2 bad input, told in
one message on stderr without a traceback.

A verb is a row of `VERBS`: what it takes and one function here that hands over to its room. Rooms are imported when
their verb runs, so `titan-speech --help` needs no torch and answers in under 0.2 s.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from titan_speech import __version__
from titan_speech.errors import TitanSpeechError

EXIT_DONE, EXIT_FOUND_WRONG, EXIT_BAD_INPUT, EXIT_INTERRUPTED = 0, 1, 2, 130


@dataclass(frozen=True)
class Argument:
    """One argument of a verb, as argparse takes it."""

    name: str
    help: str
    type: Callable[[str], object] = str
    default: object = None
    required: bool = False
    is_switch: bool = False

    def add_to(self, parser: argparse.ArgumentParser) -> None:
        if not self.name.startswith("-"):
            parser.add_argument(self.name, help=self.help, type=self.type)
        elif self.is_switch:
            parser.add_argument(self.name, help=self.help, action="store_true")
        else:
            parser.add_argument(self.name, help=self.help, type=self.type, default=self.default, required=self.required)


@dataclass(frozen=True)
class Verb:
    """One command; `run` gets the parsed arguments and, if it takes a configuration, the words for that."""

    room: str
    name: str
    summary: str
    example: str
    run: Callable[[argparse.Namespace, list[str]], int]
    arguments: tuple[Argument, ...] = ()
    takes_config: bool = False

    @property
    def prog(self) -> str:
        return f"titan-speech {self.room} {self.name}"


def natural(text: str) -> int:
    """A whole number from 0, also written 1_000 or 1e9."""
    try:
        value = int(text) if "e" not in text.lower() else float(text)
    except ValueError:
        value = -1
    if not value >= 0 or value % 1:  # infinity and NaN too
        raise argparse.ArgumentTypeError(f'"{text}" is no whole number from 0')
    return int(value)


def positive(text: str) -> int:
    value = natural(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f'"{text}" is not at least 1')
    return value


def naturals(text: str) -> tuple[int, ...]:
    """Whole numbers between commas."""
    return tuple(natural(part) for part in text.split(","))


def config_show(args: argparse.Namespace, words: list[str]) -> int:
    from titan_speech.config.load import load_config
    from titan_speech.config.resolved import resolved_toml

    print(resolved_toml(load_config(words)), end="")
    return EXIT_DONE


def config_check(args: argparse.Namespace, words: list[str]) -> int:
    from titan_speech.config.budget import describe_budget
    from titan_speech.config.load import load_config

    loaded = load_config(words, world_size=args.world_size)
    print(f"no problems in {', '.join(str(path) for path in loaded.files)}")
    print(describe_budget(loaded.config, args.world_size))
    return EXIT_DONE


def store_describe(args: argparse.Namespace, words: list[str]) -> int:
    from titan_speech.data.describe import describe_store

    print(describe_store(args.path))
    return EXIT_DONE


def store_verify(args: argparse.Namespace, words: list[str]) -> int:
    from titan_speech.data.describe import verify_store

    verification = verify_store(args.path)
    print(verification)
    return EXIT_DONE if verification.is_sound else EXIT_FOUND_WRONG


_WORLD_SIZE = Argument("--world-size", "number of processes of the run", type=positive)
_STORE_PATH = Argument("path", "folder of a token store")

VERBS = (
    Verb(
        "config",
        "show",
        "Print the resolved configuration as TOML, each value with its origin.",
        "titan-speech config show --job.config_file train_configs/demo.toml --training.seq_len 1024",
        config_show,
        takes_config=True,
    ),
    Verb(
        "config",
        "check",
        "Name every problem of a configuration at once, or print the budget derived from it.",
        "titan-speech config check --job.config_file train_configs/demo.toml --world-size 2",
        config_check,
        (_WORLD_SIZE,),
        takes_config=True,
    ),
    Verb(
        "store",
        "describe",
        "Print what a token store holds: parts, languages, tokens, hours, versions.",
        "titan-speech store describe demo_data",
        store_describe,
        (_STORE_PATH,),
    ),
    Verb(
        "store",
        "verify",
        "Read every byte of a token store and name all that is wrong (exit code 1).",
        "titan-speech store verify demo_data",
        store_verify,
        (_STORE_PATH,),
    ),
)
ROOMS = {
    "config": "What a run is told to do.",
    "data": "What a run reads, and in which order.",
    "store": "Token stores on disk.",
}


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(
        prog="titan-speech",
        description="Look at and check what a training run reads. Training itself is titan_speech.train.",
        epilog=_examples(VERBS),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=__version__)
    rooms = parser.add_subparsers(metavar="ROOM", required=True)
    for room, summary in ROOMS.items():
        verbs = [verb for verb in VERBS if verb.room == room]
        inner = rooms.add_parser(
            room,
            help=summary,
            description=summary,
            epilog=_examples(verbs),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        _add_verbs(inner, verbs)
    return parser


def _add_verbs(room: argparse.ArgumentParser, verbs: Sequence[Verb]) -> None:
    choices = room.add_subparsers(metavar="VERB", required=True)
    for verb in verbs:
        config = "\nA configuration is --job.config_file FILE and any --table.key value; see --config-help.\n"
        parser = choices.add_parser(
            verb.name,
            help=verb.summary,
            description=verb.summary + (config if verb.takes_config else ""),
            epilog=f"example:\n  {verb.example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        for argument in verb.arguments:
            argument.add_to(parser)
        if verb.takes_config:
            parser.add_argument("--config-help", action=_ConfigHelp, help="every table and key, and exit")
        parser.set_defaults(verb=verb, parser=parser)


class _ConfigHelp(argparse.Action):
    """Prints the help of the configuration."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str | None = None) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from titan_speech.config.help import help_text

        sys.stdout.write(help_text())
        parser.exit()


def _examples(verbs: Sequence[Verb]) -> str:
    return "examples:\n" + "\n".join(f"  {verb.example}" for verb in verbs)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; the exit code."""
    args, words = build_parser().parse_known_args(argv)
    verb: Verb = args.verb
    if words and not verb.takes_config:
        args.parser.error(f"unrecognized arguments: {' '.join(words)}")
    try:
        code = verb.run(args, words)
        sys.stdout.flush()
        return code
    except TitanSpeechError as error:
        print(f"{verb.prog}: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_DONE
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
