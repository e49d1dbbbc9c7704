"""What a command is: a row of the tables in this package.

In: nothing. Out: `Command`. `run` gets the parsed arguments and returns the exit code, None for success; a command that
takes a configuration finds the words for it in `args.config_words`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from titan_speech.errors import DataError
from titan_speech.utils.printable import message


class Argument:
    """One argument, as `argparse.ArgumentParser.add_argument` takes it; `words` are what a shell completes it to."""

    def __init__(self, name: str, help: str, words: Callable[[], Iterable[str]] | None = None, **options: Any) -> None:
        self.name, self.options, self.words = name, {"help": help, **options}, words

    def add_to(self, parser: argparse._ActionsContainer) -> argparse.Action:
        return parser.add_argument(self.name, **self.options)


@dataclass(frozen=True)
class Command:
    """One command, such as `titan-speech store verify`."""

    group: str | None
    name: str
    summary: str
    example: str
    run: Callable[[argparse.Namespace], int | None]
    arguments: tuple[Argument, ...] = ()
    add_arguments: Callable[[argparse.ArgumentParser], None] | None = None
    """Adds the arguments that stand under headings of their own in the help."""

    takes_config: bool = False
    """--job.config_file FILE and --table.key values are accepted."""

    config_is_argument: bool = False
    """The file is the first argument, CONFIG, in place of --job.config_file FILE."""

    old_name: str | None = None
    """The name before it was renamed; understood for one more version."""

    def full_name(self, name: str | None = None) -> str:
        """`store verify`; with `name` the same in place of the command's own name."""
        return " ".join(filter(None, (self.group, name or self.name)))

    @property
    def prog(self) -> str:
        return f"titan-speech {self.full_name()}"


def announce(text: str) -> None:
    """Say on stderr what takes long, before the imports that take the first seconds of it."""
    print(message(f"titan-speech {text}"), file=sys.stderr, flush=True)


@contextmanager
def requires_extra(extra: str) -> Iterator[None]:
    """Around imports that need an optional dependency.

    Raises:
        DataError: a module is not installed; the message says how to install it.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise DataError(f"{error}; it comes with the extra: pip install 'titan-speech[{extra}]'") from error
