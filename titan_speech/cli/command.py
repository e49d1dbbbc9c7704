"""What a verb of the command line is.

In: nothing. Out: `Verb`, a row of the tables beside this file. Rooms are imported when their verb runs, so that
`titan-speech --help` needs neither torch nor numpy.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

from titan_speech.errors import DataError

EXIT_DONE, EXIT_FOUND_WRONG, EXIT_BAD_INPUT, EXIT_INTERRUPTED, EXIT_TERMINATED = 0, 1, 2, 130, 143


@dataclass(frozen=True)
class Argument:
    """One argument of a verb, as argparse takes it."""

    name: str
    help: str
    type: Callable[[str], object] = str
    default: object = None
    required: bool = False
    is_switch: bool = False
    choices: tuple[str, ...] | None = None
    dest: str | None = None

    def add_to(self, parser: argparse._ActionsContainer) -> None:
        if not self.name.startswith("-"):
            parser.add_argument(self.name, help=self.help, type=self.type)
        elif self.is_switch:
            parser.add_argument(self.name, help=self.help, action="store_true")
        else:
            parser.add_argument(
                self.name,
                help=self.help,
                type=self.type,
                default=self.default,
                required=self.required,
                choices=self.choices,
                dest=self.dest,
            )


@dataclass(frozen=True)
class Command:
    """One command; `run` gets the parsed arguments and, if it takes a configuration, the words for that.

    With `is_deferred` the room has the arguments too, and `run` gets all words: what a verb of a heavy room takes is
    then said only once.
    """

    room: str | None
    name: str
    summary: str
    example: str
    run: Callable[[argparse.Namespace, list[str]], int]
    arguments: tuple[Argument, ...] = ()
    takes_config: bool = False
    is_deferred: bool = False

    @property
    def words(self) -> list[str]:
        return [self.room, self.name] if self.room else [self.name]

    @property
    def prog(self) -> str:
        return " ".join(["titan-speech", *self.words])


def new_parser(
    new: Callable[..., argparse.ArgumentParser], verb: Command, **options: object
) -> argparse.ArgumentParser:
    config = "\nA configuration is --job.config_file FILE and any --table.key value; see --config-help."
    return new(
        description=verb.summary + (config if verb.takes_config else ""),
        epilog=f"example:\n  {verb.example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        **options,
    )


def deferred(module: str, extra: str | None = None) -> Callable[[argparse.Namespace, list[str]], int]:
    """`run` of a verb whose room has `add_arguments(parser)` and `run(arguments)`, which is False if it found wrong."""

    def run(args: argparse.Namespace, words: list[str]) -> int:
        try:
            room = import_module(module)
        except ModuleNotFoundError as error:
            if extra is None:
                raise
            raise DataError(f"{error}; it comes with the extra: pip install 'titan-speech[{extra}]'") from error
        parser = new_parser(argparse.ArgumentParser, args.verb, prog=args.verb.prog)
        room.add_arguments(parser)
        return EXIT_FOUND_WRONG if room.run(parser.parse_args(words)) is False else EXIT_DONE

    return run
