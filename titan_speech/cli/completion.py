"""Completion of words in a shell, by argcomplete: `eval "$(register-python-argcomplete titan-speech)"` in ~/.bashrc.

In: the environment variables that the shell's hook sets. Out: the possible next words, to the hook. Called only when
such a variable is set, so nothing else pays for it; one completion takes about 0.2 s. zsh: the same after
`autoload -U bashcompinit && bashcompinit`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping

from titan_speech.cli.command import ArgumentGroup, Command

HOOK_VARIABLE = "_ARGCOMPLETE"
"""Set by the shell's hook while it asks for words."""


def complete(commands: Iterable[Command], groups: Mapping[str, str]) -> None:
    """Answer the shell's hook and exit; returns at once where no hook asks."""
    import argcomplete

    argcomplete.autocomplete(parser_of_all(commands, groups), always_complete_options="long")


def parser_of_all(commands: Iterable[Command], groups: Mapping[str, str]) -> argparse.ArgumentParser:
    """One parser with every command, its arguments and, where it takes a configuration, every key."""
    from argcomplete.completers import ChoicesCompleter

    parser = argparse.ArgumentParser(prog="titan-speech", allow_abbrev=False)
    choices = parser.add_subparsers()
    inner = {group: choices.add_parser(group).add_subparsers() for group in groups}
    for command in commands:
        place = choices if command.group is None else inner[command.group]
        own = place.add_parser(command.name, allow_abbrev=False)
        for entry in command.arguments:
            for argument in entry.arguments if isinstance(entry, ArgumentGroup) else (entry,):
                action = argument.add_to(own)
                if argument.words is not None:
                    action.completer = ChoicesCompleter(argument.words())  # type: ignore[attr-defined]
        if command.takes_config:
            for flag in config_flags():
                own.add_argument(flag)
    return parser


def config_flags() -> list[str]:
    """`--table.key` of every key that a flag can set by its name alone, and that of the file."""
    from titan_speech.config.fields import config_fields, without_none
    from titan_speech.config.load import CONFIG_FILE_FLAG
    from titan_speech.config.schema import SpeechConfig

    tables = config_fields(SpeechConfig).items()
    keys = [f"--{table}.{key}" for table, (_, hint) in tables for key in config_fields(without_none(hint))]
    return [CONFIG_FILE_FLAG, *(key for key in keys if key != CONFIG_FILE_FLAG)]
