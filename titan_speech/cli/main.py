"""What `titan-speech` can do: one row of `VERBS` for each command, one file for each room of commands.

In: parsed arguments. Out: an exit code, and text on stdout. A verb names what it takes, an example, and one
function that hands over to its room.

`titan-speech [ROOM] VERB ...`: one command line over all rooms.

In: words. Out: text on stdout and an exit code: 0 done, 1 looked and found wrong (`store verify`), 2 bad
input, told in one message on stderr without a traceback. `--help` answers in under 0.2 s. What there is to do
stands in `verbs/`.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from types import FrameType

from titan_speech import __version__
from titan_speech.cli import checkpoint, config, data, estimate, generate, model, store, text
from titan_speech.cli.command import EXIT_BAD_INPUT, EXIT_DONE, EXIT_INTERRUPTED, EXIT_TERMINATED, Command, new_parser
from titan_speech.errors import TitanSpeechError

COMMANDS = (
    *checkpoint.COMMANDS,
    *config.COMMANDS,
    *data.COMMANDS,
    *model.COMMANDS,
    *estimate.COMMANDS,
    *generate.COMMANDS,
    *store.COMMANDS,
    *text.COMMANDS,
)
GROUPS = {
    "checkpoint": "Checkpoints of a run: looked at, verified, compared, pinned, moved.",
    "config": "What a run is told to do.",
    "data": "What a run reads, and in which order.",
    "model": "Backbones in, checkpoints out.",
    "store": "Token stores on disk.",
    "text": "Documents on their way into a token store.",
}


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(
        prog="titan-speech",
        description="Look at and check what a training run reads. Training itself is titan_speech.train.",
        epilog=_examples(COMMANDS),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=__version__)
    rooms = parser.add_subparsers(metavar="ROOM", required=True)
    for room, summary in GROUPS.items():
        verbs = [verb for verb in COMMANDS if verb.room == room]
        inner = rooms.add_parser(
            room,
            help=summary,
            description=summary,
            epilog=_examples(verbs),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        choices = inner.add_subparsers(metavar="VERB", required=True)
        for verb in verbs:
            _add_verb(partial(choices.add_parser, verb.name), verb)
    for verb in COMMANDS:
        if verb.room is None:
            _add_verb(partial(rooms.add_parser, verb.name), verb)
    return parser


def _add_verb(add_parser: Callable[..., argparse.ArgumentParser], verb: Command) -> None:
    parser = new_parser(add_parser, verb, help=verb.summary, add_help=not verb.is_deferred)
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


def _examples(verbs: Sequence[Command]) -> str:
    return "examples:\n" + "\n".join(f"  {verb.example}" for verb in verbs)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; the exit code."""
    args, words = build_parser().parse_known_args(argv)
    verb: Command = args.verb
    if words and not (verb.takes_config or verb.is_deferred):
        args.parser.error(f"unrecognized arguments: {' '.join(words)}")
    try:
        with _heard_sigterm():
            code = verb.run(args, words)
        sys.stdout.flush()
        return code
    except TitanSpeechError as error:
        print(f"{verb.prog}: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_DONE
    except _Terminated:
        return EXIT_TERMINATED
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


class _Terminated(KeyboardInterrupt):
    """SIGTERM has come."""


@contextmanager
def _heard_sigterm() -> Iterator[None]:
    """SIGTERM ends a verb as Ctrl-C does: what is half-written is cleared away. It says nothing to forked children."""
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
