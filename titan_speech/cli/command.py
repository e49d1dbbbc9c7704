"""What a command is: a row of the tables in this package.

In: nothing. Out: `Command`. `run` gets the parsed arguments and returns the exit code, None for success; a command that
takes a configuration finds the words for it in `args.config_words`.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from titan_speech.errors import DataError
from titan_speech.utils.printable import message


class Argument:
    """One argument: names, and what `argparse.ArgumentParser.add_argument` takes.

    Args:
        words: what a shell completes it to.
        variable: environment variable whose text takes the place of the default.
    """

    def __init__(
        self,
        name: str,
        help: str,
        *,
        other_name: str | None = None,
        words: Callable[[], Iterable[str]] | None = None,
        variable: str = "",
        **options: Any,
    ) -> None:
        self.names, self.words, self.variable = [name, *filter(None, [other_name])], words, variable
        self.options = {"help": help, **options}

    def add_to(self, parser: argparse._ActionsContainer) -> argparse.Action:
        action = parser.add_argument(*self.names, **self.options)
        action.default = os.environ.get(self.variable, action.default)
        return action


class ArgumentGroup:
    """Arguments under a heading of their own in the help."""

    def __init__(self, heading: str, *arguments: Argument, description: str | None = None) -> None:
        self.heading, self.arguments, self.description = heading, arguments, description

    def add_to(self, parser: argparse.ArgumentParser) -> None:
        group = parser.add_argument_group(self.heading, self.description)
        for argument in self.arguments:
            argument.add_to(group)


@dataclass(frozen=True)
class Command:
    """One command, such as `titan-speech store verify`."""

    group: str | None
    name: str
    summary: str
    example: str
    run: Callable[[argparse.Namespace], int | None]
    arguments: tuple[Argument | ArgumentGroup, ...] = ()
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
