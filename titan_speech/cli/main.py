"""`titan-speech [-h] [--version] <command> ...`: finds a command, parses its arguments and runs it.

In: words. Out: text on stdout and an exit code: 0 done, 1 a check found something wrong (`store verify`), 2 bad input,
reported in one message on stderr without a traceback. Only the parser of the chosen command is built, and heavy modules
are imported by `run` alone: every `--help` takes 0.1 s.
"""

from __future__ import annotations

import argparse
import difflib
import errno
import os
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

from titan_speech import __version__
from titan_speech.cli import (
    align,
    checkpoint,
    completion,
    config,
    data,
    doctor,
    estimate,
    evaluate,
    evaluate_listen,
    evaluate_run,
    generate,
    model,
    recipes,
    report,
    store,
    text,
    train,
)
from titan_speech.cli.command import Command
from titan_speech.errors import HealthError, TitanSpeechError
from titan_speech.exit_codes import EXIT_BAD_INPUT, EXIT_DONE, EXIT_INTERRUPTED, EXIT_TERMINATED, EXIT_UNHEALTHY
from titan_speech.utils.logging import silence_library_warnings
from titan_speech.utils.printable import make_log_records_printable, message, printable_stdout
from titan_speech.utils.progress import end_open_line

COMMANDS = (
    *train.COMMANDS,
    *report.COMMANDS,
    *recipes.COMMANDS,
    *config.COMMANDS,
    *doctor.COMMANDS,
    *data.COMMANDS,
    *estimate.COMMANDS,
    *store.COMMANDS,
    *text.COMMANDS,
    *checkpoint.COMMANDS,
    *model.COMMANDS,
    *evaluate.COMMANDS,
    *evaluate_run.COMMANDS,
    *evaluate_listen.COMMANDS,
    *generate.COMMANDS,
    *align.COMMANDS,
)
GROUPS = {
    "recipes": "List and copy the recipes and examples that come with titan_speech.",
    "config": "Show and check the configuration of a run.",
    "data": "Show what a run reads, and in which order.",
    "store": "Build, check, merge and move token stores.",
    "text": "Clean and deduplicate documents before they become a token store.",
    "checkpoint": "List, verify, compare, pin and move the checkpoints of a run.",
    "evaluate": "Evaluate generated speech: make prompt packs, measure which recognizers are reliable, score "
    "checkpoints.",
    "model": "Import and export Hugging Face models.",
    "align": "Train on what a model answers: preference pairs of it, or rewards of it (GRPO).",
}
FIRST_EXAMPLES = ("recipes copy", "doctor", "train", "report", "sample")
"""Commands whose examples the overview shows: the way from a recipe to speech."""

_NAME_CUTOFF = 0.65
"""Least similarity (difflib): "trian" has 0.8 to "train", "eval" 0.67 to "evaluate", "hello" 0.62 to "held-out"."""

_REMEDIES = {
    errno.ENOSPC: "free space there",
    errno.EDQUOT: "free space there, or ask for a larger quota,",
    errno.EROFS: "name a folder that can be written to",
    errno.EACCES: "give access, or name another path,",
    errno.EPERM: "give access, or name another path,",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f)",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
    errno.ENFILE: "raise the system's limit on open files (fs.file-max)",
    errno.ENAMETOOLONG: "shorten the name",
    errno.ELOOP: "remove the symbolic links that lead in a circle",
}
"""What to do about failures of the system that can hit any command at any file."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    if completion.HOOK_VARIABLE in os.environ:
        completion.complete(COMMANDS, GROUPS)
    words = list(sys.argv[1:] if argv is None else argv)
    command, words = find_command(words)
    args = parse(command, words)
    make_log_records_printable()
    silence_library_warnings()
    try:
        with _sigterm_as_exception(), printable_stdout():
            try:
                code = command.run(args)
            finally:
                end_open_line()
        sys.stdout.flush()
        return EXIT_DONE if code is None else code
    except TitanSpeechError as error:
        print(message(f"{command.prog}: {error}"), file=sys.stderr)
        return EXIT_UNHEALTHY if isinstance(error, HealthError) else EXIT_BAD_INPUT
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_DONE
    except OSError as error:
        remedy = _REMEDIES.get(error.errno or 0)
        if remedy is None:
            raise
        print(message(f"{command.prog}: {error}; {remedy} and run the same command again"), file=sys.stderr)
        return EXIT_BAD_INPUT
    except _Terminated:
        return EXIT_TERMINATED
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


def parse(command: Command, words: Sequence[str]) -> argparse.Namespace:
    """Parse the arguments of one command; exits as argparse does after --help and after a mistake."""
    config = file_flag = ""
    if command.takes_config:
        from titan_speech.config.load import CONFIG_FILE_FLAG  # with the schema, which costs 20 ms

        file_flag = CONFIG_FILE_FLAG
        file = "CONFIG" if command.config_is_argument else f"{file_flag} FILE"
        config = f"\nA configuration is {file} and any --table.key value; see --config-help."
    parser = _new_parser(command.prog, command.summary + config, f"example:\n  {command.example}")
    if command.config_is_argument:
        parser.add_argument("config", metavar="CONFIG", help="TOML file, such as train_configs/demo.toml")
    for argument in command.arguments:
        argument.add_to(parser)
    if not command.takes_config:
        return parser.parse_args(words)
    parser.add_argument("--config-help", action=_ConfigHelp, help="print every table and key, and exit")
    args, args.config_words = parser.parse_known_args(words)
    if command.config_is_argument:
        args.config_words = [file_flag, args.config, *args.config_words]
    return args


def find_command(words: list[str]) -> tuple[Command, list[str]]:
    """The command that `words` begin with, and the words after it; prints an overview or an error and exits if none."""
    for count in (2, 1):
        name, rest = " ".join(words[:count]), words[count:]
        for command in COMMANDS:
            if name == command.full_name():
                return command, rest
            if command.old_name and name == command.full_name(command.old_name):
                note = f'"{name}" is now called "{command.full_name()}"; the old name will be removed'
                print(f"titan-speech: {note}", file=sys.stderr)
                return command, rest
    parser = _overview()
    if meant := _meant_command(words):
        typed = " ".join(words[: 2 if words[0] in GROUPS else 1])
        parser.error(f"found no command {typed!r}; did you mean titan-speech {meant}? titan-speech --help lists all")
    parser.parse_args(words)
    parser.error("expected the name of a command first")


def _meant_command(words: Sequence[str]) -> str | None:
    """The command or group that a mistyped name is nearest to, if any."""
    in_group = bool(words) and words[0] in GROUPS
    [typed] = words[in_group : in_group + 1] or [""]
    names = {command.name: command.full_name() for command in COMMANDS if not in_group or command.group == words[0]}
    if not in_group:
        names |= {group: group for group in GROUPS}
    near = difflib.get_close_matches(typed, names, n=1, cutoff=_NAME_CUTOFF)
    return names[near[0]] if near else None


def _overview() -> argparse.ArgumentParser:
    """The parser of words that name no command: help for all commands and for each group, or what was expected."""
    by_name = {command.full_name(): command for command in COMMANDS}
    first = _examples(by_name[name] for name in FIRST_EXAMPLES)
    parser = _new_parser(
        "titan-speech",
        "Train speech language models; prepare, check and inspect what a run reads and writes.",
        f"{first}\n\ntitan-speech <command> --help shows the options of a command, and an example.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    choices = parser.add_subparsers(metavar="<command>", required=True)
    for group, summary in GROUPS.items():
        commands = [command for command in COMMANDS if command.group == group]
        inner = choices.add_parser(group, help=summary, **_layout(summary, _examples(commands)))
        inner_choices = inner.add_subparsers(metavar="<command>", required=True)
        for command in commands:
            inner_choices.add_parser(command.name, help=command.summary)
    for command in COMMANDS:
        if command.group is None:
            choices.add_parser(command.name, help=command.summary)
    return parser


def _new_parser(prog: str, description: str, epilog: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(prog=prog, **_layout(description, epilog))


def _layout(description: str, epilog: str) -> dict[str, Any]:
    return {
        "description": description,
        "epilog": epilog,
        "formatter_class": argparse.RawDescriptionHelpFormatter,
        "allow_abbrev": False,
    }


def _examples(commands: Iterable[Command]) -> str:
    return "examples:\n" + "\n".join(f"  {command.example}" for command in commands)


class _ConfigHelp(argparse.Action):
    """Prints the help of the configuration and exits."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str | None = None) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from titan_speech.config.help import help_text

        sys.stdout.write(help_text())
        parser.exit()


class _Terminated(KeyboardInterrupt):
    """The process received SIGTERM."""


@contextmanager
def _sigterm_as_exception() -> Iterator[None]:
    """SIGTERM ends a command as Ctrl-C does, so that half-written files are removed. Forked children die of it."""
    process_id = os.getpid()

    def end(number: int, _: FrameType | None) -> None:
        if os.getpid() != process_id:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        raise _Terminated

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    sys.exit(main())
